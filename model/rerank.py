"""Requests with candidates → the candidates in order: the second stage of `model.two_stage`.

Knows item_ids, texts and tasks, but no table. `model.rank` answers a request from the whole catalogue, this from what it is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from model import choice
from model.questions import Form, Prompts
from model.score import Scorer
from model.vocabulary import Vocabulary

DECIMALS = 4  # what fp32 tells of a log-odds, whatever else is in its batch: 1.4e-5 apart were seen

Answer = tuple[list[str], np.ndarray]


class Reranker:
    """weights: as `GenSR.kept` gives them. config, vocabulary, item_ids: as `artifact.save` stores them."""

    def __init__(self, weights: Mapping[str, Tensor], vocabulary: Vocabulary, item_ids: Sequence[str], config: Mapping[str, Any]):
        self.vocabulary = vocabulary
        self.rows = {item_id: row for row, item_id in enumerate(item_ids)}
        form = Form(**{**config["form"], "views": tuple(config["form"]["views"])})
        self.longest = config["max_query_tokens"]
        self.scorer = Scorer(weights, config, Prompts(vocabulary, form, self.longest))

    def rank(
        self,
        task: str,
        histories: Sequence[Sequence[Mapping[str, Any]]],
        queries: Sequence[str | None],
        candidates: Sequence[Sequence[str]],
        k: int,
        begun: Sequence[Mapping[str, float]] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> list[Answer]:
        """Each request's (item_ids, scores float64), at most `k`, best first. A score is the log-odds; with `begun`, the scores that the candidates came with,
        and `weights`, the utility that these give to `Scorer.features`.

        histories: oldest first, mappings with `item_id`. queries: text, None for recommend. candidates: item_ids, known to the model or not; one that comes
        twice is one candidate.

        The order is of the scores to DECIMALS decimals, and of the item_ids where these are equal: neither the order in which the candidates came nor what
        is answered beside them has a say.
        """
        asked = [sorted(set(items)) for items in candidates]
        encoded = self.vocabulary.encode([query or "" for query in queries], self.longest)
        seen = [[self.rows[act["item_id"]] for act in history if act["item_id"] in self.rows] for history in histories]
        numbers = [[self.rows.get(item, -1) for item in items] for items in asked]
        if begun is None or weights is None:
            scores = self.scorer.score(task, seen, encoded, numbers)
        else:
            names, before = self.scorer.feature_names(task), [[of[item] for item in items] for of, items in zip(begun, asked, strict=True)]
            scores = [choice.utility(weights, names, of) for of in self.scorer.features(task, seen, encoded, numbers, before)]
        return [best(items, found, k) for items, found in zip(asked, scores, strict=True)]


def best(items: Sequence[str], scores: np.ndarray, k: int) -> Answer:
    """items: in the order that decides between equal scores."""
    told = np.round(scores, DECIMALS)
    order = np.argsort(-told, kind="stable")[:k]
    return [items[i] for i in order], told[order]
