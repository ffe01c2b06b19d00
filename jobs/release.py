"""Audit the staged day, publish it, and only then say that it is served: write, audit, publish.

Reads staged_recommendations, staged_search_results (and staged_query_suggestions where `suggest.k` asks for them), items, events, models, releases. Writes
checks (step release), recommendations, search_results, query_suggestions, and last of all one row of releases. Knows not how the rows were made.

Delta has no transaction over two tables. So readers go through `latest`: the newest row of releases names the Delta version of each
published table, and between the two publishes, or after a kill there, they still see the old release whole. A refused audit leaves
the published tables untouched. A night without search results publishes an empty day of them, and its counts say so.

Status: a day older than the served one is `backfilled`: published for analysts, never served. Any other is `released`, and served.
"""

import json
import logging
import math
import statistics
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from delta import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs import mirror
from jobs.checks import Check, record
from jobs.config import Config
from jobs.errors import MissingInput, Transient
from jobs.recommend import events_known
from jobs.served import served_of
from jobs.spark import CODE_VERSION, current_version, exists, path_of, read, session, versions
from jobs.suggest import common
from jobs.tables import (
    CORPORA,
    ERASURES,
    EVENTS,
    ITEM_EMBEDDINGS,
    ITEM_IDENTIFIERS,
    ITEMS,
    MODELS,
    PUBLISHED,
    QUERY_SUGGESTIONS,
    RECOMMENDATIONS,
    RELEASES,
    SEARCH_RESULTS,
    STAGED,
    Table,
)
from jobs.writes import DRY_RUN, WRITTEN, append, conflict_is_transient, create, replace, schema

INPUTS = (EVENTS, ITEMS, CORPORA, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS, MODELS, *STAGED)
STAGED_OF = {published.name: (published, staged) for published, staged in zip(PUBLISHED, STAGED, strict=True)}
WEEK = 7  # releases that the volume is held against
MIN_RELEASES = 3  # a median of fewer is told, not judged
MIN_REQUESTS = 20  # a share of fewer requests is noise: told, not judged

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str) -> dict:
    """Release the day. Returns {"status", "rows": {table: rows}, "written": rows committed}.

    Raises BadData (a failed check; nothing is published), MissingInput (nothing staged), Transient (another run released the same day).
    """
    spark = session(config)
    pinned = versions(spark, config, INPUTS)
    rows = releases(spark, config)
    before = served_of(rows)
    seen = None if DRY_RUN.get() else mirror.aliases(config)
    names = [name for name in STAGED_OF if name != QUERY_SUGGESTIONS.name or config.suggest.k]
    staged = {name: staged_rows(spark, config, name, day, pinned) for name in names}
    items = read(spark, config, ITEMS, at=day, version=pinned.get(ITEMS.name))
    found = {}
    for name, frame in staged.items():
        old = latest(spark, config, STAGED_OF[name][0]) if before and name in json.loads(before.output_versions) else frame.limit(0)
        may = items if name != QUERY_SUGGESTIONS.name else suggestible(config, events_known(spark, config, day), day)
        found[name] = measure(as_answers(frame), may, as_answers(old)).first().asDict()  # one row of counts
        log.info("release: %s: %d rows answer %d requests", name, found[name]["rows"], found[name]["requests"])
    status = "backfilled" if before and day < before.ds else "released"
    checks = [check for name, counts in found.items() for check in judge(config, name, counts, earlier(rows, name, day), status == "released")]
    record(spark, config, "release", day, checks + judge_model(spark, config, found), run_id)

    published = {name: publish(spark, config, STAGED_OF[name][0], day, frame, run_id) for name, frame in staged.items()}
    written = sum(committed for committed, _ in published.values())
    outputs = {name: version for name, (_, version) in published.items()}
    counts = {name: {"rows": f["rows"], "requests": f["requests"]} for name, f in found.items()}
    last = next((row for row in rows if row.ds == day), None)
    known = last is not None and json.loads(last.output_versions) == outputs
    model_version = next(f["model"] for f in found.values() if f["rows"])
    if DRY_RUN.get():
        log.info("dry run: %s would be %s; %s", day, status, f"{before.ds} is served" if before else "nothing is served yet")
        return {"status": status, "rows": {name: count["rows"] for name, count in counts.items()}, "written": written}
    if not (written == 0 and known and (status == "backfilled" or last.released_at == before.released_at)):
        point(spark, config, (day, run_id, model_version, status, outputs, pinned, counts, config.hash(), CODE_VERSION), run_id, before)
    if status == "released":
        mirror.promote(spark, config, day, run_id, model_version, seen)
    return {"status": status, "rows": {name: count["rows"] for name, count in counts.items()}, "written": written}


def staged_rows(spark: SparkSession, config: Config, name: str, day: date, pinned: Mapping[str, int]) -> DataFrame:
    """The day's staged rows of a published table. Recommendations must be there where the model is trained to make them; a night
    may have no query that enough users asked, so search results need not be, unless they are all there is."""
    published, staged = STAGED_OF[name]
    if (published is RECOMMENDATIONS) == ("recommend" in config.train.tasks):
        return read(spark, config, staged, at=day, version=pinned.get(staged.name))
    if staged.name not in pinned:
        return spark.createDataFrame([], schema(staged))
    return read(spark, config, staged, version=pinned[staged.name]).where(F.col("ds") == F.lit(day))


def as_answers(frame: DataFrame) -> DataFrame:
    """A published table's rows; suggested queries in the place of items, so that one audit holds for all."""
    return frame if "item_id" in frame.columns else frame.withColumnRenamed("query", "item_id").withColumn("source", F.lit("model"))


def suggestible(config: Config, events: DataFrame, day: date) -> DataFrame:
    """The queries that may be suggested, as `measure` takes items."""
    return common(config, events, day).select(F.col("query").alias("item_id"), F.lit(True).alias("is_available"))


def request_of(frame: DataFrame) -> list[str]:
    """The columns that name a request: the user, or the query and (null: everyone) the user."""
    return [name for name in ("query", "user_id") if name in frame.columns]


def wide(frame: DataFrame) -> DataFrame:
    """One row per request: ds, the request's columns, items: array<struct<rank, item_id, score>>, best first."""
    return frame.groupBy("ds", *request_of(frame)).agg(F.sort_array(F.collect_list(F.struct("rank", "item_id", "score"))).alias("items"))


def measure(staged: DataFrame, items: DataFrame, old: DataFrame) -> DataFrame:
    """Everything the audit asks about a day's staged rows, in one row and one pass: a join with the catalogue, a group per request."""
    request = request_of(staged)
    key = F.col(request[0])  # of search results the query: their user may be null
    known = items.where("is_available").select("item_id", F.lit(True).alias("known"))
    ranked = F.sort_array(F.collect_list(F.struct("rank", "item_id", "score")))
    requests = (
        staged.join(known, "item_id", "left")
        .groupBy(*request)
        .agg(
            ranked.alias("ranked"),
            F.count_if(key.isNull() | F.col("rank").isNull() | F.col("item_id").isNull()).alias("null_keys"),
            F.count_if(F.col("known").isNull()).alias("unknown_items"),
            F.count_if(F.coalesce(F.isnan("score") | (F.abs("score") == math.inf), F.lit(True))).alias("bad_scores"),
            F.count_if(F.col("source") != "model").alias("fallback"),
            F.min("model_version").alias("model"),
            F.max("model_version").alias("other_model"),
        )
    )
    first = old.where("rank = 1").select(F.col("item_id").alias("old_first"), *[F.col(name).alias(f"old_{name}") for name in request])
    same = F.lit(True)
    for name in request:
        same = same & F.col(name).eqNullSafe(F.col(f"old_{name}"))
    scores = F.col("ranked.score")
    return requests.join(first, same, "left").agg(
        F.count("*").alias("requests"),
        *[F.coalesce(F.sum(c), F.lit(0)).alias(c) for c in ("null_keys", "unknown_items", "bad_scores", "fallback")],
        F.coalesce(F.sum(F.size("ranked")), F.lit(0)).alias("rows"),
        F.coalesce(F.max(F.size("ranked")), F.lit(0)).alias("deepest"),
        F.count_if(F.col("ranked.rank") != F.sequence(F.lit(1), F.size("ranked"))).alias("rank_gaps"),
        F.count_if(F.size(F.array_distinct("ranked.item_id")) != F.size("ranked")).alias("repeated_items"),
        F.count_if(scores != F.sort_array(scores, asc=False)).alias("rising_scores"),
        F.count("old_first").alias("compared"),
        F.count_if(F.col("old_first") != F.col("ranked")[0]["item_id"]).alias("changed"),
        F.min("model").alias("model"),
        F.max("other_model").alias("other_model"),
    )


def judge(config: Config, table: str, counts: Mapping[str, int], earlier: list[int], served: bool = True) -> list[Check]:
    """The checks of one table: what measure found, held against what is allowed and against earlier releases' requests.

    The volume is held against the median of these and against the last of them, and the smaller change counts: a shop that fills grows day by day, and
    one odd day before this one says nothing. First items are held against what is served only where the day will be `served`, not where it is older.
    """
    k = {RECOMMENDATIONS.name: config.recommend, SEARCH_RESULTS.name: config.search, QUERY_SUGGESTIONS.name: config.suggest}[table].k
    names = ("null_keys", "rank_gaps", "repeated_items", "unknown_items", "bad_scores", "rising_scores")
    checks = [Check(name, "fail", float(counts[name]), 0.0, counts[name] == 0) for name in names]
    checks.append(Check("deepest_rank", "fail", float(counts["deepest"]), float(k), counts["deepest"] <= k))
    checks.append(Check("fallback_share", "info", counts["fallback"] / max(counts["rows"], 1), None, True))
    median = statistics.median(earlier) if earlier else 0.0
    change = min((abs(counts["requests"] / usual - 1) for usual in (median, *earlier[-1:]) if usual), default=None)
    judged = len(earlier) >= MIN_RELEASES and median >= MIN_REQUESTS
    checks.append(limit("volume_change", change, config.release.max_volume_change, judged))
    share = counts["changed"] / counts["compared"] if counts["compared"] else None
    checks.append(limit("changed_share", share, config.release.max_changed_share, served and counts["compared"] >= MIN_REQUESTS))
    return [Check(f"{table}.{c.name}", c.severity, c.value, c.threshold, c.passed) for c in checks]


def limit(name: str, value: float | None, allowed: float, judged: bool) -> Check:
    return Check(name, "fail" if judged else "info", value, allowed, not judged or value is None or value <= allowed)


def judge_model(spark: SparkSession, config: Config, found: Mapping[str, Mapping]) -> list[Check]:
    """One model made every staged row of both tables, and it passed the gate."""
    names = {counts[name] for counts in found.values() for name in ("model", "other_model")} - {None}
    passed = read(spark, config, MODELS).where(F.col("model_version").isin(*names) & (F.col("status") == "passed")).count()
    return [
        Check("model_versions", "fail", float(len(names)), 1.0, len(names) == 1),
        Check("models_not_passed", "fail", float(len(names) - passed), 0.0, passed == len(names)),
    ]


def earlier(rows: list[Row], table: str, day: date) -> list[int]:
    """Requests answered in the last releases of days before this one: at most WEEK numbers, a day's newest release each."""
    days: dict[date, int] = {}
    for row in rows:
        if row.ds < day and row.status != "rollback":
            days.setdefault(row.ds, json.loads(row.counts).get(table, {}).get("requests", 0))
    return [days[ds] for ds in sorted(days)[-WEEK:]]


def publish(spark: SparkSession, config: Config, table: Table, day: date, frame: DataFrame, run_id: str) -> tuple[int, int]:
    """Make the frame the table's day; returns (rows committed, the Delta version that holds them)."""
    written = replace(spark, config, table, day, frame, run_id, allow_empty=True)["written"]
    if written and not DRY_RUN.get():
        # Another run may have committed since: the release must name this run's own commit, not the newest one.
        told = DeltaTable.forPath(spark, path_of(config, table)).history(100)
        mine = told.where((F.get_json_object("userMetadata", "$.run_id") == run_id) & (F.get_json_object("userMetadata", "$.ds") == day.isoformat()))
        return written, mine.agg(F.max("version")).first()[0]
    return written, current_version(spark, config, table)


def point(spark: SparkSession, config: Config, values: tuple, run_id: str, before: Row | None) -> None:
    """Add one row to releases; one that will be served, only while `before` is what is served. Raises Transient where that has changed.

    Its released_at is now, or just after the newest row's where this machine's clock is behind.
    """
    now = datetime.now(UTC)
    for newest in releases(spark, config)[:1]:
        now = max(now, newest.released_at.astimezone(UTC) + timedelta(microseconds=1))
    row = tuple(json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for value in values)
    frame = spark.createDataFrame([(*row, now)], schema(RELEASES))
    if values[RELEASES.names.index("status")] == "backfilled":
        return append(spark, config, RELEASES, frame, run_id)
    # A merge reads the table, so that Delta lets only one of two of them commit; a bare append would let the older day win by being later.
    create(spark, config, RELEASES)
    meanwhile = (F.col("old.status") != "backfilled") & (F.lit(True) if before is None else F.col("old.released_at") > F.lit(before.released_at))
    path = path_of(config, RELEASES)
    WRITTEN.add(RELEASES.name)
    with conflict_is_transient(path):
        DeltaTable.forPath(spark, path).alias("old").merge(frame.alias("new"), meanwhile).whenNotMatchedInsertAll().execute()
    if all(other.released_at.astimezone(UTC) != now for other in releases(spark, config)):
        raise Transient(f"another run released while this one did; {row[0]} is published, and not served yet; retry")
    return None


def releases(spark: SparkSession, config: Config) -> list[Row]:
    """Every row of releases, newest first: one or a few per night, so that ten years of them are small."""
    if not exists(spark, config, RELEASES):
        return []
    return sorted(read(spark, config, RELEASES).collect(), key=lambda row: row.released_at, reverse=True)


def served(spark: SparkSession, config: Config) -> Row | None:
    """The row of releases that is served now; None before the first release."""
    return served_of(releases(spark, config))


def latest(spark: SparkSession, config: Config, table: Table) -> DataFrame:
    """The served release's rows of a published table: the day at the Delta version that the release names.

    Without those of users who were erased, whom a version of before still holds.
    """
    release = served(spark, config)
    if release is None:
        raise MissingInput(f"nothing was released below {config.lake.root} (lake.root); run first: python -m jobs release --date D")
    return of(spark, config, table, release)


def of(spark: SparkSession, config: Config, table: Table, release: Row) -> DataFrame:
    """The rows that a release named, without those of users who were erased since. Raises MissingInput where it published no such table."""
    named = json.loads(release.output_versions)
    if table.name not in named:
        raise MissingInput(f"the release of {release.ds} published {', '.join(sorted(named))}, found no {table.name} (suggest.k was 0 then)")
    rows = read(spark, config, table, version=named[table.name]).where(F.col("ds") == F.lit(release.ds))
    if not exists(spark, config, ERASURES):
        return rows
    gone = read(spark, config, ERASURES).groupBy("user_hash").agg(F.max("erased_at").alias("erased_at"))
    return rows.join(F.broadcast(gone), (F.sha2("user_id", 256) == F.col("user_hash")) & (F.col("generated_at") < F.col("erased_at")), "left_anti")
