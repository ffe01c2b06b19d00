"""Give every item its name for the model, and never take it away again.     Reads item_embeddings. Writes item_identifiers (the day and scheme), checks.

atomic: one code, the item's ordinal. New items get the next ordinals, in the order of item_id.
semantic: codes of the item's vectors (`identifiers.construction`, `identifiers.quantizer`) and a last code that parts items of equal codes. The naming is
fitted on the first night, stored as artifacts/quantizers/VERSION, and frozen: items keep their codes, new items are encoded by it.
`identifiers.retrain` fits a new one, which renames every item.

Under the dual construction no code is added: items of equal codes part by their own last one (Sinkhorn repair, then the nearest free code).

An item has one name (view `joint`), or one for each task (separate, prefix_share, dual). Under both schemes the names of the newest earlier day are carried
over, also of items that left the catalogue: a name is never given twice. So after a rerun of a past day with another catalogue, rerun the days after it.

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
from jobs.spark import exists, read, session, settled
from jobs.tables import ITEM_EMBEDDINGS, ITEM_IDENTIFIERS
from jobs.writes import replace
from model import naming
from model.naming import Naming
from udfs.embed import NAMED, PARTED, name, part

log = logging.getLogger("tandem")


def atomic(items: DataFrame, before: DataFrame | None) -> DataFrame:
    """(item_id, codes): the identifiers `before` (item_id, codes), and the next ordinals for the items without one."""
    if before is None:
        return numbered(items, "item_id").select("item_id", F.array("number").alias("codes"))
    highest = before.agg(F.max(F.col("codes")[0]).alias("highest")).first()["highest"]
    new = numbered(items.join(before, "item_id", "left_anti"), "item_id", start=highest + 1)
    return before.unionByName(new.select("item_id", F.array("number").alias("codes")))


def semantic(coded: DataFrame, before: DataFrame | None) -> DataFrame:
    """(item_id, view, codes): the identifiers `before`, and for the new items `coded` (item_id, view, levels) their levels and the next free last code."""
    # A window as large as the largest collision.
    place = F.row_number().over(Window.partitionBy("view", "levels").orderBy("item_id")) - 1
    if before is None:
        return coded.select("item_id", "view", F.concat("levels", F.array(place)).alias("codes"))
    taken = before.groupBy("view", levels_of("codes").alias("levels")).agg((F.max(F.element_at("codes", -1)) + 1).alias("free"))
    last = F.coalesce("free", F.lit(0)) + place
    return before.unionByName(coded.join(taken, ["view", "levels"], "left").select("item_id", "view", F.concat("levels", F.array(last)).alias("codes")))


def dual(coded: DataFrame, before: DataFrame | None, folder: str) -> DataFrame:
    """(item_id, view, codes, levels, repaired): the identifiers `before`, and the new items `coded` (rows of NAMED) with last codes that no other item has.

    Only items that share all codes but the last with a colliding one are looked at together. levels, repaired: codes before and after the official
    repair, null for the items of `before`.
    """
    rows = coded
    if before is not None:
        rows = coded.unionByName(before.select("item_id", "view", F.col("codes").alias("levels"), F.lit(None).cast("array<float>").alias("rest")))
    of_prefix = Window.partitionBy("view", levels_of("levels"))
    rows = rows.withColumn("clash", F.count("*").over(Window.partitionBy("view", "levels")) > 1).withColumn("clash", F.max("clash").over(of_prefix))
    new = F.col("rest").isNotNull()
    known, free, busy = rows.where(~new), rows.where(new & ~F.col("clash")), rows.where("clash")
    parted = busy.withColumn("prefix", levels_of("levels").cast("string")).groupBy("view", "prefix").applyInPandas(part(folder), PARTED)
    either = free.select("item_id", "view", F.col("levels").alias("codes"), F.col("levels").alias("repaired")).unionByName(parted)
    named = either.join(coded.select("item_id", "view", "levels"), ["item_id", "view"])
    if before is None:
        return named
    none = F.lit(None).cast("array<int>")
    return named.unionByName(known.select("item_id", "view", F.col("levels").alias("codes"), none.alias("levels"), none.alias("repaired")))


def levels_of(codes: str) -> Column:
    return F.slice(codes, 1, F.size(codes) - 1)


def side_by_side(embeddings: DataFrame, views: tuple[str, ...], frozen: bool) -> DataFrame:
    """(item_id, and a column per view): each item's vectors (unit length, or zeros).

    For a frozen naming the behaviour vector is zeros: tonight's factors have other axes than those it was fitted on, and a new item has hardly any.
    """
    wide = embeddings.groupBy("item_id").pivot("view", list(views)).agg(F.first("vector"))
    if not frozen or "behaviour" not in views:
        return wide
    return wide.withColumn("behaviour", F.transform("behaviour", lambda _: F.lit(0.0).cast("float")))


def fit(config: Config, embeddings: DataFrame, day: date, told: dict) -> Naming:
    """A naming of the day's items; of the items with training events first, where there are more than embed.fit_sample."""
    views = naming.inputs(told["construction"], told["text_side"])
    known = embeddings.where(F.col("view") == "behaviour").select("item_id", F.exists("vector", lambda x: x != 0).alias("known"))
    vectors = side_by_side(embeddings, views, frozen=False).join(known, "item_id")
    # At most embed.fit_sample vectors of some hundred floats: 100 MB on the driver, whatever the catalogue.
    sample = vectors.orderBy(F.desc("known"), F.xxhash64("item_id"), "item_id").limit(config.embed.fit_sample).toPandas().sort_values("item_id")
    columns = {view: np.stack(sample[view].tolist()) for view in views}
    return naming.fit(columns, seed=config.identifiers.seed, fitted_on=str(day), **told)


def promises(config: Config, embeddings: DataFrame) -> dict:
    """What a naming was fitted for, and must be used with. Raises MissingInput where a view that it takes was not made."""
    settings = config.identifiers
    made = {row.view: row.encoder for row in embeddings.select("view", "encoder").distinct().collect()}  # a row per view
    views = naming.inputs(settings.construction, settings.text_side)
    for view in views:
        if view not in made:
            raise MissingInput(f"item_embeddings has no view {view!r}, which identifiers.construction = {settings.construction!r} takes: run embed_items")
    frozen = {f"{view}_encoder": made[view] for view in views if view != "behaviour"}
    of_dual = {"sinkhorn", "every_level", "epochs"} if settings.construction == "dual" else set()
    told = settings.model_dump(include={"construction", "text_side", "quantizer", "levels", "codes"} | of_dual)
    return told | {"shared_levels": settings.shared} | frozen


def frozen_naming(config: Config, version: str, told: dict) -> Naming:
    """The naming that named the items until now; BadArgument where the configuration, or a text encoder, has changed since."""
    folder = artifact_folder(config, "quantizers", version)
    if not folder.is_dir():
        raise MissingInput(f"quantizer {version} of the earlier nights not found at {folder}; restore it, or set identifiers.retrain = true to fit a new one")
    held = naming.load(folder)
    for key, value in told.items():
        if held.settings.get(key) != value:
            raise BadArgument(
                f"quantizer {version} was fitted with {key} = {held.settings.get(key)}, found {value}; "
                f"set it back ([identifiers], [embed]), or set identifiers.retrain = true, which renames every item"
            )
    return held


def measure(named: DataFrame, held: Naming | None) -> list[Check]:
    """Whether the identifiers are unique, and how the quantizer uses its codes; each view's own where an item has two names."""
    total, distinct, names = named.agg(F.count("*"), F.countDistinct("item_id", "view"), F.countDistinct("view", "codes")).first()
    checks = [
        Check("one_identifier_per_item", "fail", float(total - distinct), 0.0, total == distinct),
        Check("one_item_per_identifier", "fail", float(total - names), 0.0, total == names),
        Check("identifiers", "info", float(total), None, True),
    ]
    if held is None:
        return checks
    for view in sorted(row.view for row in named.select("view").distinct().collect()):  # one or two
        prefix = "" if view == naming.JOINT else f"{view}."
        of_view = named.where(F.col("view") == view)
        checks += code_use(of_view, held.level_sizes(view), prefix) if held.settings["construction"] != "dual" else parted_use(of_view, held, prefix)
    return checks


def parted_use(named: DataFrame, held: Naming, prefix: str) -> list[Check]:
    """Of dual: (items - distinct identifiers) / items of the items named tonight, before and after the official repair; what the codes leave
    unexplained of the vectors that they were fitted on; distinct prefixes; and the codes' use."""
    new, before, after = named.where("levels IS NOT NULL").agg(F.count("*"), F.countDistinct("levels"), F.countDistinct("repaired")).first()
    shares = {"collisions_before_repair": before, "collisions_after_repair": after}
    told = [Check(f"{prefix}{name}", "info", (new - distinct) / max(1, new), None, True) for name, distinct in shares.items()]
    told.append(Check(f"{prefix}unexplained_share", "info", held.settings["unexplained"][prefix.rstrip(".")], None, True))
    depths = range(2, held.settings["levels"] + 1)
    prefixes = named.agg(*(F.countDistinct(F.slice("codes", 1, depth)) for depth in depths)).first()
    told += [Check(f"{prefix}prefixes_of_{depth}", "info", float(count), None, True) for depth, count in zip(depths, prefixes, strict=True)]
    return told + levels_use(named.select("codes"), held.level_sizes(prefix.rstrip(".")), prefix)


def code_use(named: DataFrame, level_sizes: list[int], prefix: str) -> list[Check]:
    """Collisions before the last code, and each level's codes in use and their perplexity."""
    groups = named.groupBy(levels_of("codes").alias("levels")).agg(F.count("*").alias("n"))
    total, shared, largest = groups.agg(F.sum("n"), F.coalesce(F.sum(F.when(F.col("n") > 1, F.col("n"))), F.lit(0)), F.max("n")).first()
    checks = [
        Check(f"{prefix}share_colliding_before_last_code", "info", shared / total, None, True),
        Check(f"{prefix}largest_collision", "info", float(largest), None, True),
    ]
    return checks + levels_use(named.select(levels_of("codes").alias("codes")), level_sizes, prefix)


def levels_use(named: DataFrame, level_sizes: list[int], prefix: str) -> list[Check]:
    total = named.count()
    use = named.select(F.posexplode("codes").alias("level", "code")).groupBy("level", "code").agg(F.count("*").alias("n"))
    checks = []
    entropy = F.lit(float(np.log(total))) - F.sum(F.col("n") * F.log("n")) / total
    for row in use.groupBy("level").agg(F.count("*").alias("used"), F.exp(entropy).alias("perplexity")).orderBy("level").collect():  # a row per level
        checks.append(Check(f"{prefix}level_{row.level + 1}_share_of_codes_used", "info", row.used / level_sizes[row.level], None, True))
        checks.append(Check(f"{prefix}level_{row.level + 1}_perplexity", "info", row.perplexity, None, True))
    return checks


def assign(spark: SparkSession, config: Config, day: date, embeddings: DataFrame) -> tuple[DataFrame, str, Naming | None]:
    """(item_id, view, codes, and what the checks need), the version that gave them, and the naming of the semantic scheme."""
    settings = config.identifiers
    before = None
    if exists(spark, config, ITEM_IDENTIFIERS) and not (settings.scheme == "semantic" and settings.retrain):
        before = newest(read(spark, config, ITEM_IDENTIFIERS).where(F.col("scheme") == settings.scheme), day)
    known = before.select("item_id", "view", "codes") if before is not None else None
    if settings.scheme == "atomic":
        ordinals = atomic(embeddings.select("item_id").distinct(), known.drop("view").distinct() if known is not None else None)
        return ordinals.withColumn("view", F.explode(F.array(*map(F.lit, settings.views)))), "atomic", None
    told = promises(config, embeddings)
    if before is None:
        held = fit(config, embeddings, day, told)
        naming.save(held, artifact_folder(config, "quantizers", held.version))
        log.info("quantizer %s fitted: %s, levels of %s codes", held.version, settings.construction, held.level_sizes(settings.views[0]))
    else:
        held = frozen_naming(config, before.first()["version"], told)
    new = embeddings if known is None else embeddings.join(known, "item_id", "left_anti")
    vectors = side_by_side(new, naming.inputs(settings.construction, settings.text_side), frozen=known is not None)
    folder = str(artifact_folder(config, "quantizers", held.version))
    coded = vectors.mapInPandas(name(folder), NAMED)
    if settings.construction == "dual":
        coded = settled(coded)  # the network runs once, not once for each branch that follows
        return dual(coded, known, folder), held.version, held
    return semantic(coded.drop("rest"), known), held.version, held


def run(config: Config, day: date, run_id: str) -> dict:
    spark = session(config)
    scheme = config.identifiers.scheme
    named, version, held = assign(spark, config, day, read(spark, config, ITEM_EMBEDDINGS, at=day))
    named = named.persist()
    try:
        record(spark, config, "assign_identifiers", day, measure(named, held), run_id)
        about = {"scheme": F.lit(scheme), "version": F.lit(version), "ds": F.lit(day)}
        done = replace(spark, config, ITEM_IDENTIFIERS, day, named.select("item_id", "view", "codes").withColumns(about), run_id, scheme=scheme)
    finally:
        named.unpersist()
    log.info("item identifiers %s: %d, by %s", day, done["rows"], version)
    return {"rows": {"item_identifiers": done["rows"]}, "written": {"item_identifiers": done["written"]}, "version": version}
