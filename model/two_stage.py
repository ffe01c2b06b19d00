"""A night's model of two stages: the candidates of a generative model (bridge, gensar), in the order of gensr.

Answers as `model.rank.Ranker` does, so that no verb needs to know which of the two it has. Reads two artifacts; knows no table.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.artifact import MANIFEST
from model.choice import SCORE
from model.rank import Answer, Ranker
from model.rerank import Answer as Ordered
from model.rerank import Reranker


class TwoStage:
    """depth: candidates that the first stage gives, at least as many as are asked for. weights: task → weight of each of `Scorer.features`, whose score is the
    first stage's; of a task without, the log-odds alone are the order. A number, of earlier artifacts: the log-odds' beside the score."""

    def __init__(self, first: Ranker, second: Reranker, depth: int, weights: Mapping[str, Mapping[str, float] | float]):
        self.first, self.second, self.depth = first, second, depth
        self.weights = {task: {SCORE: 1.0, "odds": each} if isinstance(each, float) else each for task, each in weights.items()}
        self.item_ids = first.item_ids

    def rank(
        self,
        task: str,
        histories: Sequence[Sequence[Mapping[str, Any]]],
        queries: Sequence[str | None],
        k: int,
        beams: int = 20,
        exclude: Sequence[Sequence[str]] | None = None,
        allowed: np.ndarray | None = None,
    ) -> list[Answer]:
        """As `Ranker.rank`; of the scores of `order`."""
        depth = max(self.depth, k)
        found = self.first.rank(task, histories, queries, depth, max(beams, depth), exclude, allowed)
        candidates = [{self.item_ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)} for rows, scores in found]
        told = self.order(task, histories, queries, candidates, k)
        return [(np.array([self.first.rows[item] for item in items], np.int64), scores) for items, scores in told]

    def order(
        self, task: str, histories: Sequence[Sequence[Mapping[str, Any]]], queries: Sequence[str | None], candidates: Sequence[Mapping[str, float]], k: int
    ) -> list[Ordered]:
        """candidates: each request's candidates with the first stage's score. Returns (item_ids, scores), at most `k`, best first: of `Reranker.rank`."""
        return self.second.rank(task, histories, queries, [list(of) for of in candidates], k, candidates, self.weights.get(task))


def first_stage(folder: Path, config: Mapping[str, Any]) -> Path:
    """The folder of the first stage's artifact, beside the second's. Raises ValueError where it is another than the one that was trained with."""
    path = folder.parent / Path(config["candidates"]).name
    manifest = path / MANIFEST
    found = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else "no artifact"
    if found != config["candidates_hash"]:
        raise ValueError(f"{path}: found {found}, expected the first stage with manifest {config['candidates_hash']} that {folder.name} was trained with")
    return path
