"""Word search on Spark workers, by the library bm25s (Lucene's BM25, k1 1.5, b 0.75).     Knows no table, no verb, no day.

    queries.mapInPandas(searcher(index, weight, depth), FOUND)

Words are lower-cased, at least two letters long, without English stop words, and plurals are stripped (`model.plurals`): queries
written in the singular ("toy board game") must find category names in the plural ("Toys & Games").
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pyspark import Broadcast

    Index = tuple[Any, list[str], np.ndarray]

FOUND = "query string, rank int, item_id string, score double"
TRIED = "weight double, gain double, n bigint"


def words(texts: list[str]) -> list[list[str]]:
    import bm25s

    from model.plurals import singular

    stem = lambda found: [singular(word) for word in found]  # noqa: E731
    return bm25s.tokenize(texts, stopwords="english", stemmer=stem, return_ids=False, show_progress=False)


def build(texts: list[str]) -> Any:
    """The index of the texts, in their order."""
    import bm25s

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    return index


def relevance(index: Any, queries: list[str]) -> Iterator[np.ndarray]:
    """BM25 of every item, float64 [items], for each query; zeros where no word of the query is known."""
    size = index.scores["num_docs"]
    for found in words(queries):
        tokens = index.get_tokens_ids(found)
        yield index.get_scores_from_ids(tokens).astype(np.float64) if tokens else np.zeros(size)


def best(scores: np.ndarray, depth: int) -> np.ndarray:
    """Rows of the `depth` highest scores above 0, best first; equal scores in row order."""
    bar = np.partition(scores, -depth)[-depth] if depth < len(scores) else -np.inf
    rows = np.flatnonzero((scores >= bar) & (scores > 0))
    return rows[np.lexsort((rows, -scores[rows]))][:depth]


def searcher(index: "Broadcast[Index]", weight: float, depth: int) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: column query → rows of FOUND by BM25 + weight × popularity.

    `index` is (bm25s index, item ids in its order, popularity float64 [items]).
    """

    def search(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        bm25, item_ids, popularity = index.value
        names = np.asarray(item_ids, dtype=object)
        for frame in frames:
            for query, text_scores in zip(frame["query"], relevance(bm25, frame["query"].tolist()), strict=True):
                scores = text_scores + weight * popularity
                rows = best(scores, depth)
                yield pd.DataFrame({"query": query, "rank": np.arange(1, len(rows) + 1, dtype=np.int32), "item_id": names[rows], "score": scores[rows]})

    return search


def trial(index: "Broadcast[Index]", weights: tuple[float, ...], k: int) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: (query, targets: array<string>, one per example) → rows of TRIED, the summed NDCG@k under each weight."""

    def search(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.metrics import gains

        bm25, item_ids, popularity = index.value
        row_of = {item: row for row, item in enumerate(item_ids)}
        for frame in frames:
            totals, n = np.zeros(len(weights)), 0
            for targets, text_scores in zip(frame["targets"], relevance(bm25, frame["query"].tolist()), strict=True):
                n += len(targets)
                for i, weight in enumerate(weights):
                    place = {row: rank for rank, row in enumerate(best(text_scores + weight * popularity, k), start=1)}
                    ranks = np.array([place.get(row_of.get(target, -1), 0) for target in targets])
                    totals[i] += gains(ranks, k)["ndcg"].sum()
            yield pd.DataFrame({"weight": weights, "gain": totals, "n": n})

    return search
