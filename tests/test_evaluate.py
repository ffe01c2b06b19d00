"""Evaluation: figures against literal ranks and numpy, intervals against known truths, the gate by a table, and a night's run."""

import json
import math
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import tiny
from pyspark.sql import functions as F
from worlds import DAY, ITEMS, WORDS, checkerboard_rows

from jobs import evaluate
from jobs.checks import Check
from jobs.errors import BadData, MissingInput
from jobs.registry import candidate, champion, renew
from jobs.sections import Gate
from jobs.spark import current_version, read
from jobs.tables import CHECKS, CORPORA, METRICS, MODELS
from jobs.tables import ITEMS as ITEMS_TABLE
from jobs.writes import replace, schema
from model.metrics import gains
from udfs.bootstrap import SUMS, column_names, poisson_weights, resampled_sums

EXAMPLE = "example_id string, task string, user_id string, query string, target_item_id string, history array<struct<item_id string>>"


def keys(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(-(2**63), 2**63, n, dtype=np.int64)


def rank_frame(ranks: np.ndarray, task: str = "recommend", slices: list[str] | None = None) -> pd.DataFrame:
    n = len(ranks)
    return pd.DataFrame({"key": keys(n), "task": task, "slices": [slices or ["all"]] * n, "ranks": list(ranks.astype(np.int32))})


class TestBootstrap:
    def test_weights_are_poisson_and_depend_on_example_and_replicate_alone(self) -> None:
        weights = poisson_weights(keys(4000), 50)
        assert (weights[:, 0] == 1).all()
        drawn = weights[:, 1:]
        assert drawn.mean() == pytest.approx(1, abs=0.01) and drawn.var() == pytest.approx(1, abs=0.02)
        assert [(drawn == n).mean() for n in range(4)] == pytest.approx([math.exp(-1) / math.factorial(n) for n in range(4)], abs=0.005)
        assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.05 and abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.5
        assert (poisson_weights(keys(4000)[::-1], 20) == weights[::-1, :21]).all()

    def test_sums_add_up_over_partitions(self) -> None:
        frame = rank_frame(np.random.default_rng(1).integers(0, 12, (50, 3)), slices=["all", "item:tail"])
        sums = resampled_sums((1, 10), 3, 20)
        whole, parts = pd.concat(sums(iter([frame]))), pd.concat([*sums(iter([frame[:13], frame[13:20]])), *sums(iter([frame[20:]]))])
        assert list(whole.columns) == column_names(SUMS) and list(sums(iter([]))) == []
        for _, row in whole.iterrows():
            rows = parts[parts["slice"] == row["slice"]]
            assert rows["n"].sum() == row["n"] == 50
            np.testing.assert_allclose(np.sum(rows["sums"].tolist(), axis=0), row["sums"], atol=1e-9)
            np.testing.assert_allclose(np.sum(rows["weights"].tolist(), axis=0), row["weights"], atol=1e-9)


def test_figures_and_intervals(spark) -> None:
    """First method: the target is first for 30 % of 2,000 examples. Second: always one place behind it. Third: independent of it."""
    random = np.random.default_rng(3)
    first = np.where(random.random(2000) < 0.3, 1, random.integers(2, 30, 2000))
    ranks = np.stack([first, first + 1, np.where(random.random(2000) < 0.3, 1, 0)], axis=1)
    frame = rank_frame(ranks)
    frame.loc[:99, "slices"] = pd.Series([["all", "history:empty"]] * 100)
    few = pd.concat([frame, rank_frame(np.array([[0, 1, 1]]), "search")])
    shape = "key bigint, task string, slices array<string>, ranks array<int>"
    methods, ks = ("model", "behind", "other"), (1, 10)
    figures = evaluate.rank_figures(spark, spark.createDataFrame(few, shape), methods, ks, 200)

    for m, method in enumerate(methods):
        for k in ks:
            for metric, gain in gains(ranks[:, m], k).items():
                assert figures["recommend", "all", method, metric, k][0] == pytest.approx(gain.mean())
                assert figures["recommend", "history:empty", method, metric, k][0] == pytest.approx(gain[:100].mean())
    value, low, high, n = figures["recommend", "all", "model", "recall", 1]
    assert n == 2000 and low < 0.3 < high and low < value < high
    spread = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert (value - low, high - value) == pytest.approx((spread, spread), rel=0.25)  # the textbook interval of a share
    # Paired: what both methods share cancels out.
    behind, other = figures["recommend", "all", "behind", "ndcg_gain", 10], figures["recommend", "all", "other", "ndcg_gain", 10]
    assert behind[0] == pytest.approx((gains(ranks[:, 0], 10)["ndcg"] - gains(ranks[:, 1], 10)["ndcg"]).mean())
    assert 0 < behind[1] < behind[2] and behind[2] - behind[1] < (other[2] - other[1]) / 2
    assert ("recommend", "all", "model", "ndcg_gain", 10) not in figures
    assert figures["search", "all", "model", "recall", 10][:3] == (0.0, 0.0, 0.0) and figures["search", "all", "other", "ndcg_gain", 10][0] == -1.0


def test_what_one_user_did_is_one_observation(spark) -> None:
    """1,000 examples, 900 of them one user's, and only that user's targets are lost: it may be chance, however many rows say so."""
    ranks = np.array([[2, 1]] * 900 + [[1, 1]] * 100)
    shape = "key bigint, task string, slices array<string>, ranks array<int>"
    for key, chance in ((np.zeros(900, np.int64), True), (np.arange(1000, 1900), False)):
        frame = rank_frame(ranks).assign(key=np.concatenate([key, np.arange(1, 101)]))
        value, _, high, _ = evaluate.rank_figures(spark, spark.createDataFrame(frame, shape), ("model", "served"), (10,), 200)[
            "recommend", "all", "served", "ndcg_gain", 10
        ]
        assert value == pytest.approx(0.9 * (1 / math.log2(3) - 1)) and (high >= 0) == chance


def test_popularity_of_items(spark) -> None:
    """100 items of counts 100, 99, …, 2 and two never seen: one head item, 19 torso items; the two unseen share a percentile."""
    names = [f"i{n:03d}" for n in range(100)]
    counts = spark.createDataFrame([(name, 100 - n) for n, name in enumerate(names[:98])] + [("gone", 500)], "item_id string, count bigint")
    rows = {row.item_id: row for row in evaluate.item_popularity(spark.createDataFrame([(name,) for name in names], "item_id string"), counts).collect()}
    bands = [rows[name].band for name in names]
    assert bands == ["head"] + ["torso"] * 19 + ["tail"] * 80
    assert (
        rows["i000"].percentile == 1.0
        and rows["i050"].percentile == pytest.approx(49 / 99)
        and rows["i098"].percentile == rows["i099"].percentile == pytest.approx(0.5 / 99)
    )
    assert sum(row.share for row in rows.values()) == pytest.approx(1) and rows["i099"].share == pytest.approx(1 / (sum(range(3, 101)) + 100))


def test_slices_target_ranks_and_catalogue(spark) -> None:
    acts = [("a",)] * 6
    rows = [
        ("r1", "recommend", "u1", None, "a", []),
        ("r2", "recommend", "u2", None, "z", acts[:5]),
        ("r3", "recommend", "u3", None, "gone", acts),
        ("s1", "search", "u4", "known", "a", acts),
        ("s2", "search", "u5", "new", "b", []),
    ]
    examples = spark.createDataFrame(rows, EXAMPLE)
    both = [
        ("recommend", "a", 0.5, 1.0, "head"),
        ("recommend", "z", 0.5, 0.0, "torso"),
        ("search", "a", 0.75, 1.0, "head"),
        ("search", "b", 0.25, 0.0, "torso"),
    ]
    popularity = spark.createDataFrame(both, "task string, item_id string, share double, percentile double, band string")
    train = spark.createDataFrame([("search", "known", "a"), ("recommend", None, "b")], "task string, query string, target_item_id string")
    sliced = evaluate.with_slices(examples, popularity, train)
    lists = [
        ("model", "recommend", "r1", ["z", "a"]),
        ("model", "recommend", "r2", ["a", "x"]),
        ("model", "search", "s1", ["a"]),
        ("model", "search", "s2", ["a"]),
    ]
    lists += [("knn", "recommend", "r2", ["z", "a"]), ("knn", "recommend", "r3", ["a", "a"])]
    long = [(m, t, e, rank, item, None) for m, t, e, items in lists for rank, item in enumerate(items, 1)]
    rankings = spark.createDataFrame(long, "method string, task string, example_id string, rank int, item_id string, error string")

    found = {row.key: row for row in evaluate.target_ranks(sliced, rankings, ("model", "knn")).collect()}
    users = [row.key for row in examples.orderBy("user_id").select(F.xxhash64("user_id").alias("key")).collect()]
    assert [found[user].ranks for user in users] == [[2, 0], [0, 1], [0, 0], [1, 0], [0, 0]]
    assert [found[user].slices for user in users] == [
        ["all", "item:head", "history:empty"],
        ["all", "item:torso", "item:new", "history:short"],
        ["all", "item:tail", "item:new", "history:long"],
        ["all", "item:head", "history:long", "query:seen"],
        ["all", "item:torso", "history:empty", "query:unseen"],
    ]
    figures, unknown = evaluate.catalogue_figures(rankings, popularity, (1, 10))
    values = {(task, method, metric, k): figure[0] for (task, _, method, metric, k), figure in figures.items()}
    assert values["recommend", "model", "coverage", 1] == 1.0 and values["search", "model", "coverage", 10] == 0.5
    assert values["recommend", "knn", "coverage", 1] == 1.0 and values["recommend", "knn", "popularity", 10] == pytest.approx(3 / 4)
    assert values["recommend", "model", "novelty", 1] == pytest.approx(1.0) and values["search", "model", "novelty", 10] == pytest.approx(
        -math.log2(0.75), abs=1e-8
    )
    assert unknown["recommend", "model"] == 1 and unknown["recommend", "knn"] == 0
    assert evaluate.faults(rankings)["recommend"] == (0, 0.0)
    bad = rankings.selectExpr("'model' AS method", "task", "example_id", "rank", "item_id", "IF(example_id = 'r1', 'E', NULL) AS error")
    assert evaluate.faults(bad)["recommend"] == (2, pytest.approx(1 / 3))  # r2 and r3 now hold an item twice


def test_the_sample_is_the_same_every_time_and_of_test_rows(spark) -> None:
    rows = [(f"{task}{n}", task, "test" if n % 2 else "train") for task in ("recommend", "search") for n in range(40)]
    corpora = spark.createDataFrame(rows, "example_id string, task string, split string")
    few = {row.example_id for row in evaluate.drawn(corpora, "test", 7).collect()}
    again = {row.example_id for row in evaluate.drawn(corpora.orderBy("example_id").repartition(5), "test", 7).collect()}
    more = {row.example_id for row in evaluate.drawn(corpora, "test", 15).collect()}
    assert few == again and few < more and len(few) == 14 and len(more) == 30
    assert all(int(name.removeprefix("recommend").removeprefix("search")) % 2 for name in more)


def figures_of(
    task: str = "recommend", drop: tuple = (None, None, None), coverage: tuple = (0.5, None), popular: float | None = 0.01, served: float = 0.2
) -> evaluate.Figures:
    made: evaluate.Figures = {(task, "all", "model", "ndcg", 10): (0.2, 0.1, 0.3, 99), (task, "all", "model", "coverage", 10): (coverage[0], None, None, 0)}
    if drop[0] is not None:
        made[task, "all", "served", "ndcg_gain", 10] = (*drop, 99)
        made[task, "all", "served", "ndcg", 10] = (served, served, served, 99)
        made[task, "all", "served", "coverage", 10] = (coverage[1] or coverage[0], None, None, 0)
    if popular is not None:
        made[task, "all", "popularity", "ndcg_gain", 10] = (popular, popular, popular, 99)
    return made


@pytest.mark.fault("R36")
@pytest.mark.parametrize(
    ("figures", "invalid", "poisoned", "gate", "failed"),
    [
        (figures_of(), 0, 0.0, Gate(), set()),
        (figures_of(drop=(0.01, 0.0, 0.02)), 0, 0.0, Gate(), set()),
        (figures_of(drop=(-0.05, -0.07, -0.03)), 0, 0.0, Gate(), {"recommend.ndcg@10_against_served"}),
        (figures_of(drop=(-0.05, -0.12, 0.02)), 0, 0.0, Gate(), set()),  # may be chance
        (figures_of(drop=(-0.009, -0.012, -0.006)), 0, 0.0, Gate(), set()),  # small, though sure
        (figures_of(drop=(-0.009, -0.012, -0.006)), 0, 0.0, Gate(max_drop=0.01), {"recommend.ndcg@10_against_served"}),
        # A log on which nobody reaches .02: three quarters of what was found are lost.
        (figures_of(drop=(-0.0112, -0.013, -0.009), served=0.0154), 0, 0.0, Gate(), {"recommend.ndcg@10_against_served"}),
        (figures_of(drop=(0.01, 0.005, 0.015), served=0.0), 0, 0.0, Gate(), set()),
        (figures_of(drop=(0.0, 0.0, 0.0), coverage=(0.44, 0.5)), 0, 0.0, Gate(), {"recommend.coverage_ratio"}),
        (figures_of(drop=(0.0, 0.0, 0.0), coverage=(0.45, 0.5)), 0, 0.0, Gate(), set()),
        (figures_of(popular=-0.001), 0, 0.0, Gate(), {"recommend.ndcg@10_against_popularity"}),
        (figures_of(popular=-0.001), 0, 0.0, Gate(beat_popularity=False), set()),
        (figures_of(popular=None), 0, 0.0, Gate(), set()),
        (figures_of(), 1, 0.0, Gate(), {"recommend.invalid_rows"}),
        (figures_of(), 0, 0.002, Gate(), {"recommend.poisoned_share"}),
        (figures_of() | figures_of("search", popular=-0.2), 0, 0.0, Gate(), {"search.ndcg@10_against_popularity"}),
    ],
)
def test_the_gate(figures, invalid: int, poisoned: float, gate: Gate, failed: set[str]) -> None:
    tasks = ("recommend", "search")
    checks = evaluate.decide(figures, dict.fromkeys(tasks, invalid), dict.fromkeys(tasks, poisoned), gate)
    assert {check.name for check in checks if not check.passed} == failed
    assert {check.severity for check in checks} <= {"warn", "info"}  # a failed candidate does not stop the night
    assert Check("recommend.test_examples", "info", 99.0, None, True) in checks


def write_world(spark, config, target: str | None = None) -> None:
    """The checkerboard as one base day; with `target`, a log where that item is everything and nobody has a history."""
    rows = [row | {"ds": DAY, "history": [tuple(act.values()) for act in row["history"]]} for row in checkerboard_rows(12, 5)]
    if target:
        rows = [row | {"target_item_id": target, "history": []} for row in rows]
    replace(spark, config, CORPORA, DAY, spark.createDataFrame([[row[name] for name in CORPORA.names] for row in rows], schema(CORPORA)), "r")
    for ds in (DAY, DAY + timedelta(days=3)):
        items = [(item, word, f"thing {word}", [], True, ds) for item, word in zip(ITEMS, WORDS, strict=True)]
        replace(spark, config, ITEMS_TABLE, ds, spark.createDataFrame(items, schema(ITEMS_TABLE)), "r")


def write_model(spark, config, version: str, day, seed: int) -> None:
    tiny.artifact(tiny.Path(config.lake.root) / "artifacts" / version, ITEMS, [f"thing {word}" for word in WORDS], seed=seed)
    tiny.register(spark, config, version, day)


@pytest.mark.fault("R36")
def test_a_night_of_evaluation(spark, config) -> None:
    """First model passed, second judged against it and failed, a rerun changes nothing; without another model a failure stops the night."""
    few = {"ks": [1, 5], "bootstrap": 20, "baselines": ["popularity", "itemknn", "bm25"]}
    config = type(config).model_validate(config.model_dump() | {"evaluate": few, "gate": {"beat_popularity": False}})
    bare = {"evaluate": few | {"baselines": []}, "gate": {"beat_popularity": False, "min_coverage_ratio": 9}}
    strict = type(config).model_validate(config.model_dump() | bare)
    with pytest.raises(MissingInput, match="no model of 2026-01-31"):
        evaluate.run(config, DAY, "r")
    write_world(spark, config)
    write_model(spark, config, "m1", DAY - timedelta(days=1), 1)
    tiny.register(spark, config, "m1", DAY - timedelta(days=1), "passed")
    write_model(spark, config, "m2", DAY, 2)

    assert evaluate.run(strict, DAY, "r1")["status"] == "failed"  # the served model covers the 12 items as well
    assert candidate(spark, config, DAY).status == "failed"
    result = evaluate.run(config, DAY, "r2")
    assert (result["status"], candidate(spark, config, DAY).status) == ("passed", "passed")
    version = current_version(spark, config, METRICS)
    assert evaluate.run(config, DAY, "r3") == result and current_version(spark, config, METRICS) == version

    rows = read(spark, config, METRICS, at=DAY).collect()
    value = {(row.task, row.method, row.slice, row.metric, row.k): row.value for row in rows}
    assert {row.n for row in rows if row.slice == "all"} == {12} and {row.model_version for row in rows} == {"m2"}
    assert {row.method for row in rows if row.task == "recommend"} == {"model", "served", "popularity", "itemknn"}
    assert {row.method for row in rows if row.task == "search"} == {"model", "served", "popularity", "bm25"}
    assert value["search", "bm25", "all", "recall", 1] == 1.0  # "thing i" names item i
    gain = value["search", "model", "all", "ndcg", 10] - 1
    assert value["search", "bm25", "all", "ndcg_gain", 10] == pytest.approx(gain)
    assert value["recommend", "itemknn", "all", "recall", 5] == 1.0  # six items of a colour, four of them seen
    assert {row.slice for row in rows} == {"all", "item:head", "item:torso", "item:tail", "history:short", "query:seen", "query:unseen"} & {
        row.slice for row in rows
    }
    checks = {row.check: row for row in read(spark, config, CHECKS, at=DAY).where("step = 'evaluate'").collect()}
    assert checks["gate"].passed and checks["recommend.invalid_rows"].value == 0 and checks["search.test_examples"].value == 12
    assert json.loads(json.dumps(result))["rows"] == {"metrics": len(rows)}


@pytest.mark.fault("R36")
def test_nothing_to_judge_on_and_nothing_to_serve(spark, config) -> None:
    """An untrained model on a log where one item is everything: popularity is better, and there is no other model."""
    config = type(config).model_validate(config.model_dump() | {"evaluate": {"ks": [1], "bootstrap": 20, "baselines": []}})
    later = DAY + timedelta(days=3)
    write_world(spark, config, target="item03")
    write_model(spark, config, "m1", DAY, 1)
    write_model(spark, config, "m2", later, 1)
    with pytest.raises(BadData, match="no test examples of recommend, search for 2026-02-03"):
        evaluate.run(config, later, "r")
    # With a model to go on with the night goes on.
    tiny.register(spark, config, "m1", DAY, "passed")
    assert evaluate.run(config, later, "r")["failed"] == ["test_examples"] and candidate(spark, config, later).status == "failed"
    with pytest.raises(BadData, match=r"m1 failed the gate and there is no other to serve: .*against_popularity"):
        evaluate.run(config, DAY, "r")
    assert candidate(spark, config, DAY).status == "failed"


def test_a_rerun_makes_its_model_the_days_candidate_again(spark, config) -> None:
    """Of a night's model and a weekly one of the same day the last asked for counts, and keeps what the gate said of it."""
    for version in ("nightly", "weekly"):
        tiny.register(spark, config, version, DAY, "passed")
    first = candidate(spark, config, DAY).model_version
    other = {"nightly": "weekly", "weekly": "nightly"}[first]
    renew(spark, config, DAY, other)
    assert candidate(spark, config, DAY).model_version == champion(spark, config, DAY).model_version == other
    version = current_version(spark, config, MODELS)
    renew(spark, config, DAY, other)
    assert current_version(spark, config, MODELS) == version
