"""A world of `model.worlds` as rows of the warehouse's logs, so that a study's world can go through the whole night.

Reads and writes nothing; knows no Spark. Four days, up to the day asked for: D-3 what every user of a recommendation example had done before,
D-2 the answers of the training examples, D-1 of the validation, D of the test examples. A search example is the one search of a user who does
nothing else. With the default split (a day to choose, a day to judge) the night of D so has every example where the world has it, and no
other, if no corpora are built of D-3, whose rows are histories alone:

    ingest --date D-3 --allow-empty     ingest and build_corpora --date D-2, then D-1     run --date D --set recommend.exclude_seen=false

An answer may stand in its own history; without that setting the trainer leaves such examples out.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import numpy as np

from jobs.errors import BadArgument
from jobs.sections import Simulate
from model import worlds
from model.worlds import Log, Side, World

SPLITS = {"train": 2, "valid": 1, "test": 0}  # days before D
HISTORIES = 3
NOON = timedelta(hours=12)  # an answer's time of day; earlier actions come a minute apart from midnight on


class Event(NamedTuple):
    """A row of a log as it lies there: the columns that the default `[warehouse]` names, the log it is of, and the day it came."""

    surface: str
    ds: str
    event_id: str
    user_id: str
    item_id: str
    event_ts: str
    action: str
    session_id: str
    ingested_at: str
    query: str | None


def world_of(settings: Simulate) -> World:
    """Raises BadArgument where the clusters do not come out even."""
    sizes = (settings.recommend_examples, settings.search_examples, settings.seed, settings.items)
    if settings.world == "popularity":
        return worlds.popularity(settings.kl, *sizes)
    if settings.items % worlds.CLUSTER:
        raise BadArgument(f"simulate.items = {settings.items}: expected a multiple of {worlds.CLUSTER}, the size of a cluster, in the world 'clusters'")
    return worlds.clusters(settings.alignment, *sizes)


def logs_of(side: Side, seed: int) -> dict[str, Log]:
    """Split → its examples; an answer of the test is drawn once, from the chances that the study sums over."""
    return {"train": side.train, "valid": side.valid, "test": side.tested(seed)}


def events(world: World, day: date, seed: int) -> Iterator[Event]:
    """Every row of both logs, in no order."""
    for split, before in SPLITS.items():
        answered = day - timedelta(days=before)
        log = logs_of(world.recommend, seed)[split]
        for n, (history, target) in enumerate(zip(log.inputs, log.targets, strict=True)):
            for place, item in enumerate(history):
                yield event("recommendation", f"r-{split}-{n}", day - timedelta(days=HISTORIES), timedelta(minutes=place), int(item))
            yield event("recommendation", f"r-{split}-{n}", answered, NOON, int(target))
        log = logs_of(world.search, seed)[split]
        for n, (query, target) in enumerate(zip(log.inputs, log.targets, strict=True)):
            yield event("search", f"s-{split}-{n}", answered, NOON, int(target), text(query))


def event(surface: str, user: str, day: date, at: timedelta, item: int, query: str | None = None) -> Event:
    when = f"{datetime.combine(day, time(), UTC) + at:%Y-%m-%dT%H:%M:%S.000Z}"
    return Event(surface, str(day), f"{user}-{day}-{at // timedelta(minutes=1)}", user, item_id(item), when, "click", f"{user}-{day}", when, query)


def text(words: np.ndarray) -> str:
    return " ".join(f"word{word}" for word in words)


def item_id(item: int) -> str:
    return f"item{item}"


def catalogue(world: World) -> list[tuple[str, str, str, list[str], bool]]:
    """(item_id, title, text, categories, is_available): the text tells nothing but the item's name, as in the world."""
    return [(item_id(item), f"Item {item}", "", [], True) for item in range(world.items)]
