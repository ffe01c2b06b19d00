"""What a good row is: the typed columns of a source row, the checks that it can fail alone, and what may be told of a bad one.

Pure column expressions over the text columns of `jobs.warehouse`; reads and writes nothing, knows no day but the one it is given.
"""

import unicodedata
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.sections import Ingest, Source

SURFACES = {"interactions": "recommendation", "searches": "search"}
# C0 and C1 controls but white space, bidirectional overrides, byte-order marks inside, replaced bytes. Printable ASCII is ruled out first: to hold each of
# its characters against all seven ranges took three times as long (2 s of a million events' CPU).
CONTROLS = r"[[^ -~]&&[\x00-\x08\x0E-\x1F\x7F-\x84\x86-\x9F\u202A-\u202E\u2066-\u2069\uFEFF\uFFFD]]"
NO_ID = r"^(?i)(null|nan|none|undefined)?$"  # what exporters write where there is nothing
BAD_ID = r'^(-\d+(\.\d+)?$|\{"|\[)'  # negative numbers, objects, arrays
LAST_MICROS = 4_102_444_800_000_000  # the year 2100: later is another unit, not a time
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def compatibility_pairs() -> tuple[str, str]:
    """The one-to-one part of Unicode's NFKC below U+10000 as (from, to), for `translate`: Spark has no normalisation of its own."""
    pairs = [(chr(c), unicodedata.normalize("NFKC", chr(c))) for c in range(0x80, 0x10000) if not 0xD800 <= c <= 0xDFFF]
    pairs = [(old, new) for old, new in pairs if len(new) == 1 and old != new]
    return "".join(old for old, _ in pairs), "".join(new for _, new in pairs)


def normalize_query(text: Column) -> Column:
    """Query text as it is compared and published: full-width and other compatible characters folded, lower case, single spaces, trimmed."""
    return squeeze(F.lower(F.translate(text, *compatibility_pairs())))


def squeeze(text: Column) -> Column:
    return F.trim(F.regexp_replace(text, r"\s+", " "))


def identifier(name: str) -> Column:
    text = F.trim(F.col(name))
    return F.when(~text.rlike(NO_ID), text)


def instant(text: Column, unit: str) -> Column:
    """A time of 1970 to 2100, or null. ISO text without a zone is UTC; a bare time of day, which Spark would take as today's, is no time."""
    if unit == "iso":
        moment = F.when(text.rlike(r"^\s*\d{4}-\d{2}-\d{2}"), text.try_cast("timestamp"))
        return F.when(F.unix_micros(moment).between(0, LAST_MICROS), moment)
    micros = text.try_cast("decimal(24,6)") * F.lit(UNITS[unit])
    return F.when(micros.between(0, LAST_MICROS), F.timestamp_micros(micros.try_cast("bigint")))


def log_rows(rows: DataFrame, name: str, source: Source) -> DataFrame:
    """Typed columns of a log's rows: null where the text is missing or is not of the type; `has_*` tell the two apart."""
    action = squeeze(F.col("action"))
    has_action = F.coalesce(action != "", F.lit(False))
    known = F.element_at(F.create_map(*(F.lit(each) for pair in source.actions.items() for each in pair)), action) if source.actions else action
    arrived = F.coalesce(instant(F.col("ingested_at"), "iso"), instant(F.col("ingested_at"), source.timestamp_unit))
    return rows.select(
        F.lit(name).alias("source"),
        F.lit(SURFACES[name]).alias("surface"),
        *(identifier(each).alias(each) for each in ("event_id", "user_id", "item_id", "session_id")),
        F.when(has_action, known).otherwise(F.lit(source.default_action)).alias("action"),
        (F.nullif(normalize_query(F.col("query")), F.lit("")) if name == "searches" else F.lit(None).cast("string")).alias("query"),
        F.length("query").alias("query_length"),
        instant(F.col("event_ts"), source.timestamp_unit).alias("event_ts"),
        arrived.alias("ingested_at"),
        F.trim("sequence").try_cast("bigint").alias("sequence"),
        (F.trim("event_ts") != "").alias("has_event_ts"),
        (F.trim("ingested_at") != "").alias("has_ingested_at"),
        (F.trim("sequence") != "").alias("has_sequence"),
        has_action.alias("has_action"),
        "malformed",
        "drop",
        F.sha2("raw", 256).alias("payload_hash"),
        F.length("raw").alias("length"),
    )


def verdict(limits: Ingest, day: date) -> Column:
    """The first check that a log's row fails, in this order; null where it passes all. Of `log_rows`, with arrival and known."""
    ids, has = ("user_id", "item_id", "event_id", "session_id"), F.col
    end = F.date_add(F.col("arrival"), 1).cast("timestamp")
    event_day, oldest = F.to_date("event_ts"), day - timedelta(days=limits.lookback_days)
    incremental = day != limits.base_day
    if incremental and limits.base_day:
        oldest = max(oldest, limits.base_day + timedelta(days=1))
    checks = {
        "malformed": has("malformed"),
        "missing user_id": has("user_id").isNull(),
        "missing item_id": has("item_id").isNull(),
        "missing event_ts": ~F.coalesce("has_event_ts", F.lit(False)),
        "missing query": (has("surface") == "search") & has("query").isNull(),
        "missing action": has("action").isNull() & ~has("has_action"),
        "bad user_id": has("user_id").rlike(BAD_ID),
        "bad item_id": has("item_id").rlike(BAD_ID),
        "bad sequence": has("has_sequence") & has("sequence").isNull(),
        "bad ingested_at": has("has_ingested_at") & has("ingested_at").isNull(),
        "bad event_ts": has("event_ts").isNull(),
        "future": (has("event_ts") >= end) | (has("ingested_at") >= end),
        "late_beyond_window": F.lit(incremental) & (event_day < F.lit(oldest)),
        "unknown item_id": has("known").isNull(),
        **{f"{name} too long": F.length(name) > limits.max_id_chars for name in ids},
        "query too long": (has("surface") == "search") & (has("query_length") > limits.max_query_chars),
        "unknown action": has("action").isNull(),
        "action too long": F.length("action") > limits.max_id_chars,
        "control characters": F.concat_ws(" ", *ids, "action", "query").rlike(CONTROLS),
    }
    return first_of(checks)


def first_of(checks: dict[str, Column]) -> Column:
    return F.coalesce(*(F.when(failed, reason) for reason, failed in checks.items()))


def catalogue_rows(rows: DataFrame, limits: Ingest) -> DataFrame:
    """Typed columns of the catalogue's rows, with the first check that each fails alone (reason)."""

    def clean(text: Column | str) -> Column:
        return squeeze(F.regexp_replace(text, CONTROLS, " "))

    available = F.nullif(F.trim("is_available"), F.lit(""))
    typed = rows.withColumns(
        {"given_length": F.length("title"), "categories": F.transform(category_names(F.col("categories")), clean), "item_id": identifier("item_id")}
    ).withColumns({"title": F.left(clean("title"), F.lit(limits.max_text_chars))})
    words = F.concat_ws(" ", "title", clean("text"), F.array_join("categories", " "))
    checks = {
        "malformed": F.col("malformed"),
        "missing item_id": F.col("item_id").isNull(),
        "missing title": F.coalesce("title", F.lit("")) == "",
        "bad item_id": F.col("item_id").rlike(BAD_ID),
        "bad is_available": available.isNotNull() & available.try_cast("boolean").isNull(),
        "item_id too long": F.length("item_id") > limits.max_id_chars,
        "control characters": F.col("item_id").rlike(CONTROLS),
    }
    told = F.struct(digest("item_id"), F.col("given_length").alias("title"), F.length("raw").alias("length"))
    return typed.select(
        F.lit("catalogue").alias("source"),
        "item_id",
        "title",
        F.left(words, F.lit(limits.max_text_chars)).alias("text"),
        F.filter("categories", lambda name: name != "").alias("categories"),
        F.coalesce(available.try_cast("boolean"), F.lit(True)).alias("is_available"),
        first_of(checks).alias("reason"),
        F.to_json(told).alias("payload"),
        F.sha2("raw", 256).alias("payload_hash"),
    )


def category_names(text: Column) -> Column:
    """Distinct names, in their order, of a JSON array (of arrays, one level deep, flattened) or of names parted by `|`; empty where there are none."""

    def names(json: Column) -> Column:
        return F.when(json.startswith("["), F.from_json(json, "array<string>"))

    flat = F.flatten(F.transform(names(text), lambda each: F.coalesce(names(each), F.array(each))))
    parted = F.when(F.trim(text) != "", F.split(text, r"\|"))
    return F.array_distinct(F.array_compact(F.coalesce(flat, parted, F.array().cast("array<string>"))))


def digest(name: str) -> Column:
    return F.substring(F.sha2(F.col(name), 256), 1, 16).alias(name)


def payload() -> Column:
    """What quarantine tells of a log's row: ids as digests, free text as its length, times and orders that were understood."""
    ids = ("event_id", "user_id", "item_id", "session_id")
    plain = ("event_ts", "ingested_at", "query_length", "length")
    return F.to_json(F.struct(*(digest(name) for name in ids), *plain, F.length("action").alias("action_length")))
