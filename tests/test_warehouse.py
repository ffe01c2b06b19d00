"""Reading a warehouse: every format says the same, changed columns are refused by name, and single values by literal rows."""

import gzip
import json
import shutil
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from jobs import ingest, rows, warehouse
from jobs.errors import BadData, Transient
from jobs.sections import Ingest, Source

DAY = date(2026, 11, 20)


def write(path: Path, lines: list) -> None:
    """Lines; what is neither text nor bytes becomes JSON."""
    made = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)).encode() for line in lines]
    path.write_bytes(b"\n".join(made) + b"\n")


LINES = [("u1", "12", "1763632800"), ("u2", "13", "1763632801")]


def source_file(spark, tmp_path: Path, kind: str) -> Source:
    """The two literal rows under a publisher's names, in one of the formats."""
    frame = spark.createDataFrame([(user, int(item), int(at)) for user, item, at in LINES], "user STRING, item BIGINT, at INT")
    path, columns = str(tmp_path / "rows"), {"user_id": "user", "item_id": "item", "event_ts": "at"}
    if kind in ("delta", "parquet"):
        frame.write.format(kind).save(path)
    elif kind == "jsonl":
        path += ".json.gz"
        Path(path).write_bytes(gzip.compress("".join(json.dumps({"user": u, "item": int(i), "at": int(t)}) + "\n" for u, i, t in LINES).encode()))
    else:
        mark = "," if kind == "csv" else "\t"
        path += f".{kind}.gz"
        Path(path).write_bytes(gzip.compress("".join(mark.join(line) + "\n" for line in [("user", "item", "at"), *LINES]).encode()))
    return Source(path=path, format=kind, columns=columns, timestamp_unit="s")


@pytest.mark.fault("R8")
@pytest.mark.parametrize("kind", ["delta", "parquet", "jsonl", "csv", "tsv"])
def test_formats_say_the_same(spark, tmp_path, kind):
    source = source_file(spark, tmp_path, kind)
    got = warehouse.deliver(spark, source, "warehouse.interactions", ("user_id", "item_id", "event_ts"), ("session_id",), DAY)
    assert sorted(row[:6] for row in got.rows.select("user_id", "item_id", "event_ts", "session_id", "malformed", "drop").collect()) == [
        ("u1", "12", "1763632800", None, False, None),
        ("u2", "13", "1763632801", None, False, None),
    ]
    if kind == "delta":  # R8: the version is pinned, a rewrite is not seen
        spark.createDataFrame([("u9", 9, 9)], "user STRING, item BIGINT, at INT").write.format("delta").mode("overwrite").save(source.path)
        assert (got.version, got.rows.count()) == (0, 2)


@pytest.mark.fault("R4")
@pytest.mark.parametrize(
    ("kind", "ddl", "told"),
    [
        ("parquet", "user STRING, at INT", r"expected column 'item' \(our item_id\), found none of that name among at, user"),
        ("delta", "user STRING, item DOUBLE, at INT", r"expected column 'item' \(our item_id\) as .*, found double"),
        ("parquet", "user STRING, item BIGINT, at TIMESTAMP", r"expected column 'at' \(our event_ts\) as .*int.*, found timestamp"),
        ("csv", "user STRING, item BIGINT", r"expected column 'at' \(our event_ts\), found none of that name among item, user"),
    ],
)
def test_a_changed_schema_is_refused_by_column(spark, tmp_path, kind, ddl, told):
    spark.createDataFrame([], ddl).write.format(kind).option("header", True).save(str(tmp_path / "rows"))
    source = Source(path=str(tmp_path / "rows"), format=kind, timestamp_unit="s", columns={"user_id": "user", "item_id": "item", "event_ts": "at"})
    if kind == "csv":
        (tmp_path / "rows" / "a.csv").write_text("user,item\nu1,3\n")
    with pytest.raises(BadData, match=f"warehouse.interactions: {told}"):
        warehouse.deliver(spark, source, "warehouse.interactions", ("user_id", "item_id", "event_ts"), (), DAY)


def test_the_catalogue_by_literal_rows(spark, tmp_path):
    lines = [
        ({"item_id": 7, "title": " Red\u202e  Ball ", "categories": [["Toys", "Balls"], ["Toys", "Sport"]], "text": "bounces"}, None),
        ({"item_id": "p", "title": "Piped", "categories": "Toys|Games", "is_available": "false"}, None),
        ({"item_id": "n", "title": "t" * 60, "categories": None, "is_available": True}, None),
        ({"item_id": "dup", "title": "Twice"}, None),
        ({"item_id": "dup", "title": "Twice"}, "duplicate"),
        ({"item_id": None, "title": "No name"}, "missing item_id"),
        ({"item_id": "x1", "title": " \x01 "}, "missing title"),
        ({"item_id": "x2", "title": "T", "is_available": "perhaps"}, "bad is_available"),
        ({"item_id": "x" * 129, "title": "T"}, "item_id too long"),
        ({"item_id": "x\u202e3", "title": "T"}, "control characters"),
        ('{"item_id": "x4"', "malformed"),
    ]
    write(tmp_path / "catalogue.json", [line for line, _ in lines])
    source = Source(path=str(tmp_path / "catalogue.json"), format="jsonl")
    delivered = warehouse.deliver(spark, source, "warehouse.catalogue", ("item_id", "title"), ("text", "categories", "is_available"), DAY)
    judged = ingest.judge_catalogue(delivered.rows, Ingest(max_text_chars=40)).collect()
    assert Counter(row["reason"] for row in judged) == Counter(reason for _, reason in lines)
    good = {row["item_id"]: (row["title"], row["text"], row["categories"], row["is_available"]) for row in judged if row["reason"] is None}
    assert good["7"] == ("Red Ball", "Red Ball bounces Toys Balls Sport", ["Toys", "Balls", "Sport"], True)
    assert good["p"] == ("Piped", "Piped Toys Games", ["Toys", "Games"], False)
    assert good["n"] == ("t" * 40, "t" * 40, [], True)


def test_times_queries_and_separated_lines_by_literal_values(spark, tmp_path):
    times = [
        ("iso", "2026-11-20T23:59:59.999Z", "2026-11-20 23:59:59.999"),
        ("iso", "2026-11-20", "2026-11-20 00:00:00"),
        ("iso", "2026-11-01T01:30:00-02:30", "2026-11-01 04:00:00"),
        ("s", "1763632800", "2025-11-20 10:00:00"),
        ("s", "1.7636328E9", "2025-11-20 10:00:00"),
        ("ms", "1763632800123", "2025-11-20 10:00:00.123"),
        ("us", "1763632800123456", "2025-11-20 10:00:00.123456"),
        ("s", "1763632800123", None),
        ("s", "-1", None),
        ("ms", "NaN", None),
        ("us", "9" * 40, None),
    ]
    for unit in ("iso", "s", "ms", "us"):
        frame = spark.createDataFrame([(text,) for each, text, _ in times if each == unit], "text STRING")
        found = [row[0] for row in frame.select(rows.instant(F.col("text"), unit).cast("string")).collect()]
        assert found == [moment for each, _, moment in times if each == unit]
    queries = [("  Red\t BALL\n", "red ball"), ("ｃａｆé²", "café2"), ("\u3000", ""), ('Größe 6"', 'größe 6"')]
    frame = spark.createDataFrame([(text,) for text, _ in queries], "text STRING").select(rows.normalize_query(F.col("text")).alias("q"))
    assert [row["q"] for row in frame.collect()] == [wanted for _, wanted in queries]
    assert [row[0] for row in frame.select(rows.normalize_query(F.col("q"))).collect()] == [wanted for _, wanted in queries], "idempotent"
    write(tmp_path / "q.csv", ["user_id,query", 'u1,"a ""b"", c"', "u2", "u3,x,y", b"u4,\xff", 'u5,"open', "", "u6,fine"])
    source = Source(path=str(tmp_path / "q.csv"), format="csv")
    got = warehouse.deliver(spark, source, "k", ("user_id", "query"), (), DAY).rows
    assert {(row["user_id"], row["query"]) for row in got.where("NOT malformed").collect()} >= {("u1", 'a "b", c'), ("u6", "fine")}
    assert {row["user_id"] for row in got.where("malformed").collect()} == {"u2", "u3", "u4"} and got.count() == 6


@pytest.mark.fault("R4")
def test_parquet_files_of_other_types_are_refused_by_column(spark, tmp_path):
    """A column that nobody reads, of two types in two days: Spark gives up all of them when they are read at once."""
    for day, kind in (("2026-11-18", "int"), ("2026-11-19", "bigint")):
        frame = spark.createDataFrame([("u1", "i1", "2026-11-18T10:00:00Z")], "user_id string, item_id string, event_ts string")
        frame.withColumn("price", F.lit(1).cast(kind)).write.parquet(f"{tmp_path}/ds={day}")
    source = Source(path=f"{tmp_path}/ds={{ds}}", format="parquet")
    with pytest.raises(BadData, match=r"warehouse\.interactions: a column's type .*price: BIGINT"):
        warehouse.deliver(spark, source, "warehouse.interactions", ("user_id", "item_id", "event_ts"), (), DAY, whole=True).rows.collect()


def test_a_file_that_goes_while_it_is_read_is_no_damaged_file(spark, tmp_path):
    """A producer replaces the day's folder: the retry finds the new one."""
    spark.createDataFrame([("u1",)] * 9, "user_id string").write.parquet(str(tmp_path / "rows"))
    frame = spark.read.parquet(str(tmp_path / "rows"))
    shutil.rmtree(tmp_path / "rows")
    with pytest.raises(Transient, match="could not be read to its end"), warehouse.readable():
        frame.collect()
