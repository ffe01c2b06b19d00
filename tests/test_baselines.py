"""Baselines on literal rows, and on the checkerboard whose colours they must find."""

import math
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F
from worlds import ITEMS, WORDS

from jobs import baselines
from model.plurals import singular
from udfs.bm25 import best

DAY = datetime(2026, 1, 10)
TRAIN = "task string, user_id string, query string, target_item_id string, event_ts timestamp"
REQUEST = "example_id string, user_id string, query string, history array<struct<item_id string>>, exclude array<string>"


def clicks(spark, pairs: list[tuple[str, str]], task: str = "recommend"):
    rows = [(task, user, "q" if task == "search" else None, item, DAY + timedelta(minutes=n)) for n, (user, item) in enumerate(pairs)]
    return spark.createDataFrame(rows, TRAIN)


def requests(spark, *rows: tuple[str, list[str], list[str]], user: str = "new"):
    return spark.createDataFrame([(name, user, None, [(item,) for item in history], exclude) for name, history, exclude in rows], REQUEST)


def items_of(spark, names):
    return spark.createDataFrame([(name, name) for name in names], "item_id string, text string")


def ranked(frame) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in sorted(frame.collect(), key=lambda row: (row.example_id, row["rank"])):
        found.setdefault(row.example_id, []).append((row.item_id, row.score))
        assert row["rank"] == len(found[row.example_id])
    return found


def test_popularity(spark) -> None:
    train = clicks(spark, [("u1", "a"), ("u2", "a"), ("u3", "b"), ("u4", "gone"), ("u5", "gone"), ("u6", "gone")])
    counts = baselines.training_counts(train).drop("task")
    asked = requests(spark, ("plain", [], []), ("seen", ["a"], ["a", "c"]))
    found = ranked(baselines.popularity(asked, counts, items_of(spark, ["d", "c", "b", "a"]), 3))
    assert found == {"plain": [("a", 2.0), ("b", 1.0), ("c", 0.0)], "seen": [("b", 1.0), ("d", 0.0)]}


def test_itemknn_literal_cosines(spark, monkeypatch: pytest.MonkeyPatch) -> None:
    """a is with b for u1, u2 and with c for u3; c is with d for u4. The unavailable item is nobody's neighbour."""
    pairs = [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u2", "b"), ("u2", "b"), ("u3", "a"), ("u3", "c"), ("u4", "c"), ("u4", "d"), ("u4", "gone")]
    train = clicks(spark, pairs)
    asked = requests(spark, ("one", ["a"], ["a"]), ("two", ["c", "a"], ["a", "c"]), ("none", [], []), ("unknown", ["x"], ["x"]))
    found = ranked(baselines.itemknn(train, asked, items_of(spark, ["a", "b", "c", "d"]), 10))
    ab, ac, cd = 2 / math.sqrt(3 * 2), 1 / math.sqrt(3 * 2), 1 / math.sqrt(2 * 1)
    assert found.keys() == {"one", "two"}
    assert found["one"] == [("b", pytest.approx(ab)), ("c", pytest.approx(ac))]
    assert found["two"] == [("b", pytest.approx(ab)), ("d", pytest.approx(0.8 * cd))]
    monkeypatch.setattr(baselines, "EVENTS_PER_USER", 2)
    # u4 keeps its two latest items, d and gone: c and d were never together.
    assert "d" not in [item for item, _ in ranked(baselines.itemknn(train, asked, items_of(spark, ["a", "b", "c", "d"]), 10))["two"]]


def test_checkerboard_colours(spark) -> None:
    """Even users took even items: what ItemKNN and ALS answer an even user is even, without seen and without unavailable items."""
    pairs = [(f"user{u}", ITEMS[(2 * step + 4 * (u // 2) + u % 2) % 12]) for u in range(40) for step in range(5)]
    train = clicks(spark, pairs)
    available = items_of(spark, ITEMS[:10])
    asked = requests(spark, ("even", ["item00", "item02"], ["item00", "item02"]), user="user0").union(requests(spark, ("cold", [], [])))
    even = {"item04", "item06", "item08"}
    knn = ranked(baselines.itemknn(train, asked, available, 3))
    als = ranked(baselines.als(train, asked, available, 3, seed=7))
    assert {item for item, _ in knn["even"]} == even and {item for item, _ in als["even"]} == even
    assert knn.keys() == als.keys() == {"even"}


def test_word_search(spark) -> None:
    items = spark.createDataFrame([(item, f"Things {word}") for item, word in zip(ITEMS, WORDS, strict=True)], "item_id string, text string")
    clicked = clicks(spark, [(f"u{n}", "item07") for n in range(9)] + [("u1", "item03")], "search")
    index = baselines.word_index(spark, items, baselines.training_counts(clicked).drop("task"))
    asked = spark.createDataFrame([("known", "three"), ("twin", "three"), ("unknown", "zebra"), ("both", "thing")], "example_id string, query string")
    plain, popular = ranked(baselines.bm25(index, asked, 0.0, 4)), ranked(baselines.bm25(index, asked, 1.0, 4))
    assert [item for item, _ in plain["known"]] == ["item03"] and plain["twin"] == plain["known"]
    assert "unknown" not in plain and [item for item, _ in plain["both"]] == ITEMS[:4]  # equal scores: by item_id
    assert popular["unknown"] == [("item07", pytest.approx(math.log(10))), ("item03", pytest.approx(math.log(2)))]
    assert [item for item, _ in popular["both"]][:2] == ["item07", "item03"]


def test_biencoder_finds_what_no_word_tells(spark, config) -> None:
    """The query "call three" means item 3, as training clicks tell; no item's text has a word of any query."""
    config = config.model_copy(update={"embed": config.embed.model_copy(update={"text_dim": 16})})
    items = spark.createDataFrame([(item, f"object number{n}") for n, item in enumerate(ITEMS)], "item_id string, text string")
    rows = [("search", f"u{n}", f"call {word}", item, DAY + timedelta(minutes=n)) for n in range(8) for word, item in zip(WORDS, ITEMS, strict=True)]
    train = spark.createDataFrame(rows, TRAIN)
    asked = spark.createDataFrame([(word, "new", f"call {word}", [], []) for word in WORDS] + [("unknown", "new", "zebra", [], [])], REQUEST)
    found, again = (ranked(baselines.biencoder(spark, config, rows, asked, items, 4)) for rows in (train, train.repartition(3)))
    assert {word: ranking[0][0] for word, ranking in found.items()} == dict(zip(WORDS, ITEMS, strict=True))
    assert found == again and "unknown" not in found and max(map(len, found.values())) <= 4
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"baselines": ("biencoder",)})})
    made = baselines.rankings(spark, config, "search", train, train, asked, items, 4)
    assert made.keys() == {"popularity", "biencoder"} and ranked(made["biencoder"]) == found


def test_an_index_that_the_driver_could_not_hold_is_left_out_and_said(spark, config, caplog) -> None:
    items, train = items_of(spark, ITEMS), clicks(spark, [("u1", "item07")], "search")
    asked = requests(spark, ("r", [], []))

    def methods(limit: int) -> set[str]:
        held = {"baselines": ("popularity", "bm25", "bm25_popularity"), "max_indexed_items": limit}
        limited = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=held)})
        return set(baselines.rankings(spark, limited, "search", train, train, asked, items.withColumn("text", F.col("item_id")), 4))

    caplog.set_level("WARNING", logger="tandem")
    assert methods(len(ITEMS)) == {"popularity", "bm25", "bm25_popularity"} and not caplog.text
    assert methods(len(ITEMS) - 1) == {"popularity"}
    assert "bm25, bm25_popularity left out" in caplog.text and "12 items found, evaluate.max_indexed_items allows 11" in caplog.text


def test_weight_is_chosen_on_validation(spark) -> None:
    items = items_of(spark, ["red box", "red car", "red hat"])
    index = baselines.word_index(spark, items, spark.createDataFrame([("red hat", 50)], "item_id string, count bigint"))
    valid = "query string, target_item_id string"
    assert baselines.bm25_weight(index, spark.createDataFrame([("red", "red hat")] * 5, valid)) > 0
    assert baselines.bm25_weight(index, spark.createDataFrame([("red car", "red car")] * 5, valid)) == 0.0
    assert baselines.bm25_weight(index, spark.createDataFrame([], valid)) == 0.0


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("games", "game"),
        ("puppies", "puppy"),
        ("houses", "house"),
        ("boxes", "boxe"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("shoes", "shoes"),
        ("is", "is"),
        ("toy", "toy"),
    ],
)
def test_singular(word: str, stem: str) -> None:
    assert singular(word) == stem


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=20), st.integers(1, 25))
def test_best_is_a_stable_sort(scores: list[float], depth: int) -> None:
    expected = [row for row in sorted(range(len(scores)), key=lambda row: (-scores[row], row)) if scores[row] > 0][:depth]
    assert best(np.array(scores), depth).tolist() == expected


def test_only_configured_baselines_are_made(spark, config) -> None:
    asked = requests(spark, ("one", ["a"], []))
    train, items = clicks(spark, [("u1", "a"), ("u2", "b")]), items_of(spark, ["a", "b"])
    few = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"baselines": ("itemknn", "bm25")})})
    assert baselines.rankings(spark, few, "recommend", train, train, asked, items, 5).keys() == {"popularity", "itemknn"}  # the gate asks for popularity
