"""Requests → ranked items: prompts rendered, sorted by length, answered in batches under the catalogue's trie.

Reads an artifact; knows item_ids, tokens and tasks, but no table. What a worker loads (`load`) and what the trainer validates with.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model import artifact, trie
from model.decode import Constraint, Decoder, beam_search
from model.tasks import SOURCES, answerable, start
from model.vocabulary import PAD, Vocabulary

Answer = tuple[np.ndarray, np.ndarray]
NOTHING: Answer = (np.empty(0, np.int64), np.empty(0, np.float64))
BATCH_CELLS = 1 << 24  # scores held at once by a decoding step (floats): 64 MiB


class Ranker:
    """weights: T5 names → tensors. config: as `artifact.save` stores it. item_ids: catalogue order, the row of an item is its index."""

    def __init__(self, weights: Mapping[str, Tensor], vocabulary: Vocabulary, item_ids: Sequence[str], config: Mapping[str, Any], manifest: dict[str, Any]):
        self.vocabulary = vocabulary
        self.item_ids = list(item_ids)
        self.config = config
        self.manifest = manifest
        self.rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.decoder = Decoder({name.removeprefix("t5."): tensor for name, tensor in weights.items()}, config["t5"], vocabulary.text_size)
        self.device = self.decoder.head.device
        self.tries = {view: trie.build(codes) for view, codes in vocabulary.codes.items()}
        self.leaf_of_row = {view: np.argsort(held.items) for view, held in self.tries.items()}
        self.prefixes = {task: vocabulary.task_tokens(task) for task in config["tasks"]}

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
        """One (item rows int64 [n], scores float64 [n]) per request, n ≤ k distinct items, best first; n = 0 where nothing is known.

        histories: oldest first, mappings with `item_id`. queries: text, None for recommend. exclude: item_ids a request must not get.
        allowed: bool [items], who may be answered at all. Raises ValueError for a task that the model was not trained on.
        """
        if task not in self.prefixes:
            raise ValueError(f"task {task!r}: this model was trained on {', '.join(self.prefixes)}")
        history_rows = [[self.rows[act["item_id"]] for act in history if act["item_id"] in self.rows] for history in histories]
        encoded = iter(self.vocabulary.encode([query for query in queries if query], self.config["max_query_tokens"]))
        query_tokens = [next(encoded) if query else [] for query in queries]
        excluded = [[self.rows[item] for item in items if item in self.rows] for items in exclude] if exclude is not None else None
        return self.rank_rows(task, history_rows, query_tokens, k, beams, excluded, allowed)

    def rank_rows(
        self,
        task: str,
        history_rows: Sequence[Sequence[int]],
        query_tokens: Sequence[Sequence[int]],
        k: int,
        beams: int,
        excluded: Sequence[Sequence[int] | np.ndarray] | None = None,
        allowed: np.ndarray | None = None,
    ) -> list[Answer]:
        """The same for histories and exclusions as item rows, and queries as tokens."""
        view = self.vocabulary.view(task)
        held, item_tokens = self.tries[view], self.vocabulary.item_tokens[view]
        if task == "search" and not self.config["history_in_search"]:
            history_rows = [[]] * len(query_tokens)
        limit, render, prefix = self.config["history_length"], SOURCES[task], self.prefixes[task]
        usable = [i for i in range(len(query_tokens)) if answerable(task, len(history_rows[i]), len(query_tokens[i]))]
        histories = {i: item_tokens[np.asarray(history_rows[i], np.int64)] for i in usable}
        sources = {i: render(prefix, histories[i], list(query_tokens[i]), limit) for i in usable}
        usable.sort(key=lambda i: len(sources[i]))
        constraint = self.constraint(view, allowed)
        answers = [NOTHING] * len(query_tokens)
        per_request = max(len(item_tokens) if constraint.depth == 1 else max(beams, k) * max(constraint.widths), sum(self.vocabulary.level_sizes))
        size = max(1, min(256, BATCH_CELLS // per_request))
        for first in range(0, len(usable), size):
            chosen = usable[first : first + size]
            source = pad([sources[i] for i in chosen], self.device)
            begin = torch.from_numpy(np.stack([start(histories[i], item_tokens.shape[1]) for i in chosen])).to(self.device)
            blocked = pad([self.leaf_of_row[view][excluded[i]] for i in chosen], self.device, value=-1) if excluded is not None else None
            leaves, scores = beam_search(self.decoder, constraint, source, begin, k, max(beams, k), blocked)
            items, values = held.items[leaves.cpu().numpy()], scores.double().cpu().numpy()
            for i, row, value in zip(chosen, items, values, strict=True):
                found = np.isfinite(value)
                answers[i] = (row[found], value[found])
        return answers

    def constraint(self, view: str, allowed: np.ndarray | None) -> Constraint:
        held = self.tries[view] if allowed is None else self.tries[view].allow(np.asarray(allowed, dtype=bool))
        return Constraint(held, self.vocabulary.offsets(view).tolist(), self.vocabulary.text_size, str(self.device))


def pad(rows: Sequence[Sequence[int]], device: torch.device, value: int = PAD) -> Tensor:
    """int64 [B, longest], at least one column."""
    padded = np.full((len(rows), max(1, *(len(row) for row in rows))), value, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(device)


@lru_cache(maxsize=2)
def load(path: str, device: str = "cpu") -> Ranker:
    """The artifact's ranker, loaded once per process. Raises ValueError where the artifact is incomplete or was changed."""
    weights, vocabulary, item_ids, config, manifest = artifact.load(Path(path))
    return Ranker({name: tensor.to(device) for name, tensor in weights.items()}, vocabulary, item_ids, config, manifest)
