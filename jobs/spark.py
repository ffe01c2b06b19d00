"""The one SparkSession, and the only way out of the lake: read, at the latest or a given version.

Reads every table of `tables.py`, as Delta folders below `lake.root`. Knows no verb. What goes in goes through `jobs.writes`.
"""

import glob
import os
import sys
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version as distribution_version
from pathlib import Path

from delta import DeltaTable, configure_spark_with_delta_pip
from pyspark import SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.config import Config
from jobs.errors import MissingInput
from jobs.tables import Table

CODE_VERSION = distribution_version("tandem")
IVY = ".ivy2.5.2"  # Spark 4's cache of jars, below the home
# What the running step has read (table → versions), for its row of `lineage`.
READ: dict[str, set[int]] = {}


def session(config: Config) -> SparkSession:
    """The running session, or a new one: embedded unless `spark.master` or spark-submit says otherwise.

    Under spark-submit the driver's JVM runs before this does: its master, memory, Java options and jars are what spark-submit was told.
    """
    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    if SparkContext._active_spark_context is not None:  # another thread's: given options, getOrCreate would write them into a session in use
        return SparkSession.builder.getOrCreate()
    # Workers must run this interpreter: another Python on the path gives PYTHON_VERSION_MISMATCH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    cores = os.cpu_count() or 1
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # how spark-submit tells the Python it starts where its JVM listens
    master = config.spark.master or (None if submitted else "local[*]")
    builder = (
        SparkSession.builder.appName("tandem")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.memory", config.spark.driver_memory)
        # Xss: the lineage of ten ALS rounds overflows the default stack of 1 MB
        .config("spark.driver.extraJavaOptions", "-Duser.timezone=UTC -XX:+UseSerialGC -Xss8m -Dlog4j2.level=ERROR")
        .config("spark.sql.shuffle.partitions", config.spark.shuffle_partitions or 2 * cores)
        .config("spark.databricks.delta.snapshotPartitions", 2)  # the default runs 50 tasks per snapshot read
        .config("spark.sql.sources.parallelPartitionDiscovery.parallelism", 2)
        .config("spark.sql.files.openCostInBytes", 512 * 1024)  # many small day partitions: pack them into few tasks
        .config("spark.sql.autoBroadcastJoinThreshold", "64m")  # ids of a million items; each join that moves no log saves its sort
        # What a step persists it reads two or three times: looking for the best compression of each column cost more (half of a persist's time).
        .config("spark.sql.inMemoryColumnarStorage.compressed", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 1024)
        .config("spark.sql.execution.pyspark.udf.faulthandler.enabled", "true")
        .config("spark.sql.execution.pyspark.udf.idleTimeoutSeconds", 1800)
        .config("spark.sql.execution.pyspark.udf.killOnIdleTimeout", "true")  # else a worker that hangs is only told of in the log
        .config("spark.ui.enabled", "false")
        # Ivy's own choice is the home of the password file, ours that of $HOME; where they differ, as in containers, jars would be fetched again and again.
        .config("spark.jars.ivy", str(Path.home() / IVY))
        .config("spark.ui.showConsoleProgress", "false")
    )
    if master:
        builder = builder.master(master)
    if master and master.startswith("local"):
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    if not submitted:
        builder = builder.config("spark.executor.extraJavaOptions", "-Duser.timezone=UTC -Xss8m")  # of a cluster named by spark.master
    for key, value in config.spark.conf.items():
        builder = builder.config(key, value)
    if not submitted:
        jars = delta_jars()
        # Delta is one entry of such a list: what the configuration names there stands beside it.
        own = config.spark.conf.get("spark.jars" if jars else "spark.jars.packages", "")
        more = own.split(",") if own else []
        builder = builder.config("spark.jars", ",".join(jars + more)) if jars else configure_spark_with_delta_pip(builder, more)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def delta_jars() -> list[str]:
    """The Delta jars that an earlier session fetched: naming them skips Ivy (5 s, and a race when two sessions start)."""
    version = distribution_version("delta-spark")
    for cache in (IVY, ".ivy2"):
        found = sorted(glob.glob(str(Path.home() / cache / "jars" / f"io.delta_delta-*{version}.jar")))
        antlr = glob.glob(str(Path.home() / cache / "jars" / "org.antlr_antlr4-runtime-*.jar"))
        if len(found) >= 2:
            return found + antlr
    return []


def path_of(config: Config, table: Table) -> str:
    return f"{config.lake.root.rstrip('/')}/{table.name}"


def exists(spark: SparkSession, config: Config, table: Table) -> bool:
    return DeltaTable.isDeltaTable(spark, path_of(config, table))


def current_version(spark: SparkSession, config: Config, table: Table) -> int | None:
    """The table's latest Delta version; None where it does not exist."""
    if not exists(spark, config, table):
        return None
    return int(DeltaTable.forPath(spark, path_of(config, table)).history(1).first()["version"])


def versions(spark: SparkSession, config: Config, tables: Iterable[Table]) -> dict[str, int]:
    """Table → latest Delta version, of those that exist."""
    found = {table.name: current_version(spark, config, table) for table in tables}
    return {name: version for name, version in found.items() if version is not None}


def written_up_to(spark: SparkSession, config: Config, table: Table, day: date) -> int:
    """The version that last wrote a day up to this one: what came of later days has not changed what a reader of this day sees.

    The latest version where the log no longer tells (Delta keeps 30 days of it).
    """
    history = DeltaTable.forPath(spark, path_of(config, table)).history()
    of_day = F.get_json_object("userMetadata", "$.ds") <= F.lit(day.isoformat())
    found = history.agg(F.max(F.when(of_day, F.col("version"))).alias("of_day"), F.max("version").alias("latest")).first()
    return int(found.latest if found.of_day is None else found.of_day)


def read(spark: SparkSession, config: Config, table: Table, *, at: date | None = None, until: date | None = None, version: int | None = None) -> DataFrame:
    """The table, or its day `at`, or its days `until` (inclusive), at the latest or a given Delta version.

    Raises MissingInput where the table, or the day asked for by `at`, is not there.
    """
    if not exists(spark, config, table):
        raise MissingInput(f"table {table.name} not found at {path_of(config, table)} (lake.root); it is written by: {table.written_by}")
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    elif table.name not in READ:
        version = current_version(spark, config, table)
    READ.setdefault(table.name, set()).update({version} - {None})
    frame = reader.load(path_of(config, table))
    absent = {c.name: F.lit(None).cast(c.type) for c in table.columns if not c.required and c.name not in frame.columns}  # a version from before the column
    frame = frame.withColumns(absent) if absent else frame
    if until is not None:
        frame = frame.where(F.col("ds") <= F.lit(until))
    if at is not None:
        frame = frame.where(F.col("ds") == F.lit(at))
        if frame.isEmpty():
            raise MissingInput(f"table {table.name} has no rows for {at} (at {path_of(config, table)}); run first, for that day: {table.written_by}")
    return frame


def settled(frame: DataFrame) -> DataFrame:
    """The frame computed once, now, without the plan it came from; two executors hold each row where there are two, so that losing one loses none."""
    return frame.localCheckpoint(storageLevel=StorageLevel.MEMORY_AND_DISK_2)
