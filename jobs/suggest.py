"""What will a user search next: queries that others have searched, in the model's order.     Reads events, models.

Writes staged_query_suggestions and checks (step suggest). Nothing where `suggest.k` is 0. A query is suggested only where `suggest.min_users` distinct users
have searched it within `suggest.lookback_days`: the model can name no other, and `release` counts again.

Does not know: how the model ranks, or what is released.
"""

import logging
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.build_corpora import latest_histories
from jobs.checks import Check, record
from jobs.config import Config
from jobs.recommend import artifact_path, events_known, serving, spread, start_of
from jobs.search import asked
from jobs.spark import session, versions
from jobs.tables import EVENTS, MODELS, STAGED_QUERY_SUGGESTIONS
from jobs.writes import replace
from udfs.suggest import SUGGESTED, suggester

log = logging.getLogger("tandem")


def common(config: Config, events: DataFrame, day: date) -> DataFrame:
    """(query, users): what enough users searched, the most frequent `suggest.max_queries`."""
    settings = config.suggest
    window = asked(events, start_of(day) - timedelta(days=settings.lookback_days - 1), start_of(day) + timedelta(days=1))
    counted = window.groupBy("query").agg(F.count_distinct("user_id").alias("users")).where(F.col("users") >= settings.min_users)
    return counted.orderBy(F.desc("users"), "query").limit(settings.max_queries)


def run(config: Config, day: date, run_id: str) -> dict:
    settings, name = config.suggest, STAGED_QUERY_SUGGESTIONS.name
    if not settings.k:
        log.info("suggest: nothing to do, as suggest.k is 0")
        return {"rows": {name: 0}}
    spark = session(config)
    model = serving(spark, config, day, "next_query")
    events = events_known(spark, config, day)
    queries = [row.query for row in common(config, events, day).collect()]  # at most suggest.max_queries
    requests = latest_histories(events, config.corpora).withColumn("query", F.lit(None).cast("string")).persist()
    count = requests.count()
    log.info("suggest: %d users, %d queries, model %s", count, len(queries), model.model_version)
    shared = spark.sparkContext.broadcast(queries)
    ask = suggester(artifact_path(config, model), settings.k, settings.beams, settings.batch_size, shared)
    slim = spread(spark, requests, count if queries else 0).select("user_id", "history")
    ranked = (slim if queries else slim.limit(0)).mapInPandas(ask, SUGGESTED).persist()
    try:
        answered = ranked.where("rank = 1").count()
        checks = [
            Check("requests", "info", float(count), None, True),
            Check("unanswered", "info", float(count - answered), None, True),
            Check("queries", "info", float(len(queries)), None, True),
        ]
        record(spark, config, "suggest", day, checks, run_id)
        told = {"ds": day, "model_version": model.model_version, "run_id": run_id, "generated_at": datetime.now(UTC)}
        rows = ranked.select("*", *(F.lit(value).alias(column) for column, value in told.items())).select(*STAGED_QUERY_SUGGESTIONS.names)
        details = {"model_version": model.model_version, "input_versions": versions(spark, config, (EVENTS, MODELS))}
        done = replace(spark, config, STAGED_QUERY_SUGGESTIONS, day, rows, run_id, allow_empty=True, details=details)
    finally:
        for held in (ranked, requests, shared):
            held.unpersist()
    log.info("suggest: %d rows for %d users", done["rows"], answered)
    return {"rows": {name: done["rows"]}, "written": {name: done["written"]}, "model_version": model.model_version}
