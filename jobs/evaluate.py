"""Judge the day's model on test examples, against the served model and the baselines; pass it, or not.

Reads corpora, items, models. Writes metrics (the model's part of the day), checks (step evaluate) and the model's status.

Everything is ranked against the whole catalogue available on the day, as it would be served: with the popularity fallback, without the
history's items where `recommend.exclude_seen` is set, and without a history in search unless `search.personalised` is. A target that is
not in the catalogue is a miss for every method. Popularity, in all its uses here, is counted on training examples of the task:
head is the top 1 % of the catalogue's items by it, torso the next 19 %, tail the rest.

Does not know: how a model ranks, what is released. A failed candidate leaves the night to the served model.
"""

import json
import logging
from collections.abc import Mapping
from datetime import date
from functools import reduce

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs import baselines
from jobs.build_corpora import with_split
from jobs.checks import Check, record
from jobs.config import Config
from jobs.errors import BadData, MissingInput
from jobs.recommend import MAX_POISONED_SHARE, answer, artifact_path, no_history, on_workers, shelf, spread
from jobs.registry import candidate, champion, intact, set_status
from jobs.sections import Gate
from jobs.spark import path_of, read, session
from jobs.tables import CORPORA, ITEMS, METRICS, MODELS
from jobs.writes import replace, schema
from model.recipes import SERVED
from udfs.bootstrap import METRICS as RANK_METRICS
from udfs.bootstrap import SUMS, resampled_sums

GATE_K = 10
HEAD, TORSO = 0.01, 0.20  # upper bounds of an item's place by popularity, as a share of the catalogue
SHORT = 5  # actions of a short history, at most

RANKING = ("example_id", "rank", "item_id", "error")
MAX_PARTS = 32  # a part's sums of a task and slice are some 150 KB

# (task, slice, method, metric, k) → (value, ci_low, ci_high, test examples)
Figures = dict[tuple[str, str, str, str, int], tuple[float, float | None, float | None, int]]

log = logging.getLogger("tandem")


def item_popularity(items: DataFrame, counts: DataFrame) -> DataFrame:
    """(item_id, share, percentile, band) of every available item; `counts` is (item_id, count) of one task.

    share: of training examples, one more per item (Laplace). percentile: 0 the least popular, 1 the most; equal counts get their mean.
    """
    known = items.join(counts, "item_id", "left").select("item_id", F.coalesce("count", F.lit(0)).alias("n"))
    # Catalogue-sized windows of two numbers per item: one task can sort them.
    every, place, equal = Window.partitionBy(), Window.orderBy(F.desc("n"), "item_id"), Window.partitionBy("n")
    placed = known.withColumn("place", F.row_number().over(place)).withColumn("size", F.count("*").over(every))
    below = (F.col("size") - F.avg("place").over(equal)) / F.greatest(F.col("size") - 1, F.lit(1))
    # The first item is head however small the catalogue.
    band = F.when((F.col("place") - 1) < HEAD * F.col("size"), "head").when((F.col("place") - 1) < TORSO * F.col("size"), "torso").otherwise("tail")
    share = (F.col("n") + 1) / (F.sum("n").over(every) + F.col("size"))
    return placed.select("item_id", share.alias("share"), below.alias("percentile"), band.alias("band"))


class Unjudged(BadData):
    """There is nothing to judge a model by."""


def drawn(corpora: DataFrame, split: str, limit: int) -> DataFrame:
    """The split's rows, per task the `limit` lowest by a hash of the example: the same ones every time."""
    hashed = corpora.where(F.col("split") == split).withColumn("key", F.xxhash64("example_id"))
    lowest = Window.partitionBy("task").orderBy("key", "example_id")
    return hashed.withColumn("place", F.row_number().over(lowest)).where(F.col("place") <= limit).drop("place", "key")


def with_slices(examples: DataFrame, popularity: DataFrame, train: DataFrame, kinds: DataFrame | None = None) -> DataFrame:
    """The examples and `slices`, the names of the slices each is in. `popularity` is item_popularity with a column task; `kinds`, where given,
    (task, item_id, kinds) names further slices of an item's targets. item:new is what no training example of either task chose."""
    seen = train.where("task = 'search'").select("query").distinct().withColumn("seen", F.lit(True))
    known = train.select("target_item_id").distinct().withColumn("known", F.lit(True))
    bands = popularity.select("task", F.col("item_id").alias("target_item_id"), "band")
    length = F.size("history")
    history = F.when(length == 0, "empty").when(length <= SHORT, "short").otherwise("long")
    query = F.when(F.col("task") == "search", F.when(F.col("seen"), "query:seen").otherwise("query:unseen"))
    item = F.concat(F.lit("item:"), F.coalesce("band", F.lit("tail")))
    names = F.array(F.lit("all"), item, F.when(F.col("known").isNull(), "item:new"), F.concat(F.lit("history:"), history), query)
    joined = examples.join(bands, ["task", "target_item_id"], "left").join(seen, "query", "left").join(known, "target_item_id", "left")
    if kinds is not None:
        joined = joined.join(kinds.withColumnRenamed("item_id", "target_item_id"), ["task", "target_item_id"], "left")
        names = F.concat(names, F.coalesce("kinds", F.array().cast("array<string>")))
    return joined.withColumn("slices", F.array_compact(names)).drop("band", "seen", "known", "kinds")


def as_requests(examples: DataFrame, task: str, config: Config) -> DataFrame:
    """Examples → (example_id, user_id, query, history, exclude), as the verb of the task would ask."""
    history = F.col("history") if task == "recommend" or config.search.personalised else no_history()
    hidden = F.array_distinct("history.item_id") if task == "recommend" and config.recommend.exclude_seen else F.array().cast("array<string>")
    return examples.where(F.col("task") == task).select("example_id", "user_id", "query", history.alias("history"), hidden.alias("exclude"))


def model_rankings(spark: SparkSession, config: Config, model: Row, task: str, requests: DataFrame, catalogue, depth: int) -> DataFrame:
    """(example_id, rank, item_id, error) by a model. Requests that ask the same (a query without history) are answered once."""
    settings = config.recommend if task == "recommend" else config.search
    same = F.sha2(F.to_json(F.struct("query", F.transform("history", lambda act: act.dropFields("event_ts")), "exclude")), 256)
    keyed = requests.withColumn("user_id", same)  # what the udf echoes: here requests are told apart by their content alone
    once = spread(spark, keyed.dropDuplicates(["user_id"]), requests.count())
    ranked = answer(once, artifact_path(config, model), task, depth, settings.beams, settings.batch_size, catalogue)
    return keyed.select("example_id", "user_id").join(ranked, "user_id").select("example_id", "rank", "item_id", "error")


def target_ranks(examples: DataFrame, rankings: DataFrame, methods: tuple[str, ...]) -> DataFrame:
    """(key, task, slices, ranks array<int> [methods]): each method's rank of the example's target, 0 where it is not ranked.

    `rankings` is the one long frame (method, task, example_id, rank, item_id). `key` is of the user: what one user does is not independent, so users
    are resampled, not examples.
    """
    targets = examples.select("example_id", F.col("target_item_id").alias("item_id"))
    hits = rankings.join(targets, ["example_id", "item_id"]).groupBy("example_id", "method").agg(F.min("rank").alias("rank"))
    found = hits.groupBy("example_id").agg(F.map_from_entries(F.collect_list(F.struct("method", "rank"))).alias("found"))
    ranks = F.array(*(F.coalesce(F.try_element_at("found", F.lit(method)), F.lit(0)).cast("int") for method in methods))
    return examples.join(found, "example_id", "left").select(F.xxhash64("user_id").alias("key"), "task", "slices", ranks.alias("ranks"))


def rank_figures(spark: SparkSession, ranks: DataFrame, methods: tuple[str, ...], ks: tuple[int, ...], replicates: int) -> Figures:
    """Every rank metric with its 95 % bootstrap interval, and `ndcg_gain`: what the first method has over each other, paired."""
    # At most MAX_PARTS rows of a task and slice reach the driver: sums, never examples.
    parts = ranks.repartition(min(spark.sparkContext.defaultParallelism, MAX_PARTS), "key").mapInPandas(resampled_sums(ks, len(methods), replicates), SUMS)
    figures: Figures = {}
    for (task, name), rows in parts.toPandas().groupby(["task", "slice"]):
        n = int(rows["n"].sum())
        weights = np.sum(rows["weights"].tolist(), axis=0)
        sums = np.sum(rows["sums"].tolist(), axis=0).reshape(1 + replicates, len(methods), len(RANK_METRICS), len(ks))
        with np.errstate(invalid="ignore"):  # a resample without any example of the slice has no mean, and is left out below
            means = sums / weights[:, None, None, None]
        for m, method in enumerate(methods):
            for j, metric in enumerate(RANK_METRICS):
                for i, k in enumerate(ks):
                    figures[task, name, method, metric, k] = estimate(means[:, m, j, i], n)
                    if metric == "recall":
                        figures[task, name, method, "hitrate", k] = figures[task, name, method, "recall", k]
                    if metric == "ndcg" and k == GATE_K and m > 0:
                        figures[task, name, method, "ndcg_gain", k] = estimate(means[:, 0, j, i] - means[:, m, j, i], n)
    return figures


def estimate(means: np.ndarray, n: int) -> tuple[float, float | None, float | None, int]:
    """The mean of the examples (first) and the 2.5 % and 97.5 % of its resamples, to 9 digits: the last ones hang on the order of sums."""
    resamples = means[1:][np.isfinite(means[1:])]
    low, high = np.quantile(resamples, [0.025, 0.975]) if len(resamples) else (None, None)
    return round(float(means[0]), 9), low if low is None else round(float(low), 9), high if high is None else round(float(high), 9), n


def catalogue_figures(rankings: DataFrame, popularity: DataFrame, ks: tuple[int, ...]) -> tuple[Figures, dict[tuple[str, str], int]]:
    """Of what each method recommends: coverage (share of the catalogue), novelty (mean −log2 popularity share, bits), popularity (mean
    percentile); and {(task, method): rows whose item is not in the catalogue}. Grouped by item before anything is counted."""
    shown = [F.count_if(F.col("rank") <= k).alias(f"shown{k}") for k in ks]
    per_item = rankings.groupBy("task", "method", "item_id").agg(*shown, F.count("*").alias("rows")).join(popularity, ["task", "item_id"], "left")
    aggregates = [F.sum(F.when(F.col("share").isNull(), F.col("rows")).otherwise(0)).alias("unknown")]
    for k in ks:
        n = F.col(f"shown{k}")
        aggregates += [
            F.count_if((n > 0) & F.col("share").isNotNull()).alias(f"items{k}"),
            F.try_divide(F.sum(-n * F.log2("share")), F.sum(n)).alias(f"novelty{k}"),
            F.try_divide(F.sum(n * F.col("percentile")), F.sum(n)).alias(f"popularity{k}"),
        ]
    sizes = {row.task: row["count"] for row in popularity.groupBy("task").count().collect()}  # one row per task
    figures: Figures = {}
    unknown = {}
    for row in per_item.groupBy("task", "method").agg(*aggregates).collect():  # one row per task and method
        unknown[row.task, row.method] = row.unknown
        for k in ks:
            values = {"coverage": row[f"items{k}"] / sizes[row.task], "novelty": row[f"novelty{k}"], "popularity": row[f"popularity{k}"]}
            figures |= {(row.task, "all", row.method, metric, k): (round(value, 9), None, None, 0) for metric, value in values.items() if value is not None}
    return figures, unknown


def faults(rankings: DataFrame) -> dict[str, tuple[int, float]]:
    """Task → (rows of the candidate that repeat an item of the same request, share of its requests that made it raise)."""
    per_request = (
        rankings.where("method = 'model'")
        .groupBy("task", "example_id")
        .agg((F.count("*") - F.size(F.collect_set("item_id"))).alias("repeated"), F.max(F.col("error").isNotNull().cast("int")).alias("poisoned"))
    )
    found = per_request.groupBy("task").agg(F.sum("repeated").alias("repeated"), F.avg("poisoned").alias("poisoned")).collect()  # one row per task
    return {row.task: (row.repeated, row.poisoned) for row in found}


def decide(figures: Figures, invalid: Mapping[str, int], poisoned: Mapping[str, float], gate: Gate) -> list[Check]:
    """The gate, task by task; the model passes where every check does.

    Against the served model NDCG@10 fails only where more than the share max_drop of it is lost and the whole 95 % interval of the difference is
    below 0: a drop that is neither small nor chance. Popularity is to be beaten, or met, by the mean. A check without its other side is not made.
    """
    k = GATE_K
    checks = []
    for task in sorted({key[0] for key in figures}):

        def of(method: str, metric: str, task: str = task) -> tuple:
            return figures.get((task, "all", method, metric, k), (None, None, None, 0))

        change, _, high, _ = of("served", "ndcg_gain")
        if change is not None:
            share = change / (of("served", "ndcg")[0] or 1.0)  # of a model that finds nothing, nothing can be lost
            lost = share < -gate.max_drop and high is not None and high < 0
            checks.append(Check(f"{task}.ndcg@{k}_against_served", "warn", share, -gate.max_drop, not lost))
        coverage, served_coverage = of("model", "coverage")[0], of("served", "coverage")[0]
        if served_coverage:
            ratio = coverage / served_coverage
            checks.append(Check(f"{task}.coverage_ratio", "warn", ratio, gate.min_coverage_ratio, ratio >= gate.min_coverage_ratio))
        gain = of("popularity", "ndcg_gain")[0]
        if gate.beat_popularity and gain is not None:
            checks.append(Check(f"{task}.ndcg@{k}_against_popularity", "warn", gain, 0.0, gain >= 0))
        checks.append(Check(f"{task}.invalid_rows", "warn", float(invalid[task]), 0.0, invalid[task] == 0))
        checks.append(Check(f"{task}.poisoned_share", "warn", poisoned[task], MAX_POISONED_SHARE, poisoned[task] <= MAX_POISONED_SHARE))
        checks.append(Check(f"{task}.test_examples", "info", float(of("model", "ndcg")[3]), None, True))
    return checks


def table(figures: Figures, methods: tuple[str, ...]) -> str:
    """Methods × tasks, whole test set: what the log shows."""
    lines = []
    for task in sorted({key[0] for key in figures}):
        lines.append(f"{task:<18}{'recall@10':>10}{'ndcg@10':>10}{'95 % interval':>20}{'mrr@10':>10}{'coverage':>10}")
        for method in methods:
            if (task, "all", method, "ndcg", GATE_K) in figures:
                recall, ndcg, mrr, coverage = (figures.get((task, "all", method, name, GATE_K), (0.0,)) for name in ("recall", "ndcg", "mrr", "coverage"))
                lines.append(f"  {method:<16}{recall[0]:10.4f}{ndcg[0]:10.4f}{f'{ndcg[1]:.4f} to {ndcg[2]:.4f}':>20}{mrr[0]:10.4f}{coverage[0]:10.4f}")
    return "\n".join(lines)


def all_rankings(
    spark: SparkSession, config: Config, models: Mapping[str, Row], task: str, train: DataFrame, valid: DataFrame, examples: DataFrame, items: DataFrame, k: int
) -> dict[str, DataFrame]:
    """Method → rankings (RANKING) of the models and the baselines, for one task."""
    requests = as_requests(examples, task, config)
    counts = baselines.training_counts(train).where(F.col("task") == task).drop("task")
    catalogue = on_workers(spark, shelf(items, counts))
    made = {method: model_rankings(spark, config, model, task, requests, catalogue, k) for method, model in models.items() if task in tasks_of(model)}
    for method, frame in baselines.rankings(spark, config, task, train, valid, requests, items, k).items():
        made[method] = frame.withColumn("error", F.lit(None).cast("string"))
    return made


def tasks_of(model: Row) -> list[str]:
    return [task for task in json.loads(model.config)["train"]["tasks"] if task in SERVED]


def measure(
    spark: SparkSession, config: Config, day: date, models: Mapping[str, Row], kinds: DataFrame | None = None
) -> tuple[Figures, list[Check], tuple[str, ...]]:
    """Rank the test examples by every method and count: figures, the gate's checks, the methods. `kinds` as in `with_slices`."""
    ks = tuple(sorted({*config.evaluate.ks, GATE_K}))
    corpora = with_split(read(spark, config, CORPORA, until=day), config.corpora, day)
    slim = ("task", "user_id", "query", "target_item_id", "event_ts")
    train = corpora.where("split = 'train'").select(*slim).persist()
    valid = drawn(corpora, "valid", config.evaluate.max_requests).select(*slim).persist()
    items = read(spark, config, ITEMS, at=day).where("is_available").persist()
    chosen = drawn(corpora, "test", config.evaluate.max_requests).where(F.col("task").isin(tasks_of(models["model"])))
    counts = baselines.training_counts(train)
    tasks = sorted(row.task for row in chosen.select("task").distinct().collect())  # at most two
    if not tasks:
        raise Unjudged(f"no test examples of {', '.join(tasks_of(models['model']))} for {day}: expected corpora rows of the last corpora.test_days day(s)")
    for task in set(tasks_of(models["model"])) - set(tasks):
        log.warning("evaluate: no test examples of %s on %s: the model is judged without it", task, day)
    per_task = [item_popularity(items, counts.where(F.col("task") == task)).withColumn("task", F.lit(task)) for task in tasks]
    popularity = reduce(DataFrame.unionAll, per_task).persist()
    examples = with_slices(chosen, popularity, train, kinds).persist()
    lists = {task: all_rankings(spark, config, models, task, train, valid, examples, items, max(ks)) for task in tasks}
    made = {(task, method): frame for task in tasks for method, frame in lists[task].items()}
    long = [frame.select(F.lit(method).alias("method"), F.lit(task).alias("task"), *RANKING) for (task, method), frame in made.items()]
    rankings = reduce(DataFrame.unionAll, long).persist()
    methods = ("model", *sorted({method for _, method in made} - {"model"}, key=lambda name: (name != "served", name)))
    figures = rank_figures(spark, target_ranks(examples, rankings, methods), methods, ks, config.evaluate.bootstrap)
    figures = {key: figure for key, figure in figures.items() if (key[0], key[2]) in made}
    of_catalogue, unknown = catalogue_figures(rankings, popularity, ks)
    found = faults(rankings)
    invalid = {task: unknown.get((task, "model"), 0) + found.get(task, (0, 0.0))[0] for task in tasks}
    checks = decide(figures | of_catalogue, invalid, {task: found.get(task, (0, 0.0))[1] for task in tasks}, config.gate)
    for frame in (rankings, examples, popularity, items, train, valid):
        frame.unpersist()
    return figures | of_catalogue, checks, methods


def run(config: Config, day: date, run_id: str) -> dict:
    """Returns {"status", "failed", "ndcg@10", "rows"}. Raises MissingInput (no model of the day) and BadData (a failed candidate, or no test
    examples to judge it by, with no served model to go on with)."""
    spark = session(config)
    model = candidate(spark, config, day)
    if model is None:
        raise MissingInput(f"no model of {day} in models (at {path_of(config, MODELS)}); run first, for that day: train")
    rival = champion(spark, config, day, other_than=model.model_version)
    models = {"model": intact(config, model)} | ({"served": intact(config, rival)} if rival else {})
    log.info("evaluate: model %s, served model %s", model.model_version, rival.model_version if rival else "none")
    try:
        figures, checks, methods = measure(spark, config, day, models)
    except Unjudged as error:
        if rival is None:
            raise
        record(spark, config, "evaluate", day, [Check("test_examples", "warn", 0.0, 1.0, False), Check("gate", "warn", 1.0, 0.0, False)], run_id)
        set_status(spark, config, model.model_version, "failed")
        log.warning("evaluate: %s: %s is not passed; the night goes on with %s", error, model.model_version, rival.model_version)
        return {"status": "failed", "failed": ["test_examples"], "ndcg@10": {}, "rows": {"metrics": 0}}
    log.info("evaluate: %s, whole catalogue\n%s", day, table(figures, methods))

    n = {(task, method): figure[3] for (task, name, method, metric, k), figure in figures.items() if (name, metric, k) == ("all", "ndcg", GATE_K)}
    rows = [
        (day, model.model_version, method, task, name, metric, k, value, low, high, size or n[task, method], run_id)
        for (task, name, method, metric, k), (value, low, high, size) in figures.items()
    ]
    done = replace(spark, config, METRICS, day, spark.createDataFrame(rows, schema(METRICS)), run_id, model_version=model.model_version)
    failed = [check for check in checks if not check.passed]
    told = "; ".join(f"{check.name} {check.value:.4f}, allowed {check.threshold}" for check in failed)
    record(spark, config, "evaluate", day, [*checks, Check("gate", "warn", float(len(failed)), 0.0, not failed)], run_id)
    set_status(spark, config, model.model_version, "failed" if failed else "passed")
    if failed and rival is None:
        raise BadData(f"model {model.model_version} failed the gate and there is no other to serve: {told} (limits: [gate])")
    if failed:
        log.warning("evaluate: model %s FAILED the gate (%s); the night goes on with %s", model.model_version, told, rival.model_version)
    ndcg = {f"{task}.{method}": figures[task, "all", method, "ndcg", GATE_K][0] for task, method in sorted(n)}
    return {"status": "failed" if failed else "passed", "failed": [check.name for check in failed], "ndcg@10": ndcg, "rows": {"metrics": done["rows"]}}
