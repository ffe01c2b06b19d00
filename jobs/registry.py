"""Which model: the day's candidate, and the newest passed one.     Reads and writes models (one row per model_version)."""

import hashlib
from datetime import date
from pathlib import Path

from delta import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs.config import Config
from jobs.errors import BadData
from jobs.spark import exists, path_of, read
from jobs.tables import MODELS
from jobs.writes import WRITTEN, conflict_is_transient, conform, create

LAST = ("trained_at", "model_version")  # of two equal times always the same one, whatever order the files are read in


def save(spark: SparkSession, config: Config, row: DataFrame) -> None:
    """Add the model, or replace the row of the same model_version."""
    create(spark, config, MODELS)
    WRITTEN.add(MODELS.name)
    target = DeltaTable.forPath(spark, path_of(config, MODELS)).alias("old")
    merge = target.merge(conform(MODELS, row).alias("new"), "old.model_version = new.model_version")
    with conflict_is_transient(path_of(config, MODELS)):
        merge.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()


def renew(spark: SparkSession, config: Config, day: date, model_version: str) -> None:
    """The day's candidate is this model again, though another was trained for the day since (a weekly one, a trial); its status stays."""
    now = candidate(spark, config, day)
    if now is not None and now.model_version != model_version:
        table = DeltaTable.forPath(spark, path_of(config, MODELS))
        WRITTEN.add(MODELS.name)
        with conflict_is_transient(path_of(config, MODELS)):
            table.update(F.col("model_version") == F.lit(model_version), {"trained_at": F.current_timestamp()})


def set_status(spark: SparkSession, config: Config, model_version: str, status: str) -> None:
    """trained → passed or failed."""
    table = DeltaTable.forPath(spark, path_of(config, MODELS))
    WRITTEN.add(MODELS.name)
    with conflict_is_transient(path_of(config, MODELS)):
        table.update(F.col("model_version") == F.lit(model_version), {"status": F.lit(status)})


def known(spark: SparkSession, config: Config, model_version: str) -> bool:
    """Whether a model of this version was ever saved, for whatever day."""
    return exists(spark, config, MODELS) and not read(spark, config, MODELS).where(F.col("model_version") == F.lit(model_version)).isEmpty()


def candidate(spark: SparkSession, config: Config, day: date) -> Row | None:
    """The model that was last trained, or asked for again, for the day, whatever its status."""
    if not exists(spark, config, MODELS):
        return None
    return read(spark, config, MODELS).where(F.col("ds") == F.lit(day)).orderBy(*LAST, ascending=False).first()


def champion(spark: SparkSession, config: Config, day: date, other_than: str | None = None) -> Row | None:
    """The newest passed model of a day up to this one: what recommend and search use, and what a candidate is held against."""
    if not exists(spark, config, MODELS):
        return None
    passed = read(spark, config, MODELS, until=day).where((F.col("status") == "passed") & (F.col("model_version") != F.lit(other_than or "")))
    return passed.orderBy("ds", *LAST, ascending=False).first()


def intact(config: Config, model: Row) -> Row:
    """The model, once its manifest is the one that was registered: the manifest holds the hash of every other file, which `model.artifact.load`
    compares. Raises BadData."""
    manifest = Path(config.files, model.artifact, "manifest.json")
    found = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else "no file"
    if found != model.artifact_hash:
        raise BadData(f"{manifest} has hash {found}, models says {model.artifact_hash}: the artifact of {model.model_version} is damaged or was changed")
    return model
