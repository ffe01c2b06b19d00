"""The rivals of the model: popularity, item-item neighbours, matrix factorisation, word search, a bi-encoder.     Reads and writes no table.

Each takes training examples (corpora rows of the split train), requests, and the items that may be answered, and ranks the whole catalogue:
(example_id, rank, item_id, score), at most `depth` rows per request, ties by item_id. A request whose `exclude` holds an item does not
get it. A method that knows nothing of a request answers nothing, and so scores 0 there (`als` on a new user, `bm25` on unknown words).

Requests are (example_id, user_id, query, history, exclude: array<string>). Does not know: targets, metrics, the model.
"""

import logging

from pyspark import Broadcast
from pyspark.ml.recommendation import ALS
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs.config import Config
from jobs.embed_items import sampled, tuned
from udfs import bm25 as words
from udfs import cosine

INDEXED = {"bm25", "bm25_popularity", "biencoder"}  # whose index of the catalogue's texts passes through the driver
METHODS = {"recommend": ("popularity", "itemknn", "als"), "search": ("popularity", "bm25", "bm25_popularity", "biencoder")}

EVENTS_PER_USER = 100  # latest items of a user that are paired with each other, so that no user makes a million pairs
NEIGHBOURS = 100
RECENCY = 0.8  # weight of an action per action that came after it
ALS_RANK, ALS_ROUNDS, ALS_REGULARISATION, ALS_CONFIDENCE = 64, 10, 0.1, 10.0
WEIGHTS = (0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0)  # of log popularity beside BM25

log = logging.getLogger("tandem")


def rankings(
    spark: SparkSession, config: Config, task: str, train: DataFrame, valid: DataFrame, requests: DataFrame, items: DataFrame, depth: int
) -> dict[str, DataFrame]:
    """Method → rankings, of the configured baselines that fit the task. `train` and `valid` hold the rows of both tasks."""
    wanted = {name for name in METHODS[task] if name in config.evaluate.baselines or (name == "popularity" and config.gate.beat_popularity)}
    limit = config.evaluate.max_indexed_items
    if wanted & INDEXED and (found := items.count()) > limit:
        left_out = ", ".join(sorted(wanted & INDEXED))
        log.warning(
            "evaluate: %s left out: their index passes through the driver, %d items found, evaluate.max_indexed_items allows %d", left_out, found, limit
        )
        wanted -= INDEXED
    rows = train.where(F.col("task") == task)
    counts = training_counts(rows).drop("task")
    made = {}
    if "popularity" in wanted:
        made["popularity"] = popularity(requests, counts, items, depth)
    if "itemknn" in wanted:
        made["itemknn"] = itemknn(rows, requests, items, depth)
    if "als" in wanted and not rows.isEmpty():
        made["als"] = als(rows, requests, items, depth, config.embed.seed)
    if wanted & {"bm25", "bm25_popularity"}:
        index = word_index(spark, items, counts)
        if "bm25" in wanted:
            made["bm25"] = bm25(index, requests, 0.0, depth)
        if "bm25_popularity" in wanted:
            weight = bm25_weight(index, valid.where(F.col("task") == task))
            log.info("evaluate: bm25_popularity weighs log popularity by %s, chosen on validation examples", weight)
            made["bm25_popularity"] = bm25(index, requests, weight, depth)
    if "biencoder" in wanted:
        made["biencoder"] = biencoder(spark, config, rows, requests, items, depth)
    return made


def training_counts(train: DataFrame) -> DataFrame:
    """(task, item_id, count): how often an item was the target of a training example."""
    return train.groupBy("task", F.col("target_item_id").alias("item_id")).count()


def popularity(requests: DataFrame, counts: DataFrame, items: DataFrame, depth: int) -> DataFrame:
    """Most counted first. `counts` is (item_id, count) of one task."""
    longest = requests.agg(F.max(F.size("exclude"))).first()[0] or 0
    known = items.select("item_id").join(counts, "item_id", "left").select("item_id", F.coalesce("count", F.lit(0)).cast("double").alias("score"))
    # One row: no request needs more than these, as it excludes `longest` at most.
    top = known.orderBy(F.desc("score"), "item_id").limit(depth + longest).agg(ranking("score").alias("items"))
    return unseen(requests.crossJoin(F.broadcast(top)), depth)


def ranking(score: str) -> Column:
    """A group's items as array<struct<score, item_id>>, best first, ties by item_id."""
    return F.transform(
        F.sort_array(F.collect_list(F.struct((-F.col(score)).alias("cost"), "item_id"))), lambda x: F.struct((-x.cost).alias("score"), x.item_id)
    )


def unseen(lists: DataFrame, depth: int) -> DataFrame:
    """(example_id, exclude, items) → a row per item that is not excluded, the first `depth` of them."""
    kept = F.slice(F.filter("items", lambda x: ~F.array_contains("exclude", x.item_id)), 1, depth)
    exploded = lists.select("example_id", F.posexplode(kept).alias("place", "item"))
    return exploded.select("example_id", (F.col("place") + 1).alias("rank"), "item.item_id", "item.score")


def neighbours(train: DataFrame, items: DataFrame) -> DataFrame:
    """(item_id, neighbour, similarity): cosine of the items' sets of users, the NEIGHBOURS highest per item, among the given items.

    Users are counted with their EVENTS_PER_USER latest items, so a user adds at most that number squared of pairs.
    """
    once = train.groupBy("user_id", F.col("target_item_id").alias("item_id")).agg(F.max("event_ts").alias("last"))
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("last"), "item_id")
    pairs = once.withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= EVENTS_PER_USER).select("user_id", "item_id")
    sizes = pairs.groupBy("item_id").agg(F.count("*").alias("users"))
    others = pairs.join(items.select("item_id"), "item_id", "left_semi").withColumnRenamed("item_id", "neighbour")
    together = pairs.join(others, "user_id").where("item_id != neighbour").groupBy("item_id", "neighbour").agg(F.count("*").alias("both"))
    measured = (
        together.join(sizes, "item_id")
        .join(sizes.select(F.col("item_id").alias("neighbour"), F.col("users").alias("neighbour_users")), "neighbour")
        .select("item_id", "neighbour", (F.col("both") / F.sqrt(F.col("users") * F.col("neighbour_users"))).alias("similarity"))
    )
    nearest = Window.partitionBy("item_id").orderBy(F.desc("similarity"), "neighbour")
    return measured.withColumn("place", F.row_number().over(nearest)).where(F.col("place") <= NEIGHBOURS).drop("place")


def itemknn(train: DataFrame, requests: DataFrame, items: DataFrame, depth: int) -> DataFrame:
    """Neighbours of the history's items, a similarity counting RECENCY^age (Sarwar et al. 2001; the latest action has age 0)."""
    acts = requests.select("example_id", "exclude", F.size("history").alias("length"), F.posexplode("history").alias("place", "act"))
    weight = F.pow(F.lit(RECENCY), F.col("length") - 1 - F.col("place"))
    # Weighted per item before the join: a repeated item is looked up once.
    wanted = acts.groupBy("example_id", F.col("act.item_id").alias("item_id")).agg(F.sum(weight).alias("weight"), F.first("exclude").alias("exclude"))
    found = (
        wanted.join(neighbours(train, items), "item_id")
        .where(~F.array_contains("exclude", F.col("neighbour")))
        .groupBy("example_id", F.col("neighbour").alias("item_id"))
        .agg(F.round(F.sum(F.col("weight") * F.col("similarity")), 12).alias("score"))  # rounded: a sum's last bits hang on its order
    )
    best_first = Window.partitionBy("example_id").orderBy(F.desc("score"), "item_id")
    return found.withColumn("rank", F.row_number().over(best_first)).where(F.col("rank") <= depth).select("example_id", "rank", "item_id", "score")


def numbered(train: DataFrame, key: str, number: str) -> DataFrame:
    """(key, number): the distinct keys in order, 0, 1, …, as ALS wants them. One task streams them, keys alone."""
    return train.select(key).distinct().repartition(1).sortWithinPartitions(key).withColumn(number, F.monotonically_increasing_id().cast("int"))


def als(train: DataFrame, requests: DataFrame, items: DataFrame, depth: int, seed: int) -> DataFrame:
    """Implicit-feedback matrix factorisation (Hu et al. 2008) by Spark ML, the users' factors against the items'."""
    users, things = numbered(train, "user_id", "user"), numbered(train, "target_item_id", "item")
    counted = train.groupBy("user_id", "target_item_id").agg(F.count("*").cast("float").alias("rating"))
    ratings = counted.join(users, "user_id").join(things, "target_item_id").select("user", "item", "rating")
    # checkpointInterval off: it wants a checkpoint folder, and ten rounds need none
    factors = ALS(
        rank=ALS_RANK,
        maxIter=ALS_ROUNDS,
        regParam=ALS_REGULARISATION,
        alpha=ALS_CONFIDENCE,
        implicitPrefs=True,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        seed=seed,
        checkpointInterval=-1,
    ).fit(ratings)
    known = requests.join(users, "user_id")
    longest = requests.agg(F.max(F.size("exclude"))).first()[0] or 0
    gone = things.join(items.select(F.col("item_id").alias("target_item_id")), "target_item_id", "left_anti").count()
    lists = factors.recommendForUserSubset(known.select("user").distinct(), depth + longest + min(gone, 1000))
    names = things.join(items.select(F.col("item_id").alias("target_item_id")), "target_item_id", "left_semi")
    rows = lists.select("user", F.explode("recommendations").alias("r")).select("user", F.col("r.item").alias("item"), F.col("r.rating").alias("score"))
    named = rows.join(names, "item").select("user", F.col("target_item_id").alias("item_id"), F.col("score").cast("double").alias("score"))
    per_user = named.groupBy("user").agg(ranking("score").alias("items"))
    return unseen(known.join(per_user, "user"), depth)


def word_index(spark: SparkSession, items: DataFrame, counts: DataFrame) -> Broadcast:
    """What `udfs.bm25` searches in. It passes through the driver: the texts of at most
    evaluate.max_indexed_items items once, then the index of their words."""
    frame = (
        items.join(counts, "item_id", "left")
        .select("item_id", "text", F.log1p(F.coalesce("count", F.lit(0))).alias("popularity"))
        .orderBy("item_id")
        .toPandas()
    )
    return spark.sparkContext.broadcast((words.build(frame["text"].tolist()), frame["item_id"].tolist(), frame["popularity"].to_numpy()))


def bm25(index: Broadcast, requests: DataFrame, weight: float, depth: int) -> DataFrame:
    """BM25 + weight × log(1 + training clicks of search). Each distinct query is searched once."""
    found = requests.select("query").distinct().mapInPandas(words.searcher(index, weight, depth), words.FOUND)
    return requests.select("example_id", "query").join(found, "query").select("example_id", "rank", "item_id", "score")


def bm25_weight(index: Broadcast, valid: DataFrame, k: int = 10) -> float:
    """The weight of WEIGHTS with the best NDCG@k on validation examples (query, target_item_id); the least among equals, 0 without any."""
    targets = valid.groupBy("query").agg(F.collect_list("target_item_id").alias("targets"))
    tried = targets.mapInPandas(words.trial(index, WEIGHTS, k), words.TRIED).groupBy("weight").agg(F.round(F.sum("gain"), 9).alias("gain"))
    best = tried.orderBy(F.desc("gain"), "weight").first()
    return best.weight if best else 0.0


def biencoder(spark: SparkSession, config: Config, train: DataFrame, requests: DataFrame, items: DataFrame, depth: int) -> DataFrame:
    """Items by the cosine of their text to the query, both by the search-tuned bi-encoder (`model.biencoder`) of the training rows.

    A sample of items and pairs passes through the driver (embed.fit_sample), as do the items' texts for the index, of at most
    evaluate.max_indexed_items. Each distinct query is searched once.
    """
    encoder = tuned(config, sampled(items, config.embed), train, {"view": "search", "item_pairs": 0.0})
    texts = items.select("item_id", "text").orderBy("item_id").toPandas()
    index = spark.sparkContext.broadcast((encoder, texts["item_id"].tolist(), encoder.encode(texts["text"].tolist())))
    found = requests.select("query").where("query IS NOT NULL").distinct().mapInPandas(cosine.searcher(index, depth), words.FOUND)
    return requests.select("example_id", "query").join(found, "query").select("example_id", "rank", "item_id", "score")
