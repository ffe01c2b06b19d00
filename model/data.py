"""corpora at a pinned Delta version → integer arrays → batches.

Reads Delta without a JVM (deltalake, pyarrow). Examples are held as ragged arrays, ~150 bytes each; prompts are rendered when a
batch is made, so one corpora build serves every recipe and new identifiers need no Spark rerun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from model.prompts import Ask, Phrasing, padded
from model.vocabulary import Vocabulary

Mixing = str | float | Mapping[str, float]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Ragged":
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[source], offsets)


@dataclass(frozen=True)
class Searched:
    """Which actions of a history were searches. number: row by row as the history, the row of `queries`, or -1 off the search surface. queries: text tokens."""

    number: Ragged
    queries: Ragged

    def of(self, row: int) -> list[list[int] | None]:
        return [self.queries[number].tolist() if number >= 0 else None for number in self.number[row].tolist()]


@dataclass(frozen=True)
class Examples:
    """task: index into tasks, int8 [n]. history: item rows, oldest first. query: text tokens of the query, or of the item. target: item row, int64 [n].

    at: time of the target, datetime64[us] [n]. user: int64 [n], numbered within the table that was read; -1 for nobody's. searched: None where the phrasing
    of the prompts does not read it.
    """

    tasks: tuple[str, ...]
    task: np.ndarray
    history: Ragged
    query: Ragged
    target: np.ndarray
    at: np.ndarray
    user: np.ndarray
    searched: Searched | None = None

    def __len__(self) -> int:
        return len(self.task)

    @property
    def repeats(self) -> np.ndarray:
        """bool [n]: whether the target stands in the history."""
        owner = np.repeat(np.arange(len(self)), self.history.lengths)
        return np.bincount(owner, weights=self.history.values == self.target[owner], minlength=len(self)) > 0

    def take(self, rows: np.ndarray) -> "Examples":
        searched = Searched(self.searched.number.take(rows), self.searched.queries) if self.searched else None
        return Examples(
            self.tasks, self.task[rows], self.history.take(rows), self.query.take(rows), self.target[rows], self.at[rows], self.user[rows], searched
        )

    def ask(self, row: int) -> Ask:
        searched = self.searched.of(row) if self.searched else ()
        return Ask(self.tasks[self.task[row]], self.history[row], searched, self.query[row].tolist(), int(self.target[row]))


def newest(histories: Ragged, limit: int) -> np.ndarray:
    """int64 [R, limit]: each history's distinct items, the newest first, -1 behind them. An item counts once, where it stood last."""
    rows = np.full((len(histories), limit), -1, dtype=np.int64)
    for i in range(len(histories)):
        distinct = list(dict.fromkeys(histories[i][::-1].tolist()))[:limit]
        rows[i, : len(distinct)] = distinct
    return rows


def read_table(path: str, version: int | None, columns: Sequence[str], day: date | None = None, until: date | None = None) -> pa.Table:
    """Columns of a Delta table at a version: all of it, or its day, or its days up to one."""
    # Large: histories of three million rows hold more than the 2 GiB that 32-bit offsets can tell apart.
    dataset = DeltaTable(path, version=version).to_pyarrow_dataset(as_large_types=True)
    condition = pc.field("ds") == day if day else (pc.field("ds") <= until if until else None)
    return dataset.to_table(columns=list(columns), filter=condition)


def read_identifiers(path: str, version: int | None, day: date, scheme: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """item_ids in the order of their codes (those of the first view), and view → codes int32 [items, levels].

    Raises ValueError where the day holds none of the scheme, or where an item lacks the codes of a view.
    """
    table = read_table(path, version, ["item_id", "scheme", "view", "codes"], day=day)
    table = table.filter(pc.field("scheme") == scheme)
    if not len(table):
        raise ValueError(f"item_identifiers has no rows of scheme {scheme!r} for {day}: run assign_identifiers for the day")
    views = sorted(set(table["view"].to_pylist()))
    parts = [table.filter(pc.field("view") == view).sort_by("item_id") for view in views]
    if any(part["item_id"] != parts[0]["item_id"] for part in parts):
        raise ValueError(f"item_identifiers names other items in each of {', '.join(views)} for {day}: run assign_identifiers for the day")
    codes = [np.stack(part["codes"].to_numpy(zero_copy_only=False)).astype(np.int32) for part in parts]
    order = np.lexsort(codes[0].T[::-1])
    return parts[0]["item_id"].take(pa.array(order)).to_pylist(), {view: held[order] for view, held in zip(views, codes, strict=True)}


def times_of(table: pa.Table) -> np.ndarray:
    return table["event_ts"].cast(pa.timestamp("us", tz="UTC")).to_numpy().astype("datetime64[us]")


def split_of(table: pa.Table, valid_from: datetime, test_from: datetime) -> np.ndarray:
    """train, valid or test of each row: the stored label, or event_ts against the night's bounds where it says by_time."""
    stored = table["split"].to_numpy(zero_copy_only=False).astype(str)
    times = times_of(table)
    bounds = [np.datetime64(bound.replace(tzinfo=None), "us") for bound in (valid_from, test_from)]
    by_time = np.select([times < bounds[0], times < bounds[1]], ["train", "valid"], "test")
    return np.where(stored == "by_time", by_time, stored)


def encode(table: pa.Table, tasks: tuple[str, ...], item_ids: Sequence[str], vocabulary: Vocabulary, max_query_tokens: int, phrasing: Phrasing) -> Examples:
    """Rows of corpora as integers. Rows whose target has no identifier, or that hold nothing to go by, are left out."""
    examples = as_integers(table, tasks, item_ids, vocabulary, max_query_tokens, phrasing.reads_queries)
    held = zip(examples.task.tolist(), examples.history.lengths.tolist(), examples.query.lengths.tolist(), strict=True)
    usable = np.fromiter((t >= 0 and phrasing.answerable(tasks[t], *lengths) for t, *lengths in held), dtype=bool, count=len(examples))
    return examples.take(np.flatnonzero(usable & (examples.target >= 0)))


def as_integers(table: pa.Table, tasks: tuple[str, ...], item_ids: Sequence[str], vocabulary: Vocabulary, limit: int, queries: bool) -> Examples:
    """Every row, -1 for a task or a target that is not known. limit: tokens of a query. queries: with those of the history."""
    known = pa.array(item_ids, table["target_item_id"].type)
    target = pc.fill_null(pc.index_in(table["target_item_id"], value_set=known), -1).to_numpy().astype(np.int64)
    task = pc.fill_null(pc.index_in(table["task"], value_set=pa.array(tasks, table["task"].type)), -1).to_numpy().astype(np.int8)
    actions = table["history"].combine_chunks()
    history, places = encode_history(actions, known)
    searched = None
    if queries:
        asked = pc.struct_field(actions.flatten(), "query").take(pa.array(places))
        distinct = asked.dictionary_encode()
        tokens = vocabulary.encode(distinct.dictionary.to_pylist(), limit)
        number = pc.fill_null(distinct.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
        searched = Searched(Ragged(number, history.offsets), ragged(tokens))
    user = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return Examples(tasks, task, history, encode_queries(table["query"].combine_chunks(), vocabulary, limit), target, times_of(table), user, searched)


def encode_history(history: pa.Array, known: pa.Array) -> tuple[Ragged, np.ndarray]:
    """Item rows, those of unknown items left out; and the places of those kept among all actions, int64 [kept]."""
    items = pc.struct_field(history.flatten(), "item_id")
    values = pc.fill_null(pc.index_in(items, value_set=known), -1).to_numpy().astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(history), 0).to_numpy())]).astype(np.int64)
    kept = values >= 0
    return Ragged(values[kept], np.concatenate([[0], np.cumsum(kept)])[offsets]), np.flatnonzero(kept)


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    return Ragged(np.asarray([value for row in rows for value in row], np.int32), np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]))


def encode_queries(query: pa.Array, vocabulary: Vocabulary, limit: int) -> Ragged:
    distinct = query.dictionary_encode()
    tokens = vocabulary.encode(distinct.dictionary.to_pylist(), limit)
    # One more, empty, text stands for null.
    return ragged([*tokens, []]).take(pc.fill_null(distinct.indices, len(tokens)).to_numpy())


def chances(examples: Examples, half_life_days: float) -> np.ndarray:
    """float64 [n]: the chance that an epoch draws the example, halved with every half-life that it is older than the latest one; 1 for a half-life of 0.

    On a log of many years the popularity of old years is the most there is to learn, and wrong.
    """
    if not half_life_days:
        return np.ones(len(examples))
    age = (examples.at.max() - examples.at) / np.timedelta64(1, "D")
    return 0.5 ** (age / half_life_days)


def capped(examples: Examples, most: Mapping[str, int], seed: int) -> Examples:
    """At most so many examples per target item of each task named (Penha et al. 2024, section 7); which ones is drawn, not chosen by age."""
    order = np.random.default_rng((seed, 2)).permutation(len(examples))
    kept = np.ones(len(examples), dtype=bool)
    for task, limit in most.items():
        rows = order[examples.task[order] == examples.tasks.index(task)] if task in examples.tasks else order[:0]
        by_item = rows[np.argsort(examples.target[rows], kind="stable")]
        items = examples.target[by_item]
        kept[by_item[np.arange(len(items)) - np.searchsorted(items, items) >= limit]] = False
    return examples.take(np.flatnonzero(kept))


def epoch_rows(examples: Examples, mixing: Mixing, rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
    """Which examples an epoch sees, in random order; as many as are drawn, whatever the mixing.

    mixing: the temperature t, by which a task's share is its number of examples to the power 1 / t (Raffel et al. 2020, section 3.5.2);
    "proportional" is 1, each example at most once, and "balanced" is inf. A mapping gives the shares themselves, as weights by task.
    Examples of a task that gets more than it has are repeated.
    """
    drawn = rng.random(len(examples)) < chance
    if isinstance(mixing, Mapping):
        return by_weight(examples, drawn, np.array([mixing.get(task, 0.0) for task in examples.tasks]), rng)
    temperature = {"proportional": 1.0, "balanced": np.inf}.get(mixing, mixing)
    if temperature == 1 or len(examples.tasks) == 1:
        return rng.permutation(np.flatnonzero(drawn))
    held = [np.flatnonzero(drawn & (examples.task == task)) for task in range(len(examples.tasks))]
    return by_weight(examples, drawn, np.array([len(rows) ** (1 / temperature) for rows in held]), rng)


def by_weight(examples: Examples, drawn: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as are drawn (bool [n]), the tasks' shares by weight, float [tasks]; a task that has none gets none."""
    held = [np.flatnonzero(drawn & (examples.task == task)) for task in range(len(examples.tasks))]
    weights = weights * np.array([len(rows) > 0 for rows in held])
    shares = (drawn.sum() * weights / max(weights.sum(), 1e-9)).astype(int)
    chosen = [np.concatenate([rng.permutation(rows) for _ in range(-(-share // len(rows)))])[:share] for rows, share in zip(held, shares, strict=True) if share]
    return rng.permutation(np.concatenate([np.empty(0, np.int64), *chosen]))


def lengths(examples: Examples, per_action: int = 1) -> np.ndarray:
    """What `batches` goes by where no answer is text, int64 [n, 2]: none, and about how many tokens a prompt has. per_action: tokens of an item in it."""
    shows = np.array([task != "search" or examples.searched is not None for task in examples.tasks])  # its history, for sure
    prompts = per_action * examples.history.lengths * shows[examples.task] + examples.query.lengths
    return np.column_stack([np.zeros_like(prompts), prompts])


def batches(examples: Examples, lengths: np.ndarray, batch_size: int, mixing: Mixing, seed: int, epoch: int, chance: np.ndarray) -> list[np.ndarray]:
    """The epoch's batches as row numbers, a pure function of (seed, epoch): rows of like length together, batches in random order.

    lengths: int64 [n, 2], as `Phrasing.lengths` tells them; like ones in the first column stay together before those in the second.
    """
    rng = np.random.default_rng((seed, epoch))
    rows = epoch_rows(examples, mixing, rng, chance)
    made = []
    for first in range(0, len(rows), 50 * batch_size):
        window = rows[first : first + 50 * batch_size]
        window = window[np.lexsort(lengths[window].T[::-1])]
        made += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    order = rng.permutation(len(made))
    return [made[i] for i in order]


def asks(examples: Examples, rows: np.ndarray, personal: np.ndarray) -> list[Ask]:
    """personal: bool [B], whether a search prompt shows the history."""
    made = [examples.ask(row) for row in rows]
    return [ask if ask.task != "search" or shown else ask._replace(items=ask.items[:0], searched=()) for ask, shown in zip(made, personal, strict=True)]


def collate(asks: Sequence[Ask], phrasing: Phrasing, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """source int64 [B, longest], start int64 [B, levels], target int64 [B, longest], padded with PAD.

    draws: int [B], by which a phrasing chooses among its wordings.
    """
    sources, starts, targets = [], [], []
    for ask, draw in zip(asks, draws.tolist(), strict=True):
        sources.append(phrasing.source(ask, draw))
        starts.append(phrasing.start(ask))
        targets.append(phrasing.target(ask, draw))
    return padded(sources), np.stack(starts), padded(targets)
