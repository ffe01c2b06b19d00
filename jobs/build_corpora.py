"""Turn events into training examples: what a user had done before, and what came next.     Reads events. Writes corpora.

A run writes its own day, and again each earlier day of the lookback window that received late rows on it; the base day, which holds
all history loaded at once, is written by its own run only. A day's rows depend on nothing but the events up to that day that had arrived by the
day of the run.

`build_corpora` moves the events between machines once: ONE shuffle, by user (a test counts the exchanges of the plan). All its windows
lie within a user and are bounded: a user counts with at most `corpora.max_events_per_user` events, a history reaches back at most
`corpora.history_length` instants of at most that many actions.

Does not know: prompts, identifiers, the catalogue, models. Corpora hold item ids and raw text, so one build serves every recipe.
"""

import logging
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.config import Config
from jobs.errors import BadArgument
from jobs.sections import Corpora
from jobs.spark import exists, read, session, settled
from jobs.tables import CORPORA, EVENTS, ITEMS
from jobs.writes import replace

log = logging.getLogger("tandem")

ORDER = ("event_ts", "sequence", "event_id")  # event_id only makes the order of ties the same every time: ties are never each other's past
LABELS = ("train", "valid", "test")
SHOWN = ("item_id", "surface", "action", "query")  # of an event in a history; with event_ts the fields of `tables.ACTION`
HELD_OUT = 4  # a user's held-out targets under leave_one_out: two of each task
CORE_ROUNDS = 50


def build_corpora(events: DataFrame, settings: Corpora) -> DataFrame:
    """Every event's example, as `tables.CORPORA`: the user's latest actions strictly before the event, and the event as target.

    Strictly before means (event_ts, sequence) less: what happened at the very time of the target is not its past. One shuffle.

    Under leave_one_out a history also leaves out what is held out from its reader: a train row shows no valid or test target of the
    other task, a valid row no test target. (Under the time split this holds by itself.)
    """
    depth = settings.history_length + (HELD_OUT if settings.split == "leave_one_out" else 0)
    before = Window.partitionBy("user_id").orderBy("event_ts", "sequence").rowsBetween(-depth, -1)
    examples = (
        instants(label(latest(events, settings.max_events_per_user), settings.split), depth)
        .withColumn("history", F.flatten(F.collect_list("actions").over(before)))
        .withColumn("history", last("history", depth))
        .select("user_id", "event_ts", "history", F.explode("targets").alias("target"))
    )
    split = F.lit("by_time")
    if settings.split == "leave_one_out":
        examples = examples.withColumn("history", F.filter("history", lambda action: action.held_out <= F.col("target.held_out")))
        split = F.element_at(F.array(*map(F.lit, LABELS)), F.col("target.held_out") + 1)
    searched = F.col("target.surface") == "search"
    return examples.select(
        F.when(searched, F.concat(F.lit("search:"), "target.event_id")).otherwise(F.col("target.event_id")).alias("example_id"),
        F.when(searched, "search").otherwise("recommend").alias("task"),
        "user_id",
        F.transform(last("history", settings.history_length), lambda action: action.dropFields("held_out")).alias("history"),
        F.col("target.query").alias("query"),
        F.col("target.item_id").alias("target_item_id"),
        "event_ts",
        split.alias("split"),
        F.col("target.ds").alias("ds"),
    )


def latest_histories(events: DataFrame, settings: Corpora) -> DataFrame:
    """(user_id, history): what `build_corpora` would show of the user to a target after all of these events. One shuffle; no buffer outgrows a history."""
    event = F.struct(*SHOWN, "event_ts")
    newest_first = F.max_by(event, F.struct(*ORDER), settings.history_length)
    return events.groupBy("user_id").agg(F.reverse(newest_first).alias("history"))


def with_split(corpora: DataFrame, settings: Corpora, day: date) -> DataFrame:
    """The corpora as the night of `day` sees them, `split` being train, valid or test.

    Under the time split the event time against the night's bounds decides, and rows after the day are left out; else the stored label stands.
    """
    if settings.split == "leave_one_out":
        return corpora
    valid_from, test_from = settings.bounds(day)
    end = test_from + timedelta(days=settings.test_days)
    split = F.when(F.col("event_ts") < F.lit(valid_from), "train").when(F.col("event_ts") < F.lit(test_from), "valid").otherwise("test")
    return corpora.where(F.col("event_ts") < F.lit(end)).withColumn("split", split)


def latest(events: DataFrame, n: int) -> DataFrame:
    """Each user's latest n events."""
    newest_first = Window.partitionBy("user_id").orderBy(*map(F.desc, ORDER))
    return events.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= n).drop("age")


def label(events: DataFrame, split: str) -> DataFrame:
    """Events and `held_out`, the index in LABELS: per user and surface the last event is 2, the one before it 1, all others 0."""
    if "held_out" in events.columns:  # a core was cut out since: labelled anew, an event that it was counted on would be held out
        return events
    if split == "time":
        return events.withColumn("held_out", F.lit(0))
    newest_first = Window.partitionBy("user_id", "surface").orderBy(*map(F.desc, ORDER))
    return events.withColumn("held_out", F.greatest(F.lit(3) - F.row_number().over(newest_first), F.lit(0)))


def instants(events: DataFrame, depth: int) -> DataFrame:
    """One row per user and instant: its events as `targets`, and as `actions` (the last `depth`) for the histories of later targets."""
    event = F.struct("event_id", "item_id", "surface", "action", "query", "ds", "held_out")
    grouped = events.groupBy("user_id", "event_ts", "sequence").agg(F.sort_array(F.collect_list(event)).alias("targets"))
    ts = F.col("event_ts")
    return grouped.withColumn("actions", F.transform(last("targets", depth), lambda e: as_action(e, ts).withField("held_out", e.held_out)))


def as_action(event: Column, event_ts: Column) -> Column:
    """The fields of `tables.ACTION`."""
    return F.struct(*(event[name].alias(name) for name in SHOWN), event_ts.alias("event_ts"))


def last(array: str, n: int) -> Column:
    """The last n elements of an array column, all where it is shorter (a negative start of slice() would give none)."""
    return F.slice(array, F.greatest(F.size(array) - n, F.lit(0)) + 1, n)


def core(events: DataFrame, training: Column, k: int) -> DataFrame:
    """The events whose user and item both have at least k training events among the users and items that remain.

    Counted on training events only and applied to all. Stops when a round drops nothing, after CORE_ROUNDS rounds at the latest.
    """
    pairs = settled(events.where(training).select("user_id", "item_id"))
    size = pairs.count()
    for _ in range(CORE_ROUNDS):
        for key in ("user_id", "item_id"):
            pairs = pairs.join(pairs.groupBy(key).count().where(F.col("count") >= k).select(key), key, "left_semi")
        pairs = settled(pairs)  # else the plan doubles in every round
        before, size = size, pairs.count()
        if size == before:
            break
    return events.join(pairs.select("user_id"), "user_id", "left_semi").join(pairs.select("item_id"), "item_id", "left_semi")


def of_day(events: DataFrame, settings: Corpora, day: date) -> DataFrame:
    """The day's corpora: all the events of the users who were active on it, up to it, and of those examples the ones of the day."""
    events = events.where(F.col("ds") <= F.lit(day))
    if settings.k_core:
        if settings.split == "time":  # the first night that reads this day trains on events before this instant, the later ones on more
            training = F.col("event_ts") < F.lit(settings.bounds(day)[0])
        else:
            events, training = label(events, settings.split), F.col("held_out") == 0
        events = core(events, training, settings.k_core)
    today = events.where(F.col("ds") == F.lit(day))
    earlier = events.where(F.col("ds") < F.lit(day)).join(today.select("user_id"), "user_id", "left_semi")
    return build_corpora(today.unionByName(earlier), settings).where(F.col("ds") == F.lit(day))


def late_days(events: DataFrame, day: date, first: date) -> list[date]:
    """The days from `first` to the day before `day` that received rows on `day`."""
    late = events.where(F.col("ds").between(F.lit(first), F.lit(day - timedelta(days=1))) & (F.to_date("ingested_at") == F.lit(day)))
    return sorted(row.ds for row in late.select("ds").distinct().collect())  # at most lookback_days rows


def newest(spark: SparkSession, config: Config) -> date | None:
    """The last day that corpora hold."""
    return read(spark, config, CORPORA).agg(F.max("ds").alias("ds")).first().ds if exists(spark, config, CORPORA) else None


def accepted_as_empty(spark: SparkSession, config: Config, events: DataFrame, day: date) -> bool:
    """Whether the day was ingested, which its catalogue tells, and has no event all the same (`ingest --allow-empty`)."""
    if not events.where(F.col("ds") == F.lit(day)).isEmpty() or not exists(spark, config, ITEMS):
        return False
    return not read(spark, config, ITEMS).where(F.col("ds") == F.lit(day)).isEmpty()


def run(config: Config, day: date, run_id: str) -> dict:
    base_day, settings = config.ingest.base_day, config.corpora
    if base_day and day < base_day:
        raise BadArgument(f"--date {day}: expected {base_day} (ingest.base_day) or later; what came before is part of that day's partition")
    spark = session(config)
    # A day is built of what its night could know: what had arrived by then. Nights since have added what came late for it, and so does a rerun.
    known = max(day, newest(spark, config) or day)
    events = read(spark, config, EVENTS, until=day).where(F.to_date("ingested_at") <= F.lit(known))
    if settings.split == "leave_one_out":
        days = [row.ds for row in events.select("ds").distinct().orderBy("ds").limit(2).collect()]
        if len(days) > 1:
            raise BadArgument(
                f"corpora.split = 'leave_one_out': events hold several days ({days[0]}, {days[1]}, …), and each new day would make yesterday's test rows "
                f"training rows; expected one base day (ingest.base_day = the last day, loaded at once), or corpora.split = 'time'"
            )
    first = day - timedelta(days=config.ingest.lookback_days)
    if base_day:
        first = max(first, base_day + timedelta(days=1))
    outcome: dict = {"rows": {}, "written": {}}
    for one in [*late_days(events, day, first), day]:
        done = replace(spark, config, CORPORA, one, of_day(events, settings, one), run_id, allow_empty=accepted_as_empty(spark, config, events, one))
        outcome["rows"][str(one)], outcome["written"][str(one)] = done["rows"], done["written"]
        log.info("corpora %s: %d examples, %d written", one, done["rows"], done["written"])
    return outcome
