"""One page a person can look at: alerts, what is served, quality, learning, data, drift, examples.

Reads checks, metrics, models, quarantine, releases, the served results of a few requests, items. Writes `<lake.root>/reports/<ds>.html`, and
`latest.html` where no newer day is served. One file, no request to anywhere, readable on a phone. Judges nothing: what failed is in `checks`.

Every read is bounded: aggregates of a day or of thirty (and of the week before them), one model's row, five users and five queries. User ids
become short hashes. How it looks is in `jobs.page`, how the world has moved in `jobs.drift`.
"""

import hashlib
import json
import logging
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs import drift, page
from jobs.config import Config
from jobs.errors import MissingInput
from jobs.registry import candidate
from jobs.release import latest, request_of, served, wide
from jobs.spark import exists, read, session
from jobs.tables import CHECKS, EVENTS, ITEMS, METRICS, QUARANTINE, RECOMMENDATIONS, SEARCH_RESULTS, Table

DAYS = 30  # of the lines
SHOWN = 5  # users, queries, and titles of each
HISTORY_DAYS = 60  # events older than this are not looked for

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str) -> dict:
    """Write the day's page; returns {"path", "alerts": how many}. Raises MissingInput where no step has written a check of the day."""
    spark = session(config)
    checks = gather(spark, config, CHECKS, F.col("ds") == F.lit(day))
    if not checks:
        raise MissingInput(f"nothing to report of {day}: no step has written checks of it below {config.lake.root} (lake.root); run first: ingest")
    release, model = served(spark, config), candidate(spark, config, day)
    quality = figures(spark, config, day, model)
    alerts = [check for check in checks if check.severity != "info" and not check.passed]
    parts = [
        page.alerts(alerts, release, day),
        page.served(release, model),
        page.quality(quality),
        page.curve(json.loads(model.curve)) if model else "",
        page.nights(past(spark, config, day)),
        page.drift(*moved(spark, config, day)),
        page.slices(quality),
        page.quarantine(quarantined(spark, config, day)),
        page.examples(examples(spark, config, release)) if release else "",
        page.checks(checks),
    ]
    text = page.whole(day, parts)
    root = config.lake.root.rstrip("/")
    put(spark, f"{root}/reports/{day}.html", text)
    if release is None or day >= release.ds:
        put(spark, f"{root}/reports/latest.html", text)
    log.info("report: %s/reports/%s.html, %d alerts", root, day, len(alerts))
    return {"path": f"{root}/reports/{day}.html", "alerts": len(alerts)}


def gather(spark: SparkSession, config: Config, table: Table, condition) -> list[Row]:
    """Rows of a small table; none where it does not exist."""
    return read(spark, config, table).where(condition).collect() if exists(spark, config, table) else []


def figures(spark: SparkSession, config: Config, day: date, model: Row | None) -> page.Quality:
    """The day's metrics of its model and of the methods beside it, at depth K."""
    if model is None:
        return {}
    own = (F.col("ds") == F.lit(day)) & (F.col("model_version") == F.lit(model.model_version)) & (F.col("k") == page.K)
    return {(row.task, row.method, row.slice, row.metric): row for row in gather(spark, config, METRICS, own)}


def past(spark: SparkSession, config: Config, day: date) -> list[Row]:
    """NDCG of the last days' models and of their rivals: a few rows per day."""
    recent = F.col("ds").between(F.lit(day - timedelta(days=DAYS - 1)), F.lit(day))
    chosen = recent & (F.col("slice") == "all") & (F.col("metric") == "ndcg") & (F.col("k") == page.K) & (F.col("method") != "served")
    return sorted(gather(spark, config, METRICS, chosen), key=lambda row: (row.task, row.method, row.ds))


def moved(spark: SparkSession, config: Config, day: date) -> tuple[list[Row], list[Row]]:
    """The rows of `drift.popularity` and of `drift.catalogue` over the last days; none before the first ingest."""
    if not (exists(spark, config, EVENTS) and exists(spark, config, ITEMS)):
        return [], []
    recent = F.col("ds").between(F.lit(day - timedelta(days=DAYS - 1)), F.lit(day))
    popularity = drift.popularity(read(spark, config, EVENTS, until=day), day, DAYS)
    return popularity.collect(), drift.catalogue(read(spark, config, ITEMS).where(recent)).collect()


def quarantined(spark: SparkSession, config: Config, day: date) -> list[Row]:
    if not exists(spark, config, QUARANTINE):
        return []
    return (
        read(spark, config, QUARANTINE)
        .where(F.col("ds") == F.lit(day))
        .groupBy("source", "reason")
        .agg(F.count("*").alias("rows"))
        .orderBy(F.desc("rows"), "reason")
        .collect()
    )


def examples(spark: SparkSession, config: Config, release: Row) -> dict[str, list[dict[str, Any]]]:
    """{"users": [{"id", "history", "items", "source"}], "queries": [{"query", "items", "source"}]} of the served release, the same ones every
    time. history and items are titles, newest and best first; source is the first item's."""
    users, queries = (answers(latest(spark, config, table)) for table in (RECOMMENDATIONS, SEARCH_RESULTS))
    recent = F.col("ds").between(F.lit(release.ds - timedelta(days=HISTORY_DAYS)), F.lit(release.ds))
    acts = read(spark, config, EVENTS).where(recent & F.col("user_id").isin([row.user_id for row in users]))
    newest = F.slice(F.sort_array(F.collect_list(F.struct("event_ts", "sequence", "item_id")), asc=False), 1, SHOWN)["item_id"]
    history = {row.user_id: row.newest for row in acts.groupBy("user_id").agg(newest.alias("newest")).collect()}
    wanted = {item for items in history.values() for item in items} | {item.item_id for row in [*users, *queries] for item in row["items"]}
    known = read(spark, config, ITEMS, at=release.ds).where(F.col("item_id").isin(list(wanted))).select("item_id", "title").collect()
    titles = {row.item_id: row.title for row in known}

    def named(items: list[str]) -> list[str]:
        return [titles.get(item, item) for item in items]

    def answer(row: Row) -> dict[str, Any]:
        return {"items": named([item.item_id for item in row["items"]]), "source": row.source}

    def hashed(user_id: str) -> str:
        return hashlib.sha256(user_id.encode()).hexdigest()[:8]

    return {
        "users": [{"id": hashed(row.user_id), "history": named(history.get(row.user_id, []))} | answer(row) for row in users],
        "queries": [{"query": row.query} | answer(row) for row in queries],
    }


def answers(rows: DataFrame) -> list[Row]:
    """(user_id or query, items: the first SHOWN, source of the first) of SHOWN requests: by hash, those that the model answered first."""
    key = request_of(rows)[0]
    everyone = rows.where("user_id IS NULL") if key == "query" else rows
    first = everyone.where("rank = 1").orderBy(F.col("source") != "model", F.xxhash64(key)).select(key, "source").limit(SHOWN).collect()
    mine = everyone.where(F.col(key).isin([row[0] for row in first]) & (F.col("rank") <= SHOWN))
    sources = dict(map(tuple, first))
    return [Row(**{key: row[key], "items": row["items"], "source": sources[row[key]]}) for row in wide(mine).orderBy(key).collect()]


def put(spark: SparkSession, path: str, text: str) -> None:
    """Write a file whole or not at all, on a local disk; by Hadoop's file systems below a URI."""
    if "://" in path:
        target = spark._jvm.org.apache.hadoop.fs.Path(path)
        stream = target.getFileSystem(spark._jsc.hadoopConfiguration()).create(target, True)
        stream.write(bytearray(text.encode()))
        stream.close()
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draft = Path(f"{path}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
