"""The only ways into the lake: replace a day, append; or, in a dry run, what that would change.

Writes every table of `tables.py`. Knows no verb.

`replace` is the only writer of a day. It refuses a frame that breaks the table's promise before anything is written, leaves the
day as it is when the content is the same, and otherwise commits once: Delta's `replaceWhere` on the declared partition.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from typing import Any

from delta import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.config import Config
from jobs.errors import BadArgument, BadData, Transient
from jobs.spark import CODE_VERSION, path_of
from jobs.tables import Table

# What the running step has written, for its row of `lineage`.
WRITTEN: set[str] = set()
# In a dry run writers say what they would change, and change nothing.
DRY_RUN = ContextVar("DRY_RUN", default=False)
# A table's first commit takes a second; a log without one that is older than this was left by a killed creator.
CREATING_SECONDS = 60
# The last is what a creator is told when another made the log's folder a moment before, and nothing in it yet.
CONFLICTS = r"Concurrent\w+Exception|DELTA_CONCURRENT|MetadataChangedException|ProtocolChangedException|NON_EMPTY_LOCATION|DELTA_TABLE_NOT_FOUND"

log = logging.getLogger("tandem")


def create(spark: SparkSession, config: Config, table: Table) -> None:
    """Make the empty table with its comments and constraints; nothing where it exists with the declared columns.

    A table from before a column that may be null gets that column, in one commit that changes nothing else; its old rows are null there.
    Raises BadData where the table differs in any other way.
    """
    path = path_of(config, table)
    if DeltaTable.isDeltaTable(spark, path):
        found = {f.name: f.dataType.simpleString() for f in spark.read.format("delta").load(path).schema}
        declared = {f.name: f.dataType.simpleString() for f in schema(table)}
        added = {column.name for column in table.columns if not column.required} - found.keys()
        if wrong := sorted(name for name in (found.keys() | declared.keys()) - added if found.get(name) != declared.get(name)):
            told = "; ".join(f"{name}: expected {declared.get(name, 'no such column')}, found {found.get(name, 'no such column')}" for name in wrong)
            raise BadData(f"table {table.name} at {path} has another schema than declared: {told}")
        if added:
            # No rows: a commit of the schema alone. `overwriteSchema` would lose comments and NOT NULL.
            commit(spark.createDataFrame([], schema(table)).write.format("delta").mode("append").option("mergeSchema", "true"), path)
        return
    clear_abandoned(spark, table, path)
    # Delta's builder reads a location that begins with a dot as a name, not as a path, and file:///a as another place than file:/a, which Spark makes of it.
    location = spark._jvm.org.apache.hadoop.fs.Path(absolute(path)).toString()
    builder = DeltaTable.createIfNotExists(spark).location(location).comment(f"One row per {table.grain}. Written by {table.written_by}.")
    for column, declared_field in zip(table.columns, schema(table), strict=True):
        builder = builder.addColumn(column.name, declared_field.dataType, nullable=not column.required, comment=column.comment)
    if table.partition:
        builder = builder.partitionedBy(*table.partition)
    builder = builder.property("delta.enableDeletionVectors", "false")
    for name, value in retention(config).items():
        builder = builder.property(name, value)
    for name, condition in table.checks.items():
        # What ALTER TABLE ADD CONSTRAINT would set, in the creating commit: no table without its checks after a kill, and 1 s instead of 14.
        builder = builder.property(f"delta.constraints.{table.name}_{name}", condition)
    with conflict_is_transient(path):
        builder.execute()


def absolute(path: str) -> str:
    """The path as Delta takes one in SQL and in its builder, where a relative one would be a table's name."""
    return path if "://" in path else os.path.abspath(path)


def clear_abandoned(spark: SparkSession, table: Table, path: str) -> None:
    """Make way for a table whose creator was killed before its first commit: Delta alone would refuse the place for ever.

    Raises Transient where the creator may still be at work, BadData where other files lie there. A log that ever held a commit does
    not come here: Delta reads it as a table, or refuses it as a damaged one.
    """
    place = spark._jvm.org.apache.hadoop.fs.Path(path)
    files = place.getFileSystem(spark._jsc.hadoopConfiguration())
    found = list(files.listStatus(place)) if files.exists(place) else []
    logs = [entry for entry in found if entry.getPath().getName() == "_delta_log"]
    ages = [time.time() - entry.getModificationTime() / 1000 for log in logs for entry in (log, *files.listStatus(log.getPath()))]
    if found and (min(ages, default=CREATING_SECONDS) < CREATING_SECONDS or DeltaTable.isDeltaTable(spark, path)):
        raise Transient(f"another writer is creating {path}; nothing of this run was written; retry")
    if len(found) > len(logs):
        raise BadData(f"table {table.name}: its place {path} (lake.root) holds files and is no Delta table; move them away")
    for log in logs:
        files.delete(log.getPath(), True)


def retention(config: Config) -> dict[str, str]:
    """The Delta properties that keep old versions readable: their files, and the log that names them."""
    kept = f"interval {config.maintain.keep_days} days"
    return {"delta.deletedFileRetentionDuration": kept, "delta.logRetentionDuration": kept}


def schema(table: Table) -> T.StructType:
    parsed = T.StructType.fromDDL(", ".join(f"{c.name} {c.type}" for c in table.columns))
    return T.StructType([T.StructField(f.name, f.dataType, not c.required, {"comment": c.comment}) for f, c in zip(parsed, table.columns, strict=True)])


def conform(table: Table, frame: DataFrame) -> DataFrame:
    """The frame with the table's columns in their order, or BadData naming each column that is missing, extra or of another type."""
    found = {f.name: f.dataType.simpleString() for f in frame.schema}
    declared = {f.name: f.dataType.simpleString() for f in schema(table)}
    wrong = [f"{name}: expected {kind}, found {found.get(name, 'no such column')}" for name, kind in declared.items() if found.get(name) != kind]
    wrong += [f"{name}: expected no such column, found {found[name]}" for name in found if name not in declared]
    if wrong:
        raise BadData(f"table {table.name} refuses the frame: " + "; ".join(wrong))
    return frame.select(*table.names)


def replace(
    spark: SparkSession,
    config: Config,
    table: Table,
    day: date,
    frame: DataFrame,
    run_id: str,
    *,
    allow_empty: bool = False,
    held: bool = False,
    details: Mapping[str, Any] | None = None,
    **partition: str,
) -> dict[str, int]:
    """Make the frame the whole content of one day (and of further partition columns, where named) of the table.

    The frame is read twice and kept meanwhile; unless it is `held`: it takes no more than a filter from what the caller persists.
    Returns {"rows": rows of the day, "written": rows committed, 0 where the content was already there}.
    Raises BadData: another schema, rows of another day, a null or a failed check (named), or no rows. The table is then as it was.
    Raises Transient: another writer changed the same day meanwhile.
    """
    where = {"ds": day.isoformat()} | partition
    for name, value in where.items():
        if name not in table.partition or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,200}", value):
            raise BadArgument(f"partition {name} = {value!r} of table {table.name}: expected a column of {table.partition} and letters, digits or _.:-")
    condition = " AND ".join(f"{name} = '{value}'" for name, value in where.items())
    frame = conform(table, frame)
    if not held:
        frame = frame.persist()
    if not DRY_RUN.get():
        WRITTEN.add(table.name)
    try:
        new = audit(table, frame, condition)
        if new["rows"] == 0 and not allow_empty:
            raise BadData(f"EMPTY_INPUT: no rows for {table.name} where {condition}; the day is left as it is")
        path = path_of(config, table)
        if DRY_RUN.get():
            return {"rows": new["rows"], "written": new["rows"] if would_change(spark, table, path, frame, condition) else 0}
        create(spark, config, table)
        old = audit(table, spark.read.format("delta").load(path).where(condition), condition)
        if (old["rows"], old["content"]) == (new["rows"], new["content"]):
            return {"rows": new["rows"], "written": 0}
        metadata = {"run_id": run_id, "table": table.name, **where, "config_hash": config.hash(), "code_version": CODE_VERSION, **(details or {})}
        writer = frame.write.format("delta").mode("overwrite").option("replaceWhere", condition)
        commit(writer.option("userMetadata", json.dumps(metadata)), path)
        return {"rows": new["rows"], "written": new["rows"]}
    finally:
        if not held:
            frame.unpersist()


def would_change(spark: SparkSession, table: Table, path: str, frame: DataFrame, condition: str) -> bool:
    """Log how many rows of the partition would come and go, were the frame its content."""
    stable = [name for name in table.names if name not in table.volatile]
    new = frame.select(*stable)
    old = new.limit(0)
    if DeltaTable.isDeltaTable(spark, path):
        old = old.unionByName(spark.read.format("delta").load(path).where(condition).drop(*table.volatile), allowMissingColumns=True)
    come, go = new.exceptAll(old).count(), old.exceptAll(new).count()
    log.info("dry run: %s where %s: %d rows would be new, %d would go", table.name, condition, come, go)
    return bool(come or go)


def audit(table: Table, frame: DataFrame, condition: str) -> dict[str, int]:
    """Rows and content hash of the frame, in one pass; BadData names the first broken promise and how many rows break it."""
    rules = {f"{c.name} is not null": f"{c.name} IS NOT NULL" for c in table.columns if c.required}
    rules |= {f"{name}: {rule}": f"({rule})" for name, rule in table.checks.items()}
    rules[f"partition: {condition}"] = f"({condition})"
    stable = [F.col(name) for name in table.names if name not in table.volatile]
    # A sum of row hashes does not depend on the order of rows; wrapped to 18 digits so that ANSI mode never overflows.
    content = F.sum((F.xxhash64(*stable) % 1_000_000_007).cast("decimal(38,0)"))
    broken = [F.count_if(~F.coalesce(F.expr(rule), F.lit(False))).alias(f"rule{i}") for i, rule in enumerate(rules.values())]
    row = frame.agg(F.count("*").alias("rows"), content.alias("content"), *broken).first()
    for i, name in enumerate(rules):
        if row[f"rule{i}"]:
            raise BadData(f"table {table.name} refuses {row[f'rule{i}']} of {row['rows']} rows: the promise `{name}` is broken")
    return {"rows": row["rows"], "content": int(row["content"] or 0)}


@contextmanager
def dry_run(really: bool) -> Iterator[None]:
    """Writers of the block write nothing where it is `really` a dry run."""
    token = DRY_RUN.set(really)
    try:
        yield
    finally:
        DRY_RUN.reset(token)


@contextmanager
def tagged(spark: SparkSession, **metadata: str) -> Iterator[None]:
    """Deletes and merges of the block carry the metadata that `replace` gives its commits."""
    key = "spark.databricks.delta.commitInfo.userMetadata"
    spark.conf.set(key, json.dumps(metadata))
    try:
        yield
    finally:
        spark.conf.unset(key)


def append(spark: SparkSession, config: Config, table: Table, frame: DataFrame, run_id: str) -> None:
    """Add rows to a table that only grows; nothing in a dry run."""
    if DRY_RUN.get():
        return
    create(spark, config, table)
    WRITTEN.add(table.name)
    frame = conform(table, frame)
    commit(frame.write.format("delta").mode("append").option("userMetadata", json.dumps({"run_id": run_id, "table": table.name})), path_of(config, table))


def commit(writer: Any, path: str) -> None:
    with conflict_is_transient(path):
        writer.save(path)


@contextmanager
def conflict_is_transient(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the conflict classes differ between py4j and Connect: their name is what is stable
        if re.search(CONFLICTS, str(error)):
            raise Transient(f"another writer changed {path} at the same time; nothing of this run was written; retry") from error
        raise
