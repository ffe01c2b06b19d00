"""Should search and recommendation share a model here: what the logs have in common, which models are compared, and the advice."""

import math
import re
from datetime import UTC, date, datetime, timedelta

import pytest
from pyspark.sql import SparkSession

from jobs import study_page
from jobs.config import Config, load
from jobs.errors import BadArgument
from jobs.study import run
from jobs.study_joint import advice, compared, kinds, likeness, variants, weight_of

NOW = datetime(2026, 11, 19, tzinfo=UTC)
COLUMNS = "task string, user_id string, target_item_id string, query string, event_ts timestamp"


def rows_of(spark: SparkSession, recommend: list[tuple[str, str]], search: list[tuple[str, str]]):
    made = [("recommend", user, item, None, NOW) for user, item in recommend] + [("search", "s", item, query, NOW) for query, item in search]
    return spark.createDataFrame(made, COLUMNS)


def test_what_two_logs_have_in_common(spark: SparkSession) -> None:
    """Two users used a, b and a, c; one query found a and b, another d. Of the pairs a-b and a-c the first is redundant."""
    rows = rows_of(spark, [("u", "a"), ("u", "b"), ("v", "a"), ("v", "c")], [("x", "a"), ("x", "b"), ("y", "d")])
    items, logs = likeness(rows)
    # +1 over the union of four items: recommendation 3, 2, 2, 1 of 8; search 2, 2, 1, 2 of 7.
    p, q = [3 / 8, 2 / 8, 2 / 8, 1 / 8], [2 / 7, 2 / 7, 1 / 7, 2 / 7]
    parts = [x * math.log(x / y) for x, y in zip(p, q, strict=True)]
    expected = {"kl": sum(parts), "kl_shared": sum(parts[:2]), "search_items_in_recommend": 2 / 3, "recommend_items_in_search": 2 / 3, "redundancy": 0.5}
    assert logs == pytest.approx(expected)
    held = {row.item_id: row for row in items.collect()}
    assert (held["a"].redundancy, held["b"].redundancy, held["c"].redundancy, held["d"].redundancy) == (0.5, 1.0, 0.0, None)
    of = {(row.task, row.item_id): row.kinds for row in kinds(items, logs["redundancy"]).collect()}
    assert of["recommend", "b"] == ["other log:alike", "pairs:more redundant"]
    assert of["search", "c"] == ["other log:alike", "pairs:less redundant"]
    assert of["recommend", "d"][0] == "other log:knows it better" and of["search", "d"][0] == "other log:knows it less"


def test_the_same_logs_are_no_distance_apart(spark: SparkSession) -> None:
    rows = rows_of(spark, [("u", "a"), ("u", "b")], [("x", "a"), ("x", "b")])
    assert likeness(rows)[1] == pytest.approx(
        {"kl": 0, "kl_shared": 0, "search_items_in_recommend": 1, "recommend_items_in_search": 1, "redundancy": 1}, abs=1e-12
    )


def test_same_steps_are_as_many_steps(spark: SparkSession) -> None:
    """900 recent searches, 300 recommendations a half-life old: the joint epoch is 1,050 rows, 7 times recommendation's 150."""
    made = [("search", "u", "a", "x", NOW)] * 900 + [("recommend", "u", "a", None, NOW - timedelta(days=10))] * 300
    weights = weight_of(spark.createDataFrame(made, COLUMNS), 10.0)
    assert weights == pytest.approx({"search": 900, "recommend": 150})
    asked = variants(load(None, ["train.epochs=6", "study.caps=[5]"]), weights, 3)
    assert {name: (made.train.tasks, made.train.epochs, made.train.max_per_item) for name, made in asked.items()} == {
        "joint": (("recommend", "search"), 6, {}),
        "recommend_same_epochs": (("recommend",), 6, {}),
        "recommend_same_steps": (("recommend",), 42, {}),
        "recommend_joint_cap_5": (("recommend", "search"), 6, {"search": 5}),
        "search_same_epochs": (("search",), 6, {}),
        "search_same_steps": (("search",), 7, {}),
        "search_joint_cap_5": (("recommend", "search"), 6, {"recommend": 5}),
    }
    assert all(made.train.seed == 3 and not made.train.warm_start and made.train.patience >= made.train.epochs for made in asked.values())


UP, DOWN, SAME = (0.1, 0.05, 0.15), (-0.1, -0.15, -0.05), (0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("recommend", "search", "told"),
    [
        ({"joint": UP}, {"joint": UP}, "joint: .* helps recommend and search"),
        ({"joint": SAME}, {"joint": UP}, "joint: .* helps search"),
        ({"joint": SAME}, {"joint": SAME}, "joint: .* no task is measurably better or worse"),
        ({"joint": DOWN}, {"joint": UP}, "separate: .* helps search and costs recommend"),
        ({"joint": DOWN}, {"joint": DOWN}, "separate: .* costs recommend and search"),
        ({"joint": DOWN, "joint_cap_5": SAME}, {"joint": UP, "joint_cap_5": UP}, "cap the added task: .*for recommend, at most 5"),
        ({"joint": DOWN, "joint_cap_5": SAME, "joint_cap_50": SAME}, {"joint": UP}, "cap .* at most 50"),
        ({"joint": DOWN, "joint_cap_5": DOWN}, {"joint": UP}, "separate"),
        ({"joint": (0.1, math.nan, math.nan)}, {"joint": (-0.1, math.nan, math.nan)}, "joint: .* no task is measurably"),
    ],
)
def test_advice(recommend: dict, search: dict, told: str) -> None:
    assert re.match(told, advice({"recommend": recommend, "search": search}))


def test_gains_are_over_the_better_single_model_and_the_page_says_so() -> None:
    """Joint .12, alone .10 for the same epochs and .11 for the same steps: +20 %, +9 %, and the advice reads the second."""
    figures: dict = {}
    for task in ("recommend", "search"):
        for method, value in (("model", 0.12), (f"{task}_same_epochs", 0.10), (f"{task}_same_steps", 0.11)):
            for name in ("all", "item:head"):
                figures |= {(task, name, method, metric, k): (value, 0.0, 1.0, 500) for metric, k in (("ndcg", 10), ("recall", 30))}
    points, advised = compared([figures, figures], ["joint"])
    assert points["recommend", "item:head", "recommend_same_epochs"][0] == pytest.approx(0.2)
    assert points["search", "all", "search_same_steps"][0] == advised["search"]["joint"][0] == pytest.approx(0.12 / 0.11 - 1)
    page = study_page.joint(date(2026, 11, 19), points, [figures, figures], {"kl": 0.5}, "joint: <b>")
    assert "+20 %" in page and "+9 %" in page and "item:head" in page and "joint: &lt;b&gt;" in page


def test_a_day_is_needed(config: Config) -> None:
    with pytest.raises(BadArgument, match="--date"):
        run(config, None, "r", "joint")
