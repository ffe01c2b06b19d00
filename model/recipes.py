"""A recipe is a row: what a paper chooses.     Stdlib only.

bridge: Penha et al. 2024 (arXiv 2410.16823): one sequence-to-sequence model trained on search and recommendation together; the
three models of the paper, Gen_R, Gen_S and Gen_{R+S}, are this row with other `tasks`.
gensar: Shi et al. 2025 (arXiv 2504.05730): an identifier per task with a prefix in common, histories of both behaviours, six tasks.
gensr: Zhao et al. 2025 (arXiv 2504.06714): orders the candidates of one of the others (`gensr.candidates_from`) by its answer to a question about each.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    name: str
    tasks: tuple[str, ...]  # what one training example may ask, of which `train.tasks` chooses
    prompts: str  # whose phrasing its prompts and answers have: a key of `model.phrasings.PHRASINGS`
    second_stage: bool = False  # it orders the candidates of another recipe's model
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # section → key → value, where it departs from the configuration's defaults


SERVED = ("recommend", "search")

BRIDGE = Recipe("bridge", (*SERVED, "pseudo_search"), "tasks")

GENSAR = Recipe(
    "gensar",
    (*SERVED, "next_query", "pseudo_search", "text_to_item", "item_to_text"),
    "sentences",
    settings={
        # every_level: the official loss moves the encoders by its first level alone; the first three then use some 40 of 256 codes (README, "gensar's names").
        "identifiers": {"scheme": "semantic", "construction": "dual", "quantizer": "rq_vae", "levels": 4, "shared_levels": 2, "every_level": True},
        "train": {
            "tasks": ["recommend", "search", "next_query", "pseudo_search", "text_to_item", "item_to_text"],
            # Of the paper's launcher: 930,387, 100,000, 1,000, 1,000, 2,000 and 2,000 rows an epoch. On logs of this size a task of a thousandth is
            # never learnt, and search is half of what is served (reference gensar, choice 7).
            "mixing": {"recommend": 1.0, "search": 1.0, "next_query": 0.1, "pseudo_search": 0.1, "text_to_item": 0.1, "item_to_text": 0.1},
            "history_in_search": 1.0,
        },
        "search": {"personalised": True},
    },
)

GENSR = Recipe("gensr", SERVED, "tasks", second_stage=True, settings={"train": {"history_in_search": 1.0}, "search": {"personalised": True}})

RECIPES = {recipe.name: recipe for recipe in (BRIDGE, GENSAR, GENSR)}
