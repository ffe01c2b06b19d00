"""How many people of late chose an item: by task, and for a query the very same.

Of training examples alone, so that what an answer is worth is learnt where it is not yet counted. A user counts once for an item, and once for it and a query,
at their latest, half as much with every HALF_LIFE days before the newest example; and what fewer than MIN_USERS chose for a query counts as nobody's: one
account would else set the answer to a rare one. A query is held as a number made of its tokens, no text. Knows rows of items and tokens, no table.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from model.data import Examples, Ragged, ragged
from model.recipes import SERVED

PREFIX = "popularity."  # of the tensors in an artifact
NAMES = ("popularity", "popularity for the query")  # of the features
HALF_LIFE = 30.0  # days; amazon_toys, NDCG@10 of 2,000 test searches: 7 .192, 30 .198, 90 .197, 180 .194, all alike .184; without .184
LEAST = 0.01  # a user counts at least, else not at all: 200 days
MIN_USERS = 2  # of an item for a query
LITTLE = 0.1  # users; what nobody chose is as if so many had: between .03 and 1 it hardly matters


class Popularity(NamedTuple):
    """chosen: fp32 [tasks of SERVED, items], users. queries: int64 [queries], their `numbers`, rising; query n has the items from first[n] to first[n + 1]
    of items, int32 [pairs], rising, and of users, fp32 [pairs]."""

    chosen: np.ndarray
    queries: np.ndarray
    first: np.ndarray
    items: np.ndarray
    users: np.ndarray

    @classmethod
    def of(cls, examples: Examples, size: int) -> "Popularity":
        """examples: of corpora, whose tasks are SERVED. size: items of the catalogue."""
        age = (examples.at.max() - examples.at) / np.timedelta64(1, "D") if len(examples) else np.empty(0)
        told = {"task": examples.task, "query": numbers(examples.query), "item": examples.target, "user": examples.user, "weight": 0.5 ** (age / HALF_LIFE)}
        lately = pa.table(told).filter(pc.field("weight") >= LEAST)
        of_task, chosen = users(lately, ["task", "item"]), np.zeros((len(SERVED), size), np.float32)
        chosen[of_task["task"], of_task["item"]] = of_task["weight_max_sum"]
        asked = users(lately.filter(pc.field("query") != 0), ["query", "item"]).filter(pc.field("weight_max_count") >= MIN_USERS)
        queries, first = np.unique(asked["query"], return_index=True)
        items, weights = (asked[name].to_numpy() for name in ("item", "weight_max_sum"))
        return cls(chosen, queries, np.append(first, len(asked)), items.astype(np.int32), weights.astype(np.float32))

    @classmethod
    def loaded(cls, weights: Mapping[str, Tensor]) -> "Popularity | None":
        """From what `kept` gave; a model of before has none."""
        return cls(*(weights[PREFIX + name].cpu().numpy() for name in cls._fields)) if f"{PREFIX}chosen" in weights else None

    def kept(self) -> dict[str, Tensor]:
        return {PREFIX + name: torch.from_numpy(part) for name, part in self._asdict().items()}

    def features(self, task: str, queries: Sequence[Sequence[int]], offered: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float64 [items, NAMES] for each request: of each offered item log(1 + users / LITTLE), 0 where nobody is known to have chosen it.

        queries: tokens, none for a request without one. offered: rows of items.
        """
        made = []
        for number, query, rows in zip(numbers(ragged(queries)).tolist(), queries, offered, strict=True):
            chose = np.zeros((len(rows), len(NAMES)))
            chose[:, 0] = self.chosen[SERVED.index(task), rows]
            place = int(np.searchsorted(self.queries, number))
            if len(query) and place < len(self.queries) and self.queries[place] == number:
                held = slice(self.first[place], self.first[place + 1])
                at = np.minimum(np.searchsorted(self.items[held], rows), self.first[place + 1] - self.first[place] - 1)
                chose[:, 1] = np.where(self.items[held][at] == rows, self.users[held][at], 0.0)
            made.append(np.log1p(chose / LITTLE))
        return made


def users(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Each different key, rising, with the sum of its users' weights, of each user the highest, and how many users: weight_max_sum, weight_max_count."""
    once = rows.group_by([*keys, "user"], use_threads=False).aggregate([("weight", "max")])  # threads add up in any order
    return once.group_by(keys, use_threads=False).aggregate([("weight_max", "sum"), ("weight_max", "count")]).sort_by([(key, "ascending") for key in keys])


def numbers(queries: Ragged) -> np.ndarray:
    """int64 [n]: a number of each query's tokens in their order, 0 of none: multilinear hashing (Carter and Wegman 1979), modulo 2^64."""
    lengths = queries.lengths
    odd = np.random.PCG64(0).random_raw(int(lengths.max(initial=0))) | np.uint64(1)  # raw: the same in every release of numpy, as artifacts hold such numbers
    place = np.arange(len(queries.values)) - np.repeat(queries.offsets[:-1], lengths)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((queries.values.astype(np.uint64) + np.uint64(1)) * odd[place])])
    return (sums[queries.offsets[1:]] - sums[queries.offsets[:-1]]).view(np.int64)
