"""Which items stand near each other in histories: what an item of a history points at (ItemKNN, Sarwar et al. 2001; the closer in a history the more).

Of training examples alone. A training prompt must not be told by its own user what that user did next: users are dealt into FOLDS, and a prompt reads the
lists that were made without its user's fold; answers read those of everybody. A user adds at most 1 to a pair, however often they come back to it, and at
whatever time (`train.half_life_days` is not read here). The rival of this name (`jobs.baselines.itemknn`) is another: in Spark, without folds and without
how close two items came. numpy and scipy; knows numbers of users and of items.
"""

import logging
from typing import NamedTuple

import numpy as np
from scipy import sparse

from model.data import Examples

log = logging.getLogger("tandem.train")
WINDOW = 10  # actions before a target that are near it, and of a request that point: of 50, and of all, no more is found (amazon_beauty, validation)
DECAY = 0.8  # an action counts this much less than the one after it
FOLDS = 4
LATEST = 3_000_000  # examples that are counted, of more the latest: a million take 1.4 GB, and 80 s on a core that others share


class Neighbours(NamedTuple):
    """Lists end to end: everybody's, then those without each fold's users. first: int64 [(1 + FOLDS) * items + 1], where each item's list begins.
    items: int64 [n], who is near, in no order. shares: fp32 [n], how near, up to 1."""

    first: np.ndarray
    items: np.ndarray
    shares: np.ndarray


def neighbours(examples: Examples, size: int, most: int) -> Neighbours:
    """size: items of the catalogue. most: neighbours kept of each, the nearest."""
    if len(examples) > LATEST:
        log.info("neighbours are counted of the latest %d of %d training examples", LATEST, len(examples))
        examples = examples.take(np.sort(np.argsort(examples.at, kind="stable")[-LATEST:]))
    user, low, high, closeness = together(examples, size)
    whose, had = np.divmod(np.unique(np.concatenate([user * size + low, user * size + high])), size)
    counts = [np.bincount(had[whose % FOLDS == fold], minlength=size) for fold in range(FOLDS)]
    sums = [added(low[of], high[of], closeness[of], size) for of in (user % FOLDS == fold for fold in range(FOLDS))]
    lists = []
    for without in (None, *range(FOLDS)):  # the others are added up, not one taken off all: what rounding leaves would tell of it
        others = [fold for fold in range(FOLDS) if fold != without]
        lists.append(nearest(sum((sums[fold] for fold in others), sparse.csr_array((size, size))), sum(counts[fold] for fold in others), most))
    held, items, shares = (np.concatenate(part) for part in zip(*lists, strict=True))
    return Neighbours(np.concatenate([[0], np.cumsum(held)]), items, shares)


def together(examples: Examples, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """user, two items (the lower number first) and how close they came, DECAY^actions between; each pair once per user, where it came closest."""
    ends, lengths, parts = examples.history.offsets[1:], examples.history.lengths, []
    for age in range(WINDOW):
        rows = np.flatnonzero(lengths > age)
        item, target = examples.history.values[ends[rows] - 1 - age].astype(np.int64), examples.target[rows]
        other = item != target
        parts.append((examples.user[rows][other], np.minimum(item, target)[other], np.maximum(item, target)[other], np.full(other.sum(), DECAY**age)))
    user, low, high, closeness = (np.concatenate(part) for part in zip(*parts, strict=True))
    pair = low * size + high
    order = np.lexsort((pair, user))  # stable: of equals the closest, which stands first, stays first
    again = (np.diff(user[order], prepend=-1) == 0) & (np.diff(pair[order], prepend=-1) == 0)
    kept = order[~again]
    return user[kept], low[kept], high[kept], closeness[kept]


def added(low: np.ndarray, high: np.ndarray, closeness: np.ndarray, size: int) -> sparse.csr_array:
    """[size, size]: of each two items the sum over users, both ways round."""
    places = np.concatenate([low, high]), np.concatenate([high, low])
    return sparse.coo_array((np.concatenate([closeness, closeness]), places), shape=(size, size)).tocsr()


def nearest(near: sparse.csr_array, users: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many neighbours each item has, int64 [size]; who, and how near: what was added over the root of both items' users."""
    held = np.diff(near.indptr)
    row = np.repeat(np.arange(len(held)), held)
    share = near.data / np.sqrt(users[row].astype(np.float64) * users[near.indices])
    kept = np.ones(len(row), bool)
    many = np.flatnonzero((held > most)[row])  # few items have so many: only theirs are sorted
    order = many[np.lexsort((near.indices[many], -share[many], row[many]))]
    length = np.where(held > most, held, 0)
    kept[order[np.arange(len(order)) - np.repeat(np.cumsum(length) - length, length) >= most]] = False
    return np.minimum(held, most).astype(np.int64), near.indices[kept].astype(np.int64), share[kept].astype(np.float32)
