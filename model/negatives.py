"""Wrong candidates: items that were not the answer, drawn by popularity or from what a word search finds.

Pure functions of their arguments, the seed among them: the seed that is stored with a run tells its negatives, none of which is stored itself.

An answer is never among its own negatives, and no item twice where there are others. Whether the history's items may be drawn is the caller's to say: they
may not where the answer cannot stand in the history either (then "is it in the history" would tell the answer), and must be free to where it can.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.data import Ragged

STOP = {"stopwords": "english", "show_progress": False}  # how bm25s cuts texts and queries
TRIES = 8  # rounds of drawing anew what must not be drawn; after them an even draw among what is left decides


def popular(targets: np.ndarray, counts: np.ndarray, per: int, seed: object, barred: Ragged | None = None) -> np.ndarray:
    """int64 [n, per] of item numbers, in proportion to `counts`, float [items], + 1. targets: int [n]. barred: items that row i must not get.

    Raises ValueError where a row has fewer than `per` items left.
    """
    rng, items = np.random.default_rng(seed), len(counts)
    sums = np.cumsum(counts + 1.0)
    drawn = np.searchsorted(sums, rng.random((len(targets), per)) * sums[-1], side="right")
    for _ in range(TRIES):
        wrong = unfit(drawn, targets, barred)
        if not wrong.any():
            return drawn
        drawn[wrong] = np.searchsorted(sums, rng.random(int(wrong.sum())) * sums[-1], side="right")
    for row in np.flatnonzero(unfit(drawn, targets, barred).any(axis=1)):
        left = np.setdiff1d(np.arange(items), [targets[row], *(barred[row] if barred is not None else [])])
        if len(left) < per:
            raise ValueError(f"{per} negatives asked of {len(left)} items: expected a catalogue that is larger, or fewer negatives")
        drawn[row] = rng.choice(left, per, replace=False)
    return drawn


def unfit(drawn: np.ndarray, targets: np.ndarray, barred: Ragged | None) -> np.ndarray:
    """bool [n, per]: what is the row's answer, is barred, or stands further left already."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, axis=1)
    twice = np.zeros(drawn.shape, dtype=bool)
    np.put_along_axis(twice, order, np.concatenate([np.zeros((len(drawn), 1), bool), ordered[:, 1:] == ordered[:, :-1]], axis=1), axis=1)
    wrong = twice | (drawn == targets[:, None])
    if barred is not None:
        span = int(max(drawn.max(initial=0), barred.values.max(initial=0))) + 1
        keys = np.repeat(np.arange(len(barred)), barred.lengths) * span + barred.values
        wrong |= np.isin(np.arange(len(drawn))[:, None] * span + drawn, keys)
    return wrong


def hard(targets: np.ndarray, pools: Ragged, counts: np.ndarray, per: int, seed: object, barred: Ragged | None = None) -> np.ndarray:
    """int64 [n, per]: drawn evenly from row i's pool (what BM25 finds for its query), filled up by popularity where the pool is too small."""
    rng = np.random.default_rng(seed)
    drawn = popular(targets, counts, per, rng, barred)
    for row in range(len(targets)):
        free = np.setdiff1d(pools[row], [targets[row], *(barred[row] if barred is not None else [])])
        chosen = rng.permutation(free)[:per]
        rest = drawn[row][~np.isin(drawn[row], chosen)][: per - len(chosen)]
        drawn[row] = np.concatenate([chosen, rest])
    return drawn


def words_of(texts: Sequence[str]) -> Any:
    """The bm25s index of the texts."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), **STOP), show_progress=False)
    return index


def pools(texts: Sequence[str], queries: Sequence[str], depth: int) -> Ragged:
    """Each query's best items by BM25 (the library bm25s, Lucene's k1 and b), at most `depth`, none of which has no word of it. texts: of the items."""
    import bm25s

    index = words_of(texts)
    distinct = {query: n for n, query in enumerate(dict.fromkeys(filter(None, queries)))}
    if not distinct:
        return Ragged(np.empty(0, np.int64), np.zeros(len(queries) + 1, np.int64))
    found, scores = index.retrieve(bm25s.tokenize(list(distinct), **STOP), k=min(depth, len(texts)), show_progress=False)
    width = np.append((scores > 0).sum(axis=1), 0)  # the last row is for no query at all
    held = Ragged(found[scores > 0].astype(np.int64), np.concatenate([[0], np.cumsum(width)]).astype(np.int64))
    return held.take(np.array([distinct.get(query, len(distinct)) for query in queries], dtype=np.int64))
