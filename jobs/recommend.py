"""Answer every user with items: the newest passed model first, popular items where it has too few.

Reads events, items, models, and the users of `recommend.users` where configured. Writes staged_recommendations and checks (step
recommend). `serving`, `shelf`, `answer` and `stage` are what `search` and `evaluate` answer their requests with, too.

Does not know: how the model ranks, or what is released.
"""

import json
import logging
import os
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
from pyspark import Broadcast
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs.build_corpora import latest_histories
from jobs.checks import Check, record
from jobs.config import Config
from jobs.errors import MissingInput
from jobs.registry import champion, intact
from jobs.sections import Recommend, Search
from jobs.spark import path_of, read, session, versions
from jobs.tables import ACTION, EVENTS, ITEMS, MODELS, STAGED_RECOMMENDATIONS, Table
from jobs.warehouse import deliver
from jobs.writes import replace
from udfs.rank import RANKED, ranker

REQUESTS_PER_TASK = 2000
MAX_POISONED_SHARE = 0.001

log = logging.getLogger("tandem")


def start_of(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def events_known(spark: SparkSession, config: Config, day: date) -> DataFrame:
    """The events up to the day that had arrived by then, as in `build_corpora`: a backfilled day answers as its own night would have."""
    return read(spark, config, EVENTS, until=day).where(F.to_date("ingested_at") <= F.lit(day))


def consumed(events: DataFrame, limit: int) -> DataFrame:
    """(user_id, exclude): the distinct items of each user's events, the `limit` latest ones, so that no user outgrows a row."""
    once = events.groupBy("user_id", "item_id").agg(F.max("event_ts").alias("last"))
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("last"), "item_id")
    kept = once.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= limit)
    return kept.groupBy("user_id").agg(F.sort_array(F.collect_list("item_id")).alias("exclude"))


def user_requests(histories: DataFrame, users: DataFrame | None, active_since: datetime | None) -> DataFrame:
    """(user_id, history): each user of the histories, active since then where a time is given; and each of `users`, whoever that is."""
    last = F.try_element_at("history", F.lit(-1)).getField("event_ts")
    active = F.lit(True) if active_since is None else last >= F.lit(active_since)
    if users is None:
        return histories.where(active)
    asked = users.where("user_id IS NOT NULL").select("user_id").distinct().withColumn("asked", F.lit(True))
    either = histories.join(asked, "user_id", "full_outer").where(F.coalesce(active, F.lit(False)) | F.coalesce("asked", F.lit(False)))
    return either.select("user_id", F.coalesce("history", no_history()).alias("history"))


def no_history() -> "F.Column":
    return F.array().cast(f"ARRAY<{ACTION}>")


def liked(events: DataFrame) -> DataFrame:
    """(item_id, count): how many users acted on each item. Users and not events, so that one account moves an item by one."""
    return events.groupBy("item_id").agg(F.count_distinct("user_id").alias("count"))


def shelf(items: DataFrame, counts: DataFrame) -> DataFrame:
    """(item_id, log_share) of the available items, most popular first; `counts` is (item_id, count).

    The share is counted with one more per item (Laplace), so that an item of which nothing is known has a finite log.
    """
    counted = items.where("is_available").select("item_id").join(counts, "item_id", "left").select("item_id", (F.coalesce("count", F.lit(0)) + 1).alias("n"))
    total = counted.agg(F.sum("n").alias("total"))
    return counted.crossJoin(F.broadcast(total)).orderBy(F.desc("n"), "item_id").select("item_id", F.log(F.col("n") / F.col("total")).alias("log_share"))


def on_workers(spark: SparkSession, shelf: DataFrame) -> "Broadcast[tuple[list[str], np.ndarray]]":
    """The shelf where `udfs.rank` reads it. It passes through the driver: one id and one number per catalogue item."""
    frame = shelf.toPandas()
    return spark.sparkContext.broadcast((frame["item_id"].tolist(), frame["log_share"].to_numpy(np.float64)))


def answer(requests: DataFrame, artifact: str, task: str, k: int, beams: int, batch_size: int, catalogue: Broadcast) -> DataFrame:
    """Requests (user_id, query, history, exclude) → rows of `udfs.rank.RANKED`, in the requests' partitions."""
    history = F.transform(
        "history", lambda a: F.struct(a.item_id.alias("item_id"), a.surface.alias("surface"), a.action.alias("action"), a.query.alias("query"))
    )
    slim = requests.select("user_id", "query", history.alias("history"), "exclude")
    return slim.mapInPandas(ranker(artifact, task, k, beams, batch_size, catalogue), RANKED)


def spread(spark: SparkSession, requests: DataFrame, count: int) -> DataFrame:
    """Balanced partitions, at least one per core, of at most REQUESTS_PER_TASK: hashed keys mix long and short histories."""
    return requests.repartition(max(spark.sparkContext.defaultParallelism, -(-count // REQUESTS_PER_TASK)), "user_id", "query")


def serving(spark: SparkSession, config: Config, day: date, task: str) -> Row:
    """The newest passed model up to the day, or of all days (`recommend.model`). Raises MissingInput where there is none or it knows not the task, BadData
    where its artifact was changed."""
    until = day if config.recommend.model == "of_day" else date.max
    model = champion(spark, config, until)
    if model is None:
        raise MissingInput(f"no passed model up to {until} in models (at {path_of(config, MODELS)}); run first, for a day up to it: train, evaluate")
    known = json.loads(model.config)["train"]["tasks"]
    if task not in known:
        raise MissingInput(
            f"model {model.model_version} was trained on {', '.join(known)}, not on {task} (train.tasks now: {', '.join(config.train.tasks)}); "
            "run train and evaluate"
        )
    return intact(config, model)


def artifact_path(config: Config, model: Row) -> str:
    """Absolute, since a worker's working directory is not the driver's."""
    return os.path.abspath(f"{config.files}/{model.artifact}")


def counted(ranked: DataFrame, requests: int, k: int) -> list[Check]:
    """What became of the requests: each is answered, and hardly any made the model raise."""
    first = F.col("rank") == 1
    found = ranked.agg(
        F.count("*").alias("rows"),
        F.count_if(first).alias("answered"),
        F.count_if(F.col("source") == "popular").alias("fallback_rows"),
        F.count_if(first & (F.col("source") == "popular")).alias("fallback_requests"),
        F.count_if(first & F.col("error").isNotNull()).alias("poisoned"),
        F.collect_set("error").alias("errors"),  # class names
    ).first()
    if found.poisoned:
        log.warning("%d of %d requests made the model raise: %s", found.poisoned, requests, ", ".join(sorted(found.errors)))
    share = found.poisoned / requests if requests else 0.0
    unanswered = requests - found.answered
    return [
        Check("requests", "info", float(requests), None, True),
        Check("unanswered", "warn", float(unanswered), 0.0, unanswered == 0),  # only where a user has consumed all that there is
        Check("rows_short_of_k", "info", float(requests * k - found.rows), None, True),
        Check("fallback_rows", "info", float(found.fallback_rows), None, True),
        Check("fallback_requests", "info", float(found.fallback_requests), None, True),
        Check("poisoned_share", "fail", share, MAX_POISONED_SHARE, share <= MAX_POISONED_SHARE),
    ]


def stage(
    spark: SparkSession, config: Config, day: date, run_id: str, table: Table, settings: Recommend | Search, model: Row, requests: DataFrame, counts: DataFrame
) -> dict:
    """Answer the requests and make the answers the table's day. `counts` (item_id, count) says what is popular."""
    task = table.written_by
    requests = requests.persist()
    asked = requests.count()
    catalogue = on_workers(spark, shelf(read(spark, config, ITEMS, at=day), counts))
    log.info("%s: %d requests, %d available items, model %s", task, asked, len(catalogue.value[0]), model.model_version)
    artifact = artifact_path(config, model)
    ranked = answer(spread(spark, requests, asked), artifact, task, settings.k, settings.beams, settings.batch_size, catalogue).persist()
    try:
        record(spark, config, task, day, checks := counted(ranked, asked, settings.k), run_id)
        told = {"ds": day, "model_version": model.model_version, "run_id": run_id, "generated_at": datetime.now(UTC)}
        rows = ranked.select("*", *(F.lit(value).alias(name) for name, value in told.items())).select(*table.names)
        details = {"model_version": model.model_version, "input_versions": versions(spark, config, (EVENTS, ITEMS, MODELS))}
        done = replace(spark, config, table, day, rows, run_id, allow_empty=asked == 0, details=details)
    finally:
        ranked.unpersist()
        requests.unpersist()
        catalogue.unpersist()
    numbers = {check.name: check.value for check in checks}
    log.info("%s: %d rows, %d of them popular, %d written", task, done["rows"], numbers["fallback_rows"], done["written"])
    return {"rows": {table.name: done["rows"]}, "written": {table.name: done["written"]}, "checks": numbers, "model_version": model.model_version}


def run(config: Config, day: date, run_id: str) -> dict:
    settings = config.recommend
    if "recommend" not in config.train.tasks:
        log.info("recommend: nothing to do, as train.tasks holds %s alone", config.train.tasks[0])
        return {"rows": {STAGED_RECOMMENDATIONS.name: 0}}
    spark = session(config)
    model = serving(spark, config, day, "recommend")
    events = events_known(spark, config, day)
    since = start_of(day) - timedelta(days=settings.active_days - 1) if settings.active_days else None
    users = deliver(spark, settings.users, "recommend.users", ("user_id",), (), day).rows if settings.users else None
    requests = user_requests(latest_histories(events, config.corpora), users, since).withColumn("query", F.lit(None).cast("string"))
    if settings.exclude_seen:
        requests = requests.join(consumed(events, config.corpora.max_events_per_user), "user_id", "left")
    else:
        requests = requests.withColumn("exclude", F.lit(None).cast("array<string>"))
    counts = liked(events.where("surface = 'recommendation'"))
    return stage(spark, config, day, run_id, STAGED_RECOMMENDATIONS, settings, model, requests, counts)
