"""Give every item its name for the model, and never take it away again.     Reads item_embeddings. Writes item_identifiers (the day and scheme), checks.

atomic: one code, the item's ordinal. New items get the next ordinals, in the order of item_id.
semantic: residual k-means codes of the item's vectors and a last code that parts items of equal codes. The quantizer is fitted on the first night,
stored as artifacts/quantizers/VERSION, and frozen: items keep their codes, new items are encoded by it. `identifiers.retrain` fits a new one, which
renames every item.

Under both schemes the names of the newest earlier day are carried over, also of items that left the catalogue: a name is never given twice. So after
a rerun of a past day with another catalogue, rerun the days after it.

Does not know: what the vectors mean, how the model reads a code.
"""

import logging
from datetime import date

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.checks import Check, record
from jobs.config import Config
from jobs.embed_items import artifact_folder, newest, numbered
from jobs.errors import BadArgument, MissingInput
from jobs.spark import exists, read, replace, session
from jobs.tables import ITEM_EMBEDDINGS, ITEM_IDENTIFIERS
from model import identifiers
from model.identifiers import Quantizer
from udfs.embed import quantize

log = logging.getLogger("tandem")


def atomic(items: DataFrame, before: DataFrame | None) -> DataFrame:
    """(item_id, codes): the identifiers `before` (item_id, codes), and the next ordinals for the items without one."""
    if before is None:
        return numbered(items, "item_id").select("item_id", F.array("number").alias("codes"))
    highest = before.agg(F.max(F.col("codes")[0]).alias("highest")).first()["highest"]
    new = numbered(items.join(before, "item_id", "left_anti"), "item_id", start=highest + 1)
    return before.unionByName(new.select("item_id", F.array("number").alias("codes")))


def semantic(coded: DataFrame, before: DataFrame | None) -> DataFrame:
    """(item_id, codes): the identifiers `before`, and for the new items `coded` (item_id, levels) their levels and the next free last code."""
    place = F.row_number().over(Window.partitionBy("levels").orderBy("item_id")) - 1  # a window as large as the largest collision
    if before is None:
        return coded.select("item_id", F.concat("levels", F.array(place)).alias("codes"))
    taken = before.groupBy(levels_of("codes").alias("levels")).agg((F.max(F.element_at("codes", -1)) + 1).alias("free"))
    last = F.coalesce("free", F.lit(0)) + place
    return before.unionByName(coded.join(taken, "levels", "left").select("item_id", F.concat("levels", F.array(last)).alias("codes")))


def levels_of(codes: str) -> Column:
    return F.slice(codes, 1, F.size(codes) - 1)


def joined(embeddings: DataFrame, views: tuple[str, ...], frozen: bool) -> DataFrame:
    """(item_id, vector): the views' vectors (unit length each, or zeros) end to end, in the order of `views`.

    For a frozen quantizer the behaviour part is zeros: tonight's factors have other axes than those it was fitted on, and a new item has hardly any.
    """
    nothing = {view: F.transform(view, lambda _: F.lit(0.0).cast("float")) if frozen and view == "behaviour" else F.col(view) for view in views}
    wide = embeddings.groupBy("item_id").pivot("view", list(views)).agg(F.first("vector"))
    return wide.select("item_id", F.concat(*(nothing[view] for view in views)).alias("vector"))


def fit(config: Config, embeddings: DataFrame, day: date, encoder: str) -> Quantizer:
    """A quantizer of the day's items; of the items with training events first, where there are more than embed.fit_sample."""
    settings = config.identifiers
    known = embeddings.where(F.col("view") == "behaviour").select("item_id", F.exists("vector", lambda x: x != 0).alias("known"))
    vectors = joined(embeddings, settings.views, frozen=False).join(known, "item_id")
    # At most embed.fit_sample vectors of some hundred floats: 100 MB on the driver, whatever the catalogue.
    sample = vectors.orderBy(F.desc("known"), F.xxhash64("item_id"), "item_id").limit(config.embed.fit_sample).toPandas().sort_values("item_id")
    return identifiers.fit(np.stack(sample["vector"].tolist()), seed=settings.seed, fitted_on=str(day), **promises(config, encoder))


def promises(config: Config, encoder: str) -> dict:
    """What a quantizer was fitted for, and must be used with."""
    settings = config.identifiers
    return {"levels": settings.levels, "codes": settings.codes, "views": list(settings.views), "text_encoder": encoder if "text" in settings.views else None}


def frozen_quantizer(config: Config, version: str, encoder: str) -> Quantizer:
    """The quantizer that named the items until now; BadArgument where the configuration, or the text encoder, has changed since."""
    folder = artifact_folder(config, "quantizers", version)
    if not folder.is_dir():
        raise MissingInput(f"quantizer {version} of the earlier nights not found at {folder}; restore it, or set identifiers.retrain = true to fit a new one")
    quantizer = identifiers.load(folder)
    for key, value in promises(config, encoder).items():
        if quantizer.settings[key] != value:
            raise BadArgument(
                f"quantizer {version} was fitted with {key} = {quantizer.settings[key]}, found {value}; "
                f"set it back ([identifiers], [embed]), or set identifiers.retrain = true, which renames every item"
            )
    return quantizer


def measure(named: DataFrame, scheme: str, quantizer: Quantizer | None) -> list[Check]:
    """Whether the identifiers are unique, and how the quantizer uses its codes."""
    total, distinct, names = named.agg(F.count("*"), F.countDistinct("item_id"), F.countDistinct("codes")).first()
    checks = [
        Check("one_identifier_per_item", "fail", float(total - distinct), 0.0, total == distinct),
        Check("one_item_per_identifier", "fail", float(total - names), 0.0, total == names),
        Check("identifiers", "info", float(total), None, True),
    ]
    if scheme == "atomic" or quantizer is None:
        return checks
    groups = named.groupBy(levels_of("codes").alias("levels")).agg(F.count("*").alias("n"))
    shared, largest = groups.agg(F.coalesce(F.sum(F.when(F.col("n") > 1, F.col("n"))), F.lit(0)), F.max("n")).first()
    checks.append(Check("share_colliding_before_last_code", "info", shared / total, None, True))
    checks.append(Check("largest_collision", "info", float(largest), None, True))
    use = named.select(F.posexplode(levels_of("codes")).alias("level", "code")).groupBy("level", "code").agg(F.count("*").alias("n"))
    entropy = F.lit(float(np.log(total))) - F.sum(F.col("n") * F.log("n")) / total
    for row in use.groupBy("level").agg(F.count("*").alias("used"), F.exp(entropy).alias("perplexity")).orderBy("level").collect():  # a row per level
        checks.append(Check(f"level_{row.level + 1}_share_of_codes_used", "info", row.used / quantizer.codebooks.shape[1], None, True))
        checks.append(Check(f"level_{row.level + 1}_perplexity", "info", row.perplexity, None, True))
    return checks


def assign(spark: SparkSession, config: Config, day: date, embeddings: DataFrame) -> tuple[DataFrame, str, Quantizer | None]:
    """(item_id, codes), the version that gave them, and the quantizer of the semantic scheme."""
    settings = config.identifiers
    before = None
    if exists(spark, config, ITEM_IDENTIFIERS) and not (settings.scheme == "semantic" and settings.retrain):
        before = newest(read(spark, config, ITEM_IDENTIFIERS).where(F.col("scheme") == settings.scheme), day)
    known = before.select("item_id", "codes") if before is not None else None
    if settings.scheme == "atomic":
        return atomic(embeddings.select("item_id").distinct(), known), "atomic", None
    encoder = embeddings.where(F.col("view") == "text").first()["encoder"]
    if before is None:
        quantizer = fit(config, embeddings, day, encoder)
        identifiers.save(quantizer, artifact_folder(config, "quantizers", quantizer.version))
        log.info("quantizer %s fitted: %d levels of %d codes", quantizer.version, *quantizer.codebooks.shape[:2])
    else:
        quantizer = frozen_quantizer(config, before.first()["version"], encoder)
    folder = artifact_folder(config, "quantizers", quantizer.version)
    new = joined(embeddings if known is None else embeddings.join(known, "item_id", "left_anti"), settings.views, frozen=known is not None)
    coded = new.select("item_id", quantize(str(folder))("vector").alias("levels"))
    return semantic(coded, known), quantizer.version, quantizer


def run(config: Config, day: date, run_id: str) -> dict:
    spark = session(config)
    scheme = config.identifiers.scheme
    named, version, quantizer = assign(spark, config, day, read(spark, config, ITEM_EMBEDDINGS, at=day))
    named = named.persist()
    try:
        record(spark, config, "assign_identifiers", day, measure(named, scheme, quantizer), run_id)
        about = {"scheme": F.lit(scheme), "view": F.lit("joint"), "version": F.lit(version), "ds": F.lit(day)}
        done = replace(spark, config, ITEM_IDENTIFIERS, day, named.withColumns(about), run_id, scheme=scheme)
    finally:
        named.unpersist()
    log.info("item identifiers %s: %d, by %s", day, done["rows"], version)
    return {"rows": {"item_identifiers": done["rows"]}, "written": {"item_identifiers": done["written"]}, "version": version}
