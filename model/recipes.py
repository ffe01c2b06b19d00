"""A recipe is a row: what a paper chooses.     Stdlib only.

bridge: Penha et al. 2024 (arXiv 2410.16823): one sequence-to-sequence model trained on search and recommendation together; the
three models of the paper, Gen_R, Gen_S and Gen_{R+S}, are this row with other `tasks`.

gensr: Zhao et al. 2025 (arXiv 2504.06714): would this user like this item, is it relevant to this query; it orders what others have found.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    name: str
    tasks: tuple[str, ...]  # keys of `tasks.SOURCES`: what one training example asks
    ranking: str  # generate: beam over the catalogue's trie; rerank: the log-odds of Yes of given candidates


BRIDGE = Recipe("bridge", ("recommend", "search"), "generate")

GENSR = Recipe("gensr", ("recommend", "search"), "rerank")

RECIPES = {recipe.name: recipe for recipe in (BRIDGE, GENSR)}
