"""Warehouse logs and catalogue → events, items; what fails a check → quarantine, once, with its reason.     Writes checks too.

Reads the sources of `[warehouse]`. Knows no model and no corpora.

The *drop* of day D is what arrived on D: the files of D where the path has {ds}, else the rows whose ingested_at (or, where the log has none,
whose event) is of D. A run for D judges the drop of D alone. Its accepted rows make the partition D, and join those that earlier and later
drops gave to the days that they are late for: so a day's events are what all drops so far say of it, and a rerun of any day adds nothing
twice and loses nothing. ingested_at lies within the drop: the log's own, or the drop's first moment (or the event, if later).
With `ingest.base_day`, the run for that day judges everything up to it as one drop, into the one partition ds = base_day, which is then
closed: an event of a day up to it that comes later is `late_beyond_window`.
A row of an undivided log that tells no time at all belongs to the first run that sees it.

The first check that a row fails is its reason, in the order of `verdict`; then `bot` and `duplicate`, which need the other rows. Before all of them
stands `erased`: a user who asked to be forgotten (`jobs.erase`).
Nothing is written before the drop is known to be readable and of the expected columns; events and items only after the checks passed.

Shuffles: counts by user and day (bots), events by surface and event_id (duplicates, and against earlier drops), the catalogue by item_id; the join with the
catalogue broadcasts it where it is small. Aggregates on the driver are sources × reasons × days.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from functools import reduce

from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.checks import Check, record
from jobs.config import Config
from jobs.errors import BadArgument, BadData, Transient
from jobs.rows import SURFACES, catalogue_rows, log_rows, payload, verdict
from jobs.sections import Ingest, Source
from jobs.spark import current_version, exists, path_of, read, session
from jobs.tables import ERASURES, EVENTS, ITEMS, QUARANTINE
from jobs.warehouse import Delivery, deliver, first_keys, readable
from jobs.writes import replace

REQUIRED = {"interactions": ("user_id", "item_id", "event_ts"), "searches": ("user_id", "item_id", "event_ts", "query"), "catalogue": ("item_id", "title")}
OPTIONAL = ("event_id", "action", "session_id", "ingested_at", "sequence")
ERASED = "erased"  # the reason of rows of users who asked to be forgotten; it tells nothing of the data's quality
DUPLICATE = "duplicate"
IDENTITY = ("surface", "event_id")  # two logs that count from 1 have the same ids
VOLUME_DAYS = 7  # days that a day's volume is held against

Persist = Callable[[DataFrame], DataFrame]

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str, allow_empty: bool = False) -> dict:
    """Ingest the drop of the day; returns rows per table and quarantined rows per source and reason.

    Raises BadArgument (a day before ingest.base_day), MissingInput (no source at its path), BadData (another schema, an unreadable file,
    EMPTY_INPUT, or a failed check; the events and items are then as they were).
    """
    base = config.ingest.base_day
    if base and day < base:
        raise BadArgument(f"--date {day}: expected {base} or later; history up to ingest.base_day = {base} is loaded by the run of that day")
    spark = session(config)
    begun = current_version(spark, config, EVENTS)
    with readable(), persisting() as persist:
        deliveries = open_sources(spark, config, day, allow_empty)
        versions = {name: delivery.version for name, delivery in deliveries.items() if delivery.version is not None}
        items = persist(judge_catalogue(deliveries.pop("catalogue").rows, config.ingest))
        rows_in = {"catalogue": items.count()}  # first: how large it is, decides how the logs are joined with it
        alone = judge_alone(arrivals(config, day, deliveries), items, config.ingest, day, erased(spark, config))
        arrived = unseen(spark, config, day, persist(alone))
        rows_in |= {row["source"]: row["count"] for row in arrived.groupBy("source").count().collect()}
        refuse_empty(rows_in, deliveries, day, allow_empty)
        judged = persist(judge(arrived, earlier_ids(spark, config, day), config.ingest))
        outcome = tally(judged, items)
        refuse_missing_column(spark, config, day, outcome, rows_in)
        bad = quarantine_rows(judged.unionByName(items, allowMissingColumns=True), day, run_id)
        quarantined = replace(spark, config, QUARANTINE, day, bad, run_id, allow_empty=True, held=True)["rows"]
        found = verdicts(config, rows_in, outcome, versions) + volumes(spark, config, day, outcome, rows_in)
        record(spark, config, "ingest", day, found, run_id)
        days = accepted_days(outcome, day, allow_empty)
        written = {"quarantine": quarantined, "items": replace(spark, config, ITEMS, day, good_items(items, day), run_id, held=True)["rows"]}
        frames = events_of(spark, config, day, days, judged, persist)
        for each, rows in frames.items():
            refuse_overtaken(spark, config, each, begun, run_id)
            replace(spark, config, EVENTS, each, rows, run_id, allow_empty=True, held=True, details={"sources": versions})
        written["events"] = sum(days.values())
    reasons = {f"{source}: {reason}": rows for (source, reason, _), rows in sorted(outcome.items(), key=str) if reason}
    log.info("ingest %s: %s rows in, written %s, refused %s", day, rows_in, written, reasons)
    return {"rows": written, "rows_in": rows_in, "reasons": reasons}


@contextmanager
def persisting() -> Iterator[Persist]:
    """Persists frames until the block ends, however it ends: a frame left in the cache would answer the next run for the same path."""
    kept: list[DataFrame] = []

    def persist(frame: DataFrame) -> DataFrame:
        kept.append(frame.persist())
        return frame

    try:
        yield persist
    finally:
        for frame in kept:
            frame.unpersist()


def sources_of(config: Config) -> dict[str, Source]:
    logs = {"interactions": config.warehouse.interactions, "searches": config.warehouse.searches}
    return {name: source for name, source in logs.items() if source is not None}


def open_sources(spark: SparkSession, config: Config, day: date, allow_empty: bool) -> dict[str, Delivery]:
    """The drop of each log, and the catalogue of the day."""
    whole = day == config.ingest.base_day
    opened = {}
    for name, source in sources_of(config).items():
        required = REQUIRED[name]
        # A log without an event type needs a default; so it is a missing column where neither is there.
        if source.default_action is None and "action" not in source.columns and source.format != "jsonl":
            required += ("action",)
        optional = tuple(column for column in (*OPTIONAL, "query") if column not in required)
        opened[name] = deliver(spark, source, f"warehouse.{name}", required, optional, day, whole=whole, missing_ok=allow_empty)
    optional = ("text", "categories", "is_available")
    opened["catalogue"] = deliver(spark, config.warehouse.catalogue, "warehouse.catalogue", REQUIRED["catalogue"], optional, day)
    return opened


def arrivals(config: Config, day: date, deliveries: dict[str, Delivery]) -> DataFrame:
    """The typed rows of the drop, of all logs (see `log_rows`), and those of no time, which are of any drop."""
    logs = [log_rows(delivery.rows, name, sources_of(config)[name]) for name, delivery in deliveries.items()]
    rows = reduce(DataFrame.unionByName, logs)
    arrival = F.coalesce(F.col("drop"), F.to_date("ingested_at"), F.to_date("event_ts"))
    rows = rows.withColumn("arrival", arrival)
    mine = F.col("arrival") <= F.lit(day) if day == config.ingest.base_day else F.col("arrival") == F.lit(day)
    return rows.where(mine | F.col("arrival").isNull())


def unseen(spark: SparkSession, config: Config, day: date, rows: DataFrame) -> DataFrame:
    """The rows but those of no time that another day's run has judged already."""
    if not exists(spark, config, QUARANTINE):
        return rows
    undated = F.col("arrival").isNull()
    # Counted, as two of them may look the same.
    seen = read(spark, config, QUARANTINE).where(F.col("ds") != F.lit(day)).groupBy("source", "payload_hash").agg(F.count("*").alias("seen"))
    copy = F.row_number().over(Window.partitionBy("source", "payload_hash").orderBy("reason"))
    fresh = rows.where(undated).withColumn("copy", copy).join(seen, ["source", "payload_hash"], "left").where(F.col("copy") > F.coalesce("seen", F.lit(0)))
    return rows.where(~undated).unionByName(fresh.select(*rows.columns))


def earlier_ids(spark: SparkSession, config: Config, day: date) -> DataFrame | None:
    """IDENTITY of the events that earlier drops gave to the days this one may still add to; None where there are none."""
    if day == config.ingest.base_day or not exists(spark, config, EVENTS):
        return None
    return open_days(spark, config, day).where(F.col("ingested_at") < midnight(day)).select(*IDENTITY).distinct().withColumn("told", F.lit(True))


def erased(spark: SparkSession, config: Config) -> DataFrame | None:
    """(user_hash, erased_until) of the users who asked to be forgotten; None where nobody has."""
    if not exists(spark, config, ERASURES):
        return None
    return read(spark, config, ERASURES).groupBy("user_hash").agg(F.max("ds").alias("erased_until"))


def open_days(spark: SparkSession, config: Config, day: date) -> DataFrame:
    """The events, as they are, of the days that the drop of the day may add to."""
    window = F.col("ds").between(F.lit(day - timedelta(days=config.ingest.lookback_days)), F.lit(day))
    base = config.ingest.base_day
    return read(spark, config, EVENTS).where(window if base is None or day == base else window & (F.col("ds") > F.lit(base)))


def midnight(day: date) -> Column:
    return F.lit(day).cast("timestamp")


def judge_alone(arrived: DataFrame, items: DataFrame, limits: Ingest, day: date, erased: DataFrame | None = None) -> DataFrame:
    """Every arrived row with the first check that it fails whatever the other rows are, and its event_id, if need be made of its content."""
    known = items.where("reason IS NULL").select("item_id", F.lit(True).alias("known"))
    rows = arrived.join(known, "item_id", "left").withColumn("reason", verdict(limits, day))
    if erased is not None:
        before = F.coalesce(F.to_date("event_ts") <= F.col("erased_until"), F.lit(True))
        rows = rows.join(F.broadcast(erased), (F.sha2("user_id", 256) == F.col("user_hash")) & before, "left")
        rows = rows.withColumn("reason", F.when(F.col("user_hash").isNotNull(), ERASED).otherwise(F.col("reason")))
    told = ("source", "user_id", "item_id", F.unix_micros("event_ts"), "action", "query", "session_id", "sequence")
    content = F.to_json(F.array(*(F.coalesce(F.col(each).cast("string") if isinstance(each, str) else each.cast("string"), F.lit("")) for each in told)))
    rows = rows.withColumn("event_id", F.coalesce("event_id", F.substring(F.sha2(content, 256), 1, 32)))
    of_no_use = ("known", "malformed", "user_hash", "erased_until", *(name for name in rows.columns if name.startswith("has_")))
    return rows.drop(*of_no_use)


def judge(arrived: DataFrame, earlier: DataFrame | None, limits: Ingest) -> DataFrame:
    """Every row, judged alone, with its reason (null: accepted) and its place: the EVENTS columns, source, payload_hash, payload.

    The outcome does not depend on the order of rows: of one event_id of a surface the earliest (event_ts, ingested_at) wins, then the source's name
    and the row's hash.
    """
    rows = arrived.withColumn("event_day", F.to_date("event_ts"))
    # Broadcast, since a busy day holds more than max_events_per_user_day rows: there are few. A window would move every row.
    busy = rows.where("reason IS NULL").groupBy("user_id", "event_day").count().where(F.col("count") > limits.max_events_per_user_day)
    rows = rows.join(F.broadcast(busy), ["user_id", "event_day"], "left")
    rows = rows.withColumn("reason", F.coalesce("reason", F.when(F.col("count").isNotNull(), "bot")))
    # A row that is refused already does not make a duplicate of another: good ones stand first.
    order = (F.col("reason").isNotNull(), "event_ts", "ingested_at", "source", "payload_hash")
    again = F.row_number().over(Window.partitionBy(*IDENTITY).orderBy(*order)) > 1
    if earlier is not None:
        rows = rows.join(earlier, list(IDENTITY), "left")
        again = again | F.col("told").isNotNull()
    rows = rows.withColumn("reason", F.coalesce("reason", F.when(again, DUPLICATE)))
    place = F.greatest("event_day", F.lit(limits.base_day or date(1970, 1, 1)))
    seen = F.greatest(F.coalesce("ingested_at", "event_ts"), F.col("drop").cast("timestamp"))
    rows = rows.withColumn("payload", F.when(F.col("reason") == ERASED, "{}").when(F.col("reason").isNotNull(), payload())).withColumn(
        "sequence", F.coalesce("sequence", F.lit(0))
    )
    return rows.withColumns({"ds": place, "ingested_at": seen}).select(*EVENTS.names, "source", "reason", "payload", "payload_hash")


def judge_catalogue(rows: DataFrame, limits: Ingest) -> DataFrame:
    """Every catalogue row with its reason (null: accepted): the ITEMS columns but ds, source, payload_hash, payload."""
    rows = catalogue_rows(rows, limits)
    again = F.row_number().over(Window.partitionBy("item_id").orderBy(F.col("reason").isNotNull(), "payload_hash")) > 1
    return rows.withColumn("reason", F.coalesce("reason", F.when(again, DUPLICATE)))


def tally(judged: DataFrame, items: DataFrame) -> dict[tuple[str, str | None, date | None], int]:
    """(source, reason, day where accepted) → rows."""
    counts = judged.groupBy("source", "reason", F.when(F.col("reason").isNull(), F.col("ds")).alias("ds")).count()
    counts = counts.union(items.groupBy("source", "reason").agg(F.lit(None).cast("date"), F.count("*")))
    return {(row["source"], row["reason"], row["ds"]): row["count"] for row in counts.collect()}  # a row per source, reason and open day


def refuse_empty(rows_in: dict[str, int], deliveries: dict[str, Delivery], day: date, allow_empty: bool) -> None:
    empty = [name for name in (*deliveries, "catalogue") if not rows_in.get(name) and (name == "catalogue" or not allow_empty)]
    if empty:
        hint = "" if empty == ["catalogue"] else " (--allow-empty accepts a day without events)"
        raise BadData(f"EMPTY_INPUT: warehouse.{empty[0]} holds no rows for {day}, at least 1 is expected{hint}; nothing was written")


def refuse_missing_column(spark: SparkSession, config: Config, day: date, outcome: dict, rows_in: dict[str, int]) -> None:
    """JSON lines declare no columns: one that every row lacks is a changed schema, not a day of bad rows."""
    for name, source in {**sources_of(config), "catalogue": config.warehouse.catalogue}.items():
        readable_rows = rows_in.get(name, 0) - outcome.get((name, "malformed", None), 0)
        for column in (*REQUIRED[name], "action"):
            if source.format == "jsonl" and readable_rows and outcome.get((name, f"missing {column}", None)) == readable_rows:
                their, keys = source.columns.get(column, column), first_keys(spark, source, day)
                told = f"expected column {their!r} (our {column}), found it in none of {readable_rows} rows, which hold {keys}"
                raise BadData(f"warehouse.{name}: {told}; nothing was written")


def quarantine_rows(judged: DataFrame, day: date, run_id: str) -> DataFrame:
    bad = judged.where("reason IS NOT NULL")
    return bad.select(F.lit(day).alias("ds"), "source", "reason", "payload", "payload_hash", F.lit(run_id).alias("run_id"))


def good_items(items: DataFrame, day: date) -> DataFrame:
    return items.where("reason IS NULL").withColumn("ds", F.lit(day)).select(*ITEMS.names)


def verdicts(config: Config, rows_in: dict[str, int], outcome: dict, versions: dict[str, int]) -> list[Check]:
    """Counts, conservation and quarantine share of each source. A log that tells a row again is no worse for it: duplicates are counted apart."""
    limits, found = config.ingest, []
    for name in (*sources_of(config), "catalogue"):
        of = {key: rows for key, rows in outcome.items() if key[0] == name}
        came, out = rows_in.get(name, 0), sum(rows for key, rows in of.items() if key[1] is None)
        bad, late = sum(of.values()) - out, of.get((name, "late_beyond_window", None), 0)
        again = of.get((name, DUPLICATE, None), 0) if name != "catalogue" else 0  # of two rows of an item one may be wrong
        share = (bad - of.get((name, ERASED, None), 0) - again) / came if came else 0.0
        counts = {"rows_in": came, "rows_out": out, "rows_quarantined": bad, "late_beyond_window": late}
        counts |= {"delta_version": versions[name]} if name in versions else {}
        found += [Check(f"{name}.{what}", "info", float(value), None, True) for what, value in counts.items()]
        found += [
            Check(f"{name}.conservation", "fail", float(came - out - bad), 0.0, came == out + bad),
            Check(f"{name}.quarantine_share", "fail", share, limits.max_quarantine_share, share <= limits.max_quarantine_share),
            Check(f"{name}.quarantine_share_warning", "warn", share, limits.warn_quarantine_share, share <= limits.warn_quarantine_share),
            Check(f"{name}.duplicate_share", "info", again / came if came else 0.0, None, True),
        ]
    return found


def volumes(spark: SparkSession, config: Config, day: date, outcome: dict, rows_in: dict[str, int]) -> list[Check]:
    """Each log's rows of the day against the median of the last seven days; none before there are seven, nor for a day accepted as empty."""
    if not exists(spark, config, EVENTS) or day == config.ingest.base_day:
        return []
    since = max(day - timedelta(days=28), config.ingest.base_day or date.min)  # gaps are allowed, a year of partitions need not be counted
    past = read(spark, config, EVENTS).where((F.col("ds") > F.lit(since)) & (F.col("ds") < F.lit(day))).groupBy("ds", "surface").count().collect()
    found = []
    for name in sources_of(config):
        counts = [row["count"] for row in sorted(past, key=lambda row: row["ds"]) if row["surface"] == SURFACES[name]][-VOLUME_DAYS:]
        if len(counts) == VOLUME_DAYS and rows_in.get(name):
            change = abs(outcome.get((name, None, day), 0) / sorted(counts)[VOLUME_DAYS // 2] - 1)
            found.append(Check(f"{name}.volume_change", "fail", change, config.ingest.max_volume_change, change <= config.ingest.max_volume_change))
    return found


def accepted_days(outcome: dict, day: date, allow_empty: bool) -> dict[date, int]:
    """Day → accepted rows of the drop, the day itself among them."""
    days = {day: 0}
    for (_, reason, each), rows in outcome.items():
        if reason is None and each is not None:
            days[each] = days.get(each, 0) + rows
    if not days[day] and not allow_empty:
        raise BadData(f"EMPTY_INPUT: no event of {day} was accepted; events and items are left as they are (--allow-empty to empty the day)")
    return days


def refuse_overtaken(spark: SparkSession, config: Config, day: date, begun: int | None, run_id: str) -> None:
    """Raises Transient where another run has written the day since this one began: its rows are not among those that would replace the day's."""
    if begun is None and not exists(spark, config, EVENTS):
        return
    told = DeltaTable.forPath(spark, path_of(config, EVENTS)).history()
    of = {name: F.get_json_object("userMetadata", f"$.{name}") for name in ("ds", "run_id")}
    since = F.col("version") > F.lit(-1 if begun is None else begun)
    if not told.where(since & (of["ds"] == day.isoformat()) & (of["run_id"] != run_id)).isEmpty():
        raise Transient(f"another run has written the events of {day} since this one began; those are left as they are; retry")


def events_of(spark: SparkSession, config: Config, day: date, days: Iterable[date], judged: DataFrame, persist: Persist) -> dict[date, DataFrame]:
    """Day → all its events, now that the drop is judged: of the day, and of each open day that the drop adds to (or no longer does)."""
    frame = accepted = judged.where("reason IS NULL").select(*EVENTS.names)
    touched = set(days)
    if day != config.ingest.base_day and exists(spark, config, EVENTS):
        mine = (F.col("ingested_at") >= midnight(day)) & (F.col("ingested_at") < midnight(day + timedelta(days=1)))
        now = open_days(spark, config, day)
        touched |= {row["ds"] for row in now.where(mine).select("ds").distinct().collect()}
        # A row that a later drop gave stays, unless this drop has it too: first come, first kept.
        others = now.where(~mine).join(accepted.select(*IDENTITY), list(IDENTITY), "left_anti")
        frame = persist(accepted.union(others.select(*EVENTS.names)))
    return {each: frame.where(F.col("ds") == F.lit(each)) for each in sorted(touched)}
