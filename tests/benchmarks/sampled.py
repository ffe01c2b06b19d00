"""1 + 99, as the papers of gensar and gensr judge: a test example's right item among 99 wrong ones. Beside the whole catalogue, never instead.

Recommendation's wrong items are drawn by popularity and are not of the history; a search's are what BM25 finds for its query, filled up by popularity.
Everybody orders the same candidates; of equal scores the right item's counts as the last. Reads corpora and items of a lake, and artifacts.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model import negatives
from model.data import ragged, read_table, split_of
from model.metrics import ndcg_at, recall_at
from model.rank import Ranker, load
from model.two_stage import TwoStage

WRONG = 99
KS = (1, 5, 10)
COLUMNS = ("example_id", "task", "user_id", "history", "query", "target_item_id", "event_ts", "split")

Figures = dict[str, float]


class Requests:
    """Test examples of one task with their candidates: item numbers int64 [n, 100], the right one first."""

    def __init__(self, lake: Path, day: date, bounds: tuple[datetime, datetime], task: str, most: int, seed: int):
        shelf = read_table(str(lake / "items"), None, ["item_id", "text", "is_available"], day=day)
        shelf = shelf.filter(shelf["is_available"]).sort_by("item_id")
        self.task, self.item_ids = task, shelf["item_id"].to_pylist()
        rows = read_table(str(lake / "corpora"), None, COLUMNS, until=day)
        rows = rows.filter(pc.equal(rows["task"], task)).sort_by("example_id")
        split, known = split_of(rows, *bounds), pa.array(self.item_ids)
        targets = pc.fill_null(pc.index_in(rows["target_item_id"], value_set=known), -1).to_numpy().astype(np.int64)
        train = targets[(split == "train") & (targets >= 0)]
        test = np.flatnonzero((split == "test") & (targets >= 0))
        chosen = np.sort(np.random.default_rng(seed).permutation(test)[:most])
        self.counts = np.bincount(train, minlength=len(self.item_ids)).astype(float)
        asked = rows.take(pa.array(chosen))
        self.histories, self.queries = asked["history"].to_pylist(), asked["query"].to_pylist()
        numbers = {item: i for i, item in enumerate(self.item_ids)}
        had = ragged([[numbers[act["item_id"]] for act in history if act["item_id"] in numbers] for history in self.histories])
        right, self.texts = targets[chosen], shelf["text"].to_pylist()
        if task == "recommend":
            wrong = negatives.popular(right, self.counts, WRONG, seed, had)
        else:
            wrong = negatives.hard(right, negatives.pools(self.texts, self.queries, WRONG + 1), self.counts, WRONG, seed)
        self.candidates = np.concatenate([right[:, None], wrong], axis=1)


def by_model(path: Path) -> Callable[[Requests], np.ndarray]:
    def scores(requests: Requests) -> np.ndarray:
        model = load(str(path))
        names = [[requests.item_ids[item] for item in row] for row in requests.candidates]
        if isinstance(model, TwoStage):
            begun = [dict(zip(items, scores.tolist(), strict=True)) for items, scores in restricted(model.first, requests, names)]
            found = model.order(requests.task, requests.histories, requests.queries, begun, WRONG + 1)
        else:
            found = restricted(model, requests, names)
        held = [dict(zip(items, values.tolist(), strict=True)) for items, values in found]
        return np.array([[of.get(name, -np.inf) for name in row] for of, row in zip(held, names, strict=True)])

    return scores


def restricted(model: Ranker, requests: Requests, names: Sequence[Sequence[str]]) -> list[tuple[list[str], np.ndarray]]:
    """As many beams as candidates: exact (reference gensar, 3)."""
    asks = model.asks(requests.task, requests.histories, requests.queries)
    rows = [[model.rows[name] for name in each if name in model.rows] for each in names]
    found = model.rank_asks(requests.task, asks, WRONG + 1, WRONG + 1, candidates=rows)
    return [([model.item_ids[row] for row in items], values) for items, values in found]


def by_popularity(requests: Requests) -> np.ndarray:
    return requests.counts[requests.candidates]


def by_words(requests: Requests) -> np.ndarray:
    """BM25, the library bm25s, as the pools are made."""
    import bm25s

    index = negatives.words_of(requests.texts)
    cut = {query: bm25s.tokenize(query, return_ids=False, **negatives.STOP)[0] for query in set(requests.queries)}
    of_query = {query: index.get_scores_from_ids(index.get_tokens_ids(words)) for query, words in cut.items()}
    return np.stack([of_query[query][row] for query, row in zip(requests.queries, requests.candidates, strict=True)])


def figures(scores: np.ndarray) -> Figures:
    """scores: float [n, 100], the right item's first."""
    ranks = 1 + (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    made = {f"hitrate@{k}": float(recall_at(ranks, k)) for k in KS}
    return made | {f"ndcg@{k}": float(ndcg_at(ranks, k)) for k in KS[1:]}
