"""What a first stage answers to rows of corpora: the wrong items that its second stage will meet, and those that it will order.

Reads the first stage's artifact; knows arrays and Arrow rows, no table.
"""

from typing import Any

import pyarrow as pa
import torch

from model.data import Ragged, ragged
from model.loop import log
from model.rank import load

ROWS = 8192  # answered at a time: histories as Python objects, and how often progress is told

Candidates = tuple[Ragged, list[list[float]]]


class FirstStage:
    """path: of the artifact. item_ids: as the second stage numbers the items. exclude_seen: whether a recommendation may be of the history."""

    def __init__(self, path: str, item_ids: list[str], exclude_seen: bool, device: str):
        self.ranker = load(path, device)
        numbers = {item: n for n, item in enumerate(item_ids)}
        self.numbers = [numbers.get(item, -1) for item in self.ranker.item_ids]
        self.exclude_seen = exclude_seen

    def candidates(self, rows: pa.Table, depth: int, ordered: bool = True) -> Candidates:
        """rows: task, history, query. Of each the first stage's best items, at most `depth`, and its scores of them; an item that the second stage does not
        know is left out. ordered: as `Ranker.rank`."""
        answers: list[tuple[list[int], list[float]]] = []
        for begin in range(0, len(rows), ROWS):
            answers += self.answered(rows.slice(begin, ROWS).select(["task", "history", "query"]).to_pylist(), depth, ordered)
            if len(rows) > ROWS:
                log.info("the first stage has answered %d of %d requests", len(answers), len(rows))
        return ragged([items for items, _ in answers]), [scores for _, scores in answers]

    def answered(self, asked: list[dict[str, Any]], depth: int, ordered: bool) -> list[tuple[list[int], list[float]]]:
        """Of each request its (items, scores), best first."""
        answers: list[tuple[list[int], list[float]]] = [([], []) for _ in asked]
        for task in self.ranker.tasks:
            chosen = [i for i, row in enumerate(asked) if row["task"] == task]
            histories = [asked[i]["history"] for i in chosen]
            seen = [[act["item_id"] for act in history] for history in histories] if task == "recommend" and self.exclude_seen else None
            with torch.autocast(self.ranker.device.type, enabled=False):
                found = self.ranker.rank(task, histories, [asked[i]["query"] for i in chosen], depth, exclude=seen, ordered=ordered)
            for i, (items, scores) in zip(chosen, found, strict=True):
                known = [(self.numbers[item], score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if self.numbers[item] >= 0]
                answers[i] = [item for item, _ in known], [score for _, score in known]
        return answers
