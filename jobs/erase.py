"""Erase a user: delete their rows from every table, and refuse what the warehouse's logs still hold of them.

Reads and writes every table that names users; writes one row of erasures, which holds a hash of the user's key and no key. Knows not how rows are
made. From then on `ingest` refuses the user's events up to the day of the request, and `jobs.release.latest` shows no row of theirs, whatever
release is served; a rerun of a past day trains a new model, because the rows it would read have changed.

What stays for a while: versions of the past, whose files `maintain` deletes `maintain.keep_days` days after this; and the weights of models that
learnt from the user, which are served until the weekly full training replaces them. Queries of several users are not one user's data.
"""

import hashlib
import json
import logging
from datetime import UTC, date, datetime

from delta import DeltaTable
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs.config import Config
from jobs.errors import BadData, Transient
from jobs.spark import exists, path_of, read, session
from jobs.tables import ERASURES, OF_USERS, QUARANTINE, Table
from jobs.writes import WRITTEN, append, conflict_is_transient, schema, tagged

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str, user: str) -> dict:
    """Returns {"removed": table → rows deleted, "left": rows found afterwards, "pages": report pages deleted}.

    Raises Transient (a table was being written; what is deleted stays deleted, retry), BadData (rows are left after all).
    """
    spark = session(config)
    known = hashlib.sha256(user.encode()).hexdigest()
    there = [table for table in OF_USERS if exists(spark, config, table)]
    # First of all: what is ingested meanwhile is refused already.
    tell(spark, config, day, known, {}, run_id)
    removed = {table.name: delete(spark, config, table, of_user(table, user, known), run_id) for table in there}
    left = sum(read(spark, config, table).where(of_user(table, user, known)).count() for table in there)
    if left:
        raise BadData(f"erase: {left} rows of the user came back while they were deleted; run it again when no step is running")
    pages = forget_pages(spark, config, known)
    tell(spark, config, day, known, removed, run_id)
    log.info("erase %s…: %s rows, %d report pages; none left in current versions", known[:8], removed, pages)
    return {"removed": removed, "left": left, "pages": pages}


def of_user(table: Table, user: str, known: str) -> Column:
    if table is QUARANTINE:
        return F.get_json_object("payload", "$.user_id") == F.lit(known[:16])  # as `jobs.rows.digest` wrote it
    return F.col("user_id") == F.lit(user)


def delete(spark: SparkSession, config: Config, table: Table, condition: Column, run_id: str) -> int:
    """Rows deleted. The commit names the first day that it changes, so that `written_up_to` sees it; none is made where there is no row."""
    found = read(spark, config, table).where(condition).agg(F.count("*").alias("rows"), F.min("ds").alias("first")).first()
    if found.rows:
        path = path_of(config, table)
        WRITTEN.add(table.name)
        with conflict_is_transient(path), tagged(spark, run_id=run_id, table=table.name, ds=found.first.isoformat()):
            DeltaTable.forPath(spark, path).delete(condition)
    return int(found.rows)


def tell(spark: SparkSession, config: Config, day: date, known: str, removed: dict[str, int], run_id: str) -> None:
    row = (day, known, json.dumps(removed), run_id, datetime.now(UTC))
    append(spark, config, ERASURES, spark.createDataFrame([row], schema(ERASURES)), run_id)


def forget_pages(spark: SparkSession, config: Config, known: str) -> int:
    """Delete the report pages that show the user among their examples, wherever the lake lies; returns how many."""
    path = spark._jvm.org.apache.hadoop.fs.Path
    folder = path(f"{config.lake.root.rstrip('/')}/reports")
    files = folder.getFileSystem(spark._jsc.hadoopConfiguration())
    pages = [page.getPath().toString() for page in (files.listStatus(folder) if files.exists(folder) else ())]
    pages = [page for page in pages if page.endswith(".html")]
    if not pages:
        return 0
    texts = spark.read.text(pages, wholetext=True)
    shown = texts.where(F.contains("value", F.lit(known[:8]))).select("_metadata.file_path").collect()  # at most a page per night
    for row in shown:
        page = path(spark._jvm.java.net.URI(row.file_path))  # it comes URL-encoded
        if not files.delete(page, False) and files.exists(page):
            raise Transient(f"{row.file_path} shows the user and could not be deleted; retry, or delete it by hand")
    return len(shown)
