"""The cookbook: each block runs, says the same in every tool, and says what the lake was made to hold."""

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_release import D1, D2, NOW, prepare, stage, write

from jobs import erase, release, views
from jobs.config import load
from jobs.tables import EVENTS, ITEM_EMBEDDINGS, METRICS, QUARANTINE

COOKBOOK = Path(__file__).parents[1] / "examples" / "cookbook.md"
BLOCK = re.compile(r"^```(sql|python) ?(\w*)\n(.*?)^```$", re.M | re.S)
QUESTIONS = {
    int(number): [(language, tool, code) for language, tool, code in BLOCK.findall(part)]
    for number, part in re.findall(r"^## (\d+)\.(.*?)(?=^## |\Z)", COOKBOOK.read_text(encoding="utf-8"), re.M | re.S)
}
WIDE1 = [{"rank": 1, "item_id": "i1", "score": -1.0}, {"rank": 2, "item_id": "i3", "score": -2.0}]
# What each question's blocks answer, by construction; rows in any order.
ANSWERS: dict[int, list[list[tuple]]] = {
    1: [[(1, "i1", "Item 1", "model"), (2, "i3", "Item 3", "model")]] * 3,
    2: [[(1, "i4", "Item 4"), (2, "i5", "Item 5")]],
    3: [[("u1", WIDE1), ("u2", [{"rank": 1, "item_id": "i3", "score": -1.0}])]] * 2,
    4: [[("entered", 1), ("left", 1), ("risen", 1), ("same", 1)]],
    5: [[(1, "i1", "model", "Item 7"), (2, "i3", "model", "Item 8")], [(1, "i4", None), (2, "i5", None)]],
    6: [[(D2, "recommend", "model", 0.5, 0.4, 0.6), (D2, "recommend", "popularity", 0.1, None, None)]] * 2,
    7: [[("i3", 2, 2 / 3), ("i1", 1, 1 / 3)], [(2, 9)]],
    8: [[("model", 2, 2)]],
    9: [[("searches", "bot", 2), ("catalogue", "malformed", 1)]],
    10: [[("m1", 1)], [("u1", 1, "i2"), ("u1", 2, "i1"), ("u2", 1, "i3")]],
}


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory):
    config = load(None, [f"lake.root={tmp_path_factory.mktemp('lake')}", "spark.master=local[2]"])
    prepare(spark, config)
    write(spark, config, METRICS, [(D2, "m1", *row, "r") for row in METRIC_ROWS])
    write(spark, config, QUARANTINE, [(D2, *row, "{}", "h", "r") for row in (("searches", "bot"), ("searches", "bot"), ("catalogue", "malformed"))])
    write(spark, config, EVENTS, [event("e1", "i8", D1), event("e2", "i7", D2), event("late", "i1", D2, NOW), event("e3", "i9", D1)])
    vectors = {"i1": [1.0, 0.0], "i3": [0.0, 1.0], "i7": [0.8, 0.6], "i8": [0.0, 1.0], "i9": [0.0, 0.0]}
    write(spark, config, ITEM_EMBEDDINGS, [(item, "behaviour", vector, "als", D2) for item, vector in vectors.items()])
    stage(spark, config, D1, {"u1": ["i2", "i1"], "u2": ["i3"]}, {"red ball": ["i5"]})
    release.run(config, D1, "night1")
    stage(spark, config, D2, {"u1": ["i1", "i3"], "u2": ["i3"]}, {"red ball": ["i4", "i5"]})
    release.run(config, D2, "night2")
    views.register(spark, config)
    return SimpleNamespace(root=config.lake.root, config=config)


METRIC_ROWS = [
    ("model", "recommend", "all", "ndcg", 10, 0.5, 0.4, 0.6, 9),
    ("popularity", "recommend", "all", "ndcg", 10, 0.1, None, None, 9),
    ("model", "recommend", "item:head", "ndcg", 10, 0.9, None, None, 3),
]


def event(name, item, day, arrived=None):
    when = NOW.replace(year=day.year, month=day.month, day=day.day)
    return (name, "u1", item, "recommendation", "click", None, None, when, 0, (arrived or when) + timedelta(hours=1), day)


def plain(answer: Any) -> list[tuple]:
    """An answer of any tool as rows of plain values."""
    if isinstance(answer, list):
        return [tuple(answer)]
    if hasattr(answer, "fetchall"):
        return answer.fetchall()
    if hasattr(answer, "collect"):
        return [tuple(each) for each in answer.collect()]
    rows = answer.rows() if hasattr(answer, "rows") else answer.itertuples(index=False)
    return [tuple(row) for row in rows]


def same(row: tuple) -> tuple:
    """Arrays of structs as lists of mappings, missing values as None, whatever the tool calls them."""

    def one(value: Any) -> Any:
        if hasattr(value, "asDict"):
            return value.asDict()
        if isinstance(value, list) or type(value).__name__ == "ndarray":
            return [one(each) for each in value]
        return None if value != value else value

    return tuple(one(value) for value in row)


def in_order(rows: list[tuple]) -> list[tuple]:
    return sorted((same(row) for row in rows), key=str)


def test_there_are_ten_questions():
    assert list(QUESTIONS) == list(ANSWERS) == list(range(1, 11))
    assert all(len(QUESTIONS[n]) == len(ANSWERS[n]) for n in QUESTIONS)


@pytest.mark.parametrize("number", QUESTIONS)
def test_each_block_says_what_the_lake_holds(spark, lake, number):
    for (language, tool, code), expected in zip(QUESTIONS[number], ANSWERS[number], strict=True):
        if language == "sql":
            found = {"duckdb": plain(views.duck(lake.root).sql(code)), "spark": plain(spark.sql(code))}
        else:
            names = {"lake": lake.root}
            exec(code, names)
            found = {tool: plain(names["answer"])}
        for rows in found.values():
            assert in_order(rows) == [pytest.approx(row, nan_ok=True) if isinstance(row[-1], float) else row for row in in_order(expected)], (tool, found)


@pytest.mark.fault("R22")
def test_four_readers_see_the_same_rows(spark, lake):
    """Spark, pandas, Polars and DuckDB over Arrow: equal rows of both published tables, column by column."""
    import duckdb
    import polars as pl
    from deltalake import DeltaTable

    for name in views.RANKED:
        path = f"{lake.root}/{name}"
        dataset = DeltaTable(path).to_pyarrow_dataset()
        readers = {
            "spark": [tuple(row) for row in spark.read.format("delta").load(path).drop("generated_at").collect()],
            "pandas": list(DeltaTable(path).to_pandas().drop(columns="generated_at").itertuples(index=False, name=None)),
            "polars": pl.scan_delta(path).drop("generated_at").collect().rows(),
            "duckdb": duckdb.sql("SELECT * EXCLUDE (generated_at) FROM dataset").fetchall(),
        }
        assert {reader: in_order(rows) for reader, rows in readers.items()} == dict.fromkeys(readers, in_order(readers["spark"])) and dataset.count_rows() > 2


def test_an_erased_user_is_in_no_view(spark, lake):
    """Last, since it changes the lake: the served version still holds the user, the views do not."""
    erase.run(lake.config, D2, "request", "u1")
    seen = views.tables(lake.root)
    for view in ("recommendations_latest", "recommendations_before", "recommendations_wide"):
        assert seen[view]["user_id"].to_pylist() == ["u2"]
    assert len(views.why(lake.root, user_id="u1")) == 0
