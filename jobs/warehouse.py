"""A warehouse's source as it lies → rows under our column names.     Reads what `[warehouse]` names; writes nothing.

Every value comes as text, whatever the format: no cast of the reader's can kill the night, and 12 stays "12". A row that cannot be read
at all is still a row, marked `malformed`. Knows formats, paths and names; does not know what a good event is.

Text is UTF-8, one row per line; blank lines are no rows. CSV follows RFC 4180 within a line; TSV has no quoting.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import reduce
from urllib.parse import quote

from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.utils import AnalysisException

from jobs.errors import BadArgument, BadData, MissingInput, Transient
from jobs.sections import Source

AWAY = r"SocketTimeout|SocketException|ConnectException|UnknownHost|BlockMissing|SdkClientException|FileNotFound|NoSuchFile"  # of a store or a producer
DAY = r"(\d{4}-\d{2}-\d{2})"
NAME = r"string|tinyint|smallint|int|bigint|decimal\(\d+,0\)"
ISO = r"string|timestamp|timestamp_ntz|date"
NUMBER = r"string|int|bigint|float|double|decimal\(.*\)"
WORDS = r"string|array<string>|array<array<string>>"
# What a typed format (Delta, Parquet) may give for each of our columns; a number with a point names nobody.
TYPES = {"title": "string", "text": "string", "query": "string", "categories": WORDS, "is_available": rf"boolean|{NAME}", "ingested_at": rf"{ISO}|{NUMBER}"}


@dataclass(frozen=True)
class Delivery:
    """Rows of a source: our columns (STRING, null where it has none), raw (STRING, the row as it came), malformed (BOOLEAN), drop (DATE or null)."""

    rows: DataFrame
    version: int | None = None  # of a Delta source, pinned


def deliver(
    spark: SparkSession,
    source: Source,
    key: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    day: date,
    *,
    whole: bool = False,
    missing_ok: bool = False,
) -> Delivery:
    """What the source holds: of the day, or of all days up to it (`whole`), where its path has {ds}; everything where it has not.

    `drop` is the day of the file where the path has {ds}, else null. `key` is the configuration key that messages name.
    Raises MissingInput where nothing lies at the path (no rows with `missing_ok`), BadData where a column is missing or of another kind.
    """
    unknown = sorted(set(source.columns) - {*required, *optional})
    if unknown:
        raise BadArgument(f"{key}.columns names {unknown[0]!r}: expected one of {', '.join((*required, *optional))}")
    found = paths(spark, source, day, whole)
    if not found and missing_ok:
        return Delivery(empty(spark, (*required, *optional)))
    if not found:
        raise MissingInput(f"{key}.path = {source.path!r}: nothing found at {source.path.replace('{ds}', day.isoformat())!r}, needed for {day}")
    if source.format == "delta":
        # One table, or one table per day; each pinned, so that a rewrite of the source during the night is not seen by half of it.
        plain = next((path for path in found if not DeltaTable.isDeltaTable(spark, path)), None)
        if plain:
            raise BadData(f"{key}: expected a Delta table at {plain}, found none ({key}.format = 'delta')")
        at = {path: int(DeltaTable.forPath(spark, path).history(1).first()["version"]) for path in found}
        tables = [select(spark.read.format("delta").option("versionAsOf", at[path]).load(path), source, key, required, optional, found[path]) for path in found]
        return Delivery(reduce(DataFrame.unionByName, tables), max(at.values()))
    if source.format == "jsonl":
        frame = json_rows(spark, source, list(found), (*required, *optional))
    elif source.format == "parquet":
        frame = parquet_rows(spark, key, list(found))
    else:
        frame = separated_rows(spark, source, list(found))
    if frame is None:
        return Delivery(empty(spark, (*required, *optional)))
    drop = F.lit(day) if "{ds}" in source.path and not whole else drop_of(source.path)
    return Delivery(select(frame, source, key, required, optional, drop))


@contextmanager
def readable() -> Iterator[None]:
    """Turn Spark's failure to read a file (cut-off gzip, no Parquet footer, headers that differ) into BadData naming the file and the cause; into Transient
    where the file went while it was read, or its store did not answer."""
    try:
        yield
    except Exception as error:  # Py4J or PySpark errors, according to where it is met: Spark's error class is what is stable
        text = str(error)
        if "FAILED_READ_FILE" not in text:
            raise
        file = re.search(r"reading file (\S+?)\.\s", text)
        causes = re.findall(r"Caused by: (?:[\w$]+\.)*([\w$]+: .*(?:\n (?:Header|Schema|Expected|CSV).*|\nExpected.*)*)", text)
        cause = re.sub(r"\s+", " ", causes[-1]) if causes else "unknown cause"
        if "FILE_NOT_EXIST" in text or re.search(AWAY, cause):
            raise Transient(f"file {file.group(1) if file else '?'} could not be read to its end ({cause}); nothing of this step is served; retry") from error
        raise BadData(f"file {file.group(1) if file else '?'} is damaged, half written or unlike the others ({cause}); nothing was written") from error


def paths(spark: SparkSession, source: Source, day: date, whole: bool) -> dict[str, Column]:
    """Path → its drop day, of what lies there: the source's path, its day's, or those of all days up to it."""
    if "{ds}" not in source.path:
        return {path: F.lit(None).cast("date") for path in ([source.path] if listed(spark, source.path) else [])}
    if not whole:
        path = source.path.replace("{ds}", day.isoformat())
        return {path: F.lit(day)} if listed(spark, path) else {}
    dated = {path: re.search(segment_of(source.path), path) for path in listed(spark, source.path.replace("{ds}", "*"))}
    days = {path: match.group(1) for path, match in dated.items() if match and match.group(1) <= day.isoformat()}
    return {path: F.lit(text).cast("date") for path, text in sorted(days.items())}


def listed(spark: SparkSession, pattern: str) -> list[str]:
    """Paths that match a Hadoop glob, on whatever file system it names."""
    # A reader of the driver's own file system would not see an object store.
    path = spark.sparkContext._jvm.org.apache.hadoop.fs.Path(pattern)
    found = path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration()).globStatus(path)
    return [status.getPath().toString() for status in found or []]


def segment_of(path: str) -> str:
    """Pattern of the part of the path (between slashes) that holds {ds}, its day in the first group."""
    segment = next(part for part in path.split("/") if "{ds}" in part)
    return "/" + re.escape(segment).replace(re.escape("{ds}"), DAY).replace(r"\*", "[^/]*") + "(/|$)"


def drop_of(path: str) -> Column:
    if "{ds}" not in path:
        return F.lit(None).cast("date")
    # The file's path comes URL-encoded.
    return F.regexp_extract(F.col("_metadata.file_path"), segment_of(quote(path, safe="*{}=+:,@&$!~'()/")), 1).try_cast("date")


def empty(spark: SparkSession, names: tuple[str, ...]) -> DataFrame:
    columns = ", ".join(f"{name} STRING" for name in names)
    return spark.createDataFrame([], f"{columns}, raw STRING, malformed BOOLEAN, drop DATE")


def theirs(source: Source, name: str) -> str:
    return source.columns.get(name, name)


def quoted(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")


def json_rows(spark: SparkSession, source: Source, found: list[str], names: tuple[str, ...]) -> DataFrame:
    lines = spark.read.text(found).where(F.trim("value") != "")
    fields = T.StructType([T.StructField(name, T.StringType()) for name in sorted({theirs(source, name) for name in names})])
    # Alone, from_json is content with the first value of a line and drops what follows it; as an array of one it is strict.
    options = {"allowNonNumericNumbers": "false"}
    parsed = F.from_json(F.concat(F.lit("["), F.col("value"), F.lit("]")), T.ArrayType(fields), options)
    one = F.when(F.size(parsed) == 1, F.get(parsed, F.lit(0)))
    rows = lines.select(F.col("value").alias("_raw"), one.alias("_row"), F.col("_metadata"))
    return rows.select("_raw", (F.col("_row").isNull() | ~F.is_valid_utf8("_raw")).alias("_malformed"), "_row.*", "_metadata")


def separated_rows(spark: SparkSession, source: Source, found: list[str]) -> DataFrame | None:
    style = {"sep": "\t", "quote": ""} if source.format == "tsv" else {"sep": ",", "quote": '"', "escape": '"'}
    reader = spark.read.options(header=True, **style)
    try:
        header = reader.csv(found).columns
    except AnalysisException as error:
        if "UNABLE_TO_INFER_SCHEMA" in str(error):  # a folder without files
            return None
        raise
    if not header:
        return None
    schema = T.StructType([T.StructField(name, T.StringType()) for name in [*header, "_corrupt"]])
    # enforceSchema=false holds every file's header against the first one's.
    rows = reader.options(enforceSchema=False, columnNameOfCorruptRecord="_corrupt").schema(schema).csv(found)
    raw = F.coalesce(F.col("_corrupt"), F.to_json(F.struct(*map(quoted, header))))
    # The reader replaces bytes that are no UTF-8 by U+FFFD.
    return rows.select(
        raw.alias("_raw"), (F.col("_corrupt").isNotNull() | raw.contains("\ufffd")).alias("_malformed"), *map(quoted, header), F.col("_metadata")
    )


def parquet_rows(spark: SparkSession, key: str, found: list[str]) -> DataFrame | None:
    try:
        rows = spark.read.option("mergeSchema", len(found) > 1).parquet(*found)
    except Exception as error:  # an AnalysisException or a SparkException, by the day's files
        if "UNABLE_TO_INFER_SCHEMA" in str(error):
            return None
        if differ := re.search(r"(CANNOT_MERGE_.*?)(?:SQLSTATE|JVM stack|$)", str(error), re.DOTALL):
            told = re.sub(r"\s+", " ", differ.group(1))[:600]
            raise BadData(f"{key}: a column's type is not the same in all of {len(found)} paths ({told}); nothing was written") from error
        raise
    return rows.select("*", "_metadata")


def select(frame: DataFrame, source: Source, key: str, required: tuple[str, ...], optional: tuple[str, ...], drop: Column) -> DataFrame:
    """Our columns as text; BadData where a required or mapped one is missing or of a kind that cannot be meant."""
    kinds = {field.name: field.dataType for field in frame.schema if field.name not in ("_raw", "_malformed", "_metadata")}
    columns = []
    for name in (*required, *optional):
        their, kind = theirs(source, name), kinds.get(theirs(source, name))
        if kind is None:
            if name in required or name in source.columns:
                raise BadData(f"{key}: expected column {their!r} (our {name}), found none of that name among {', '.join(sorted(kinds))}; nothing was written")
            columns.append(F.lit(None).cast("string").alias(name))
            continue
        expected = TYPES.get(name, (ISO if source.timestamp_unit == "iso" else NUMBER) if name == "event_ts" else NAME)
        if not re.fullmatch(expected, kind.simpleString()):
            raise BadData(f"{key}: expected column {their!r} (our {name}) as {expected}, found {kind.simpleString()}; nothing was written")
        text = F.to_json(quoted(their)) if isinstance(kind, T.ArrayType) else quoted(their).cast("string")
        columns.append(text.alias(name))
    raw = F.col("_raw") if "_raw" in frame.columns else F.to_json(F.struct(*map(quoted, kinds)))
    malformed = F.col("_malformed") if "_malformed" in frame.columns else ~F.coalesce(F.is_valid_utf8(raw), F.lit(False))
    return frame.select(*columns, raw.alias("raw"), malformed.alias("malformed"), drop.alias("drop"))


def first_keys(spark: SparkSession, source: Source, day: date) -> str:
    """Names that the first JSON line of the day holds: what a message about a missing column may show."""
    line = spark.read.text(list(paths(spark, source, day, False) or paths(spark, source, day, True))).where(F.trim("value") != "").first()
    try:
        return ", ".join(sorted(json.loads(line["value"])))[:300]
    except (TypeError, ValueError):
        return "none"
