"""Answer every query: those of the lookback days that enough users asked, and those of a table.

Reads events, items, models, and the queries of `search.queries` where configured. Writes staged_search_results and checks (step search).
An answer for everyone has a null user_id. A query of fewer than `search.min_users` users may tell who they are, so it is not published to
others; where `search.personalised` is set, its user gets an answer of their own all the same.

Does not know: how the model ranks, or what is released.
"""

import logging
from datetime import date, datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.build_corpora import latest_histories
from jobs.config import Config
from jobs.recommend import events_known, liked, no_history, serving, stage, start_of
from jobs.rows import normalize_query
from jobs.spark import session
from jobs.tables import STAGED_SEARCH_RESULTS
from jobs.warehouse import deliver

log = logging.getLogger("tandem")


def asked(events: DataFrame, since: datetime, until: datetime) -> DataFrame:
    """The search events of [since, until) by event time: the base day's partition holds older ones."""
    return events.where((F.col("surface") == "search") & (F.col("event_ts") >= F.lit(since)) & (F.col("event_ts") < F.lit(until)))


def query_requests(asked: DataFrame, queries: DataFrame | None, min_users: int) -> DataFrame:
    """(user_id null, query, history empty): each query of at least `min_users` distinct users, and each of `queries` (normalised here)."""
    common = asked.groupBy("query").agg(F.count_distinct("user_id").alias("users")).where(F.col("users") >= min_users).select("query")
    if queries is not None:
        common = common.union(queries.select(normalize_query(F.col("query"))).where("query IS NOT NULL")).distinct()
    return common.select(F.lit(None).cast("string").alias("user_id"), "query", no_history().alias("history"))


def personal_requests(asked: DataFrame, histories: DataFrame) -> DataFrame:
    """(user_id, query, history): each user's own queries with what the user did last."""
    return asked.select("user_id", "query").distinct().join(histories, "user_id").select("user_id", "query", "history")


def run(config: Config, day: date, run_id: str) -> dict:
    settings = config.search
    if "search" not in config.train.tasks:
        log.info("search: nothing to do, as train.tasks holds %s alone", config.train.tasks[0])
        return {"rows": {STAGED_SEARCH_RESULTS.name: 0}}
    spark = session(config)
    model = serving(spark, config, day, "search")
    events = events_known(spark, config, day)
    window = asked(events, start_of(day) - timedelta(days=settings.lookback_days - 1), start_of(day) + timedelta(days=1))
    queries = deliver(spark, settings.queries, "search.queries", ("query",), (), day).rows if settings.queries else None
    requests = query_requests(window, queries, settings.min_users)
    if settings.personalised:
        requests = requests.union(personal_requests(window, latest_histories(events, config.corpora)))
    requests = requests.withColumn("exclude", F.lit(None).cast("array<string>"))
    counts = liked(events.where("surface = 'search'"))
    return stage(spark, config, day, run_id, STAGED_SEARCH_RESULTS, settings, model, requests, counts)
