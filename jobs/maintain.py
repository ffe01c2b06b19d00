"""Keep the lake small, and every promised version readable: pack small files, delete files that no version of the last days needs.

Reads and writes every table's files, never its rows; writes checks (step maintain). Knows no model.

The promise: for `maintain.keep_days` days after it was replaced, every version of every table can be read, and so every release of those days be
served and rolled back to. Delta deletes a file only when it left the current version longer ago than that, and refuses less than seven days; here
nothing switches that check off. One case it cannot know: nights that have stood still for longer, so that the served release itself is older.
Then the published tables keep all their files.

The policy of packing: whatever lies in one partition in several files below Delta's target size becomes one. It changes no row and no statistic that
another step looks at, and commits only where there is something to pack.
"""

import logging
from datetime import UTC, date, datetime, timedelta

from delta import DeltaTable
from pyspark.sql import SparkSession

from jobs.checks import Check, record
from jobs.config import Config
from jobs.release import served
from jobs.spark import exists, path_of, session
from jobs.tables import PUBLISHED, TABLES, Table
from jobs.writes import absolute, conflict_is_transient, retention

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str) -> dict:
    """Returns {"packed": table → files that became fewer, "kept": published tables whose old files were not touched}. Raises Transient."""
    spark = session(config)
    tables = [table for table in TABLES.values() if exists(spark, config, table)]
    release = served(spark, config)
    stale = release is not None and release.released_at.astimezone(UTC) < datetime.now(UTC) - timedelta(days=config.maintain.keep_days)
    kept = [table.name for table in PUBLISHED if stale and table in tables]
    packed = {}
    for table in tables:
        promise(spark, config, table)
        packed[table.name] = pack(spark, config, table)
        if table.name not in kept:
            DeltaTable.forPath(spark, path_of(config, table)).vacuum(24 * config.maintain.keep_days)
        log.info("maintain %s: %d files packed%s", table.name, packed[table.name], ", the old ones kept" if table.name in kept else "")
    found = [Check(f"{name}.files_packed", "info", float(files), None, True) for name, files in packed.items()]
    record(spark, config, "maintain", day, [*found, Check("stale_release", "warn", float(stale), 0.0, not stale)], run_id)
    return {"packed": packed, "kept": kept}


def promise(spark: SparkSession, config: Config, table: Table) -> None:
    """Give the table today's retention, where it was made under another."""
    path = path_of(config, table)
    held = DeltaTable.forPath(spark, path).detail().first().properties
    wanted = [f"'{name}' = '{value}'" for name, value in retention(config).items() if held.get(name) != value]
    if wanted:
        spark.sql(f"ALTER TABLE delta.`{absolute(path)}` SET TBLPROPERTIES ({', '.join(wanted)})")


def pack(spark: SparkSession, config: Config, table: Table) -> int:
    """Files that were packed into fewer."""
    path = path_of(config, table)
    with conflict_is_transient(path):
        done = DeltaTable.forPath(spark, path).optimize().executeCompaction().first()
    return int(done.metrics.numFilesRemoved)
