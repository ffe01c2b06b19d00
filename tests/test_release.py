"""Write, audit, publish: what is served is always one whole, audited release."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient

from jobs import mirror, registry, release, rollback
from jobs.config import load
from jobs.errors import BadArgument, BadData, MissingInput, TandemError, Transient
from jobs.spark import path_of, read
from jobs.tables import CHECKS, ITEMS, MODELS, RECOMMENDATIONS, SEARCH_RESULTS, STAGED_RECOMMENDATIONS, STAGED_SEARCH_RESULTS
from jobs.writes import create, dry_run, schema

D1 = date(2026, 11, 17)
D2, D3 = D1 + timedelta(days=1), D1 + timedelta(days=2)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def recommendation(day, user, rank, item, score=None, source="model", model="m1"):
    return (day, user, rank, item, -float(rank) if score is None else score, source, model, "r", NOW)


def result(day, query, user, rank, item):
    return (day, query, user, rank, item, -float(rank), "model", "m1", "r", NOW)


def write(spark, config, table, rows, where=None):
    """Rows into a table, in place of those `where`, without the audit of `replace`: the tests' inputs are not what is tested."""
    create(spark, config, table)
    writer = spark.createDataFrame(rows, schema(table)).coalesce(1).write.format("delta")
    writer = writer.mode("overwrite").option("replaceWhere", where) if where else writer.mode("append")
    writer.save(path_of(config, table))


def prepare(spark, config, status="passed"):
    """Ten items on each of three days, i9 withdrawn; one model."""
    write(spark, config, ITEMS, [(f"i{i}", f"Item {i}", f"item {i}", ["all"], i != 9, day) for day in (D1, D2, D3) for i in range(10)])
    write(spark, config, MODELS, [("m1", "bridge", "artifacts/m1", "h", "{}", "h", "{}", "0", None, "[]", status, "r", NOW, D1)])


def stage(spark, config, day, answers, queries=None, model="m1"):
    """Stage lists of items per user, and per query."""
    rows = [recommendation(day, user, rank, item, model=model) for user, ranked in answers.items() for rank, item in enumerate(ranked, 1)]
    write(spark, config, STAGED_RECOMMENDATIONS, rows, f"ds = '{day}'")
    if queries:
        rows = [result(day, query, None, rank, item) for query, ranked in queries.items() for rank, item in enumerate(ranked, 1)]
        write(spark, config, STAGED_SEARCH_RESULTS, rows, f"ds = '{day}'")


def served_items(spark, config):
    """What a reader sees: {user or query: items in rank order} of both tables."""
    return {
        row[release.request_of(frame)[0]]: [item["item_id"] for item in row["items"]]
        for table in (RECOMMENDATIONS, SEARCH_RESULTS)
        for frame in [release.wide(release.latest(spark, config, table))]
        for row in frame.collect()
    }


def test_a_dry_run_says_what_would_change_and_changes_nothing(spark, config, caplog):
    """Before the first release, of a day in which one user's answer differs, and of one that is the same; the registry is not made either."""
    mirrored = config.model_copy(update={"registry": load(None).registry})

    def told(day):
        before = {path: path.stat().st_mtime_ns for path in Path(config.lake.root).rglob("*")}
        caplog.clear()
        with caplog.at_level("INFO"), dry_run(True):
            done = release.run(mirrored, day, "asked")
        assert {path: path.stat().st_mtime_ns for path in Path(config.lake.root).rglob("*")} == before
        lines = [record.getMessage().removeprefix("dry run: ") for record in caplog.records if record.getMessage().startswith("dry run: ")]
        return done["written"], [line for line in lines if not line.startswith(("checks", "search_results"))]

    prepare(spark, config)
    stage(spark, config, D1, {"u": ["i1", "i2"], "v": ["i1", "i2"]})
    of_day = f"recommendations where ds = '{D1}'"
    assert told(D1) == (4, [f"{of_day}: 4 rows would be new, 0 would go", f"{D1} would be released; nothing is served yet"])
    assert release.run(config, D1, "first")["status"] == "released"
    assert told(D1) == (0, [f"{of_day}: 0 rows would be new, 0 would go", f"{D1} would be released; {D1} is served"])
    stage(spark, config, D1, {"u": ["i1", "i2"], "v": ["i1", "i3", "i2"]})
    assert told(D1) == (5, [f"{of_day}: 2 rows would be new, 1 would go", f"{D1} would be released; {D1} is served"])


def champion(config):
    """What people's tools take for the served model."""
    return MlflowClient(mirror.address(config)).get_model_version_by_alias("tandem", "champion").tags["model_version"]


def published_versions(config):
    return {name: DeltaTable(f"{config.lake.root}/{name}").version() for name in ("recommendations", "search_results", "releases")}


@pytest.mark.fault("R16", "R17")
def test_measure_counts_each_fault_where_it_is(spark, config):
    rows = [
        *[recommendation(D1, "good", rank, f"i{rank}") for rank in (1, 2, 3)],
        *[recommendation(D1, "gap", rank, f"i{rank}") for rank in (1, 3)],
        *[recommendation(D1, "from_two", rank, f"i{rank}") for rank in (2, 3)],
        *[recommendation(D1, "same_rank", 1, item, -1.0) for item in ("i1", "i2")],
        *[recommendation(D1, "same_item", rank, "i1") for rank in (1, 2)],
        recommendation(D1, "unknown", 1, "nowhere"),
        recommendation(D1, "withdrawn", 1, "i9"),
        recommendation(D1, "nan", 1, "i1", math.nan),
        recommendation(D1, "infinite", 1, "i1", -math.inf),
        recommendation(D1, "rising", 1, "i1", -2.0),
        recommendation(D1, "rising", 2, "i2", -1.0, "popular"),
        recommendation(D1, None, 1, "i1"),
        recommendation(D1, "other_model", 1, "i1", model="m2"),
    ]
    old = [recommendation(D1, "good", 1, "i1"), recommendation(D1, "gap", 1, "i7"), recommendation(D1, "gap", 2, "i1"), recommendation(D1, "gone", 1, "i1")]
    kind = "ds DATE, user_id STRING, rank INT, item_id STRING, score DOUBLE, source STRING, model_version STRING, run_id STRING, generated_at TIMESTAMP"
    items = spark.createDataFrame([(f"i{i}", i != 9) for i in range(10)], "item_id STRING, is_available BOOLEAN")
    found = release.measure(spark.createDataFrame(rows, kind), items, spark.createDataFrame(old, kind)).first().asDict()
    assert found == {
        "requests": 12, "rows": 19, "deepest": 3, "null_keys": 1, "rank_gaps": 3, "repeated_items": 1, "unknown_items": 2,
        "bad_scores": 2, "rising_scores": 1, "fallback": 1, "compared": 2, "changed": 1, "model": "m1", "other_model": "m2",
    }  # fmt: skip
    failed = {c.name.removeprefix("recommendations.") for c in release.judge(config, "recommendations", found, []) if not c.passed}
    assert failed == {"null_keys", "rank_gaps", "repeated_items", "unknown_items", "bad_scores", "rising_scores"}


def test_measure_of_search_parts_everyone_from_a_user(spark):
    rows = [result(D1, "q", None, 1, "i1"), result(D1, "q", "u", 1, "i2"), result(D1, "q", "u", 2, "i1")]
    old = [result(D1, "q", None, 1, "i1"), result(D1, "q", "u", 1, "i3")]
    items = spark.createDataFrame([("i1", True), ("i2", True)], "item_id STRING, is_available BOOLEAN")
    kind = schema(SEARCH_RESULTS)
    found = release.measure(spark.createDataFrame(rows, kind), items, spark.createDataFrame(old, kind)).first().asDict()
    assert (found["requests"], found["rows"], found["compared"], found["changed"], found["null_keys"], found["rank_gaps"]) == (2, 3, 2, 1, 0, 0)
    none = release.measure(spark.createDataFrame([], kind), items, spark.createDataFrame(old, kind)).first().asDict()
    assert (none["requests"], none["rows"], none["deepest"], none["rank_gaps"], none["model"]) == (0, 0, 0, 0, None)


GOOD = {"null_keys": 0, "rank_gaps": 0, "repeated_items": 0, "unknown_items": 0, "bad_scores": 0, "rising_scores": 0, "deepest": 20, "fallback": 0, "rows": 800}


@pytest.mark.fault("R7")
@pytest.mark.parametrize(
    ("counts", "earlier", "failed"),
    [
        ({"requests": 40}, [40, 41, 39], set()),
        ({"requests": 61}, [40, 41, 39], {"volume_change"}),
        ({"requests": 24_299}, [8_314, 14_621, 19_810], set()),  # a first fill: 66 % above the median, 23 % above yesterday
        ({"requests": 40}, [40, 41, 39, 9], set()),  # yesterday was odd, today is not
        ({"requests": 80}, [40, 41, 39, 9], {"volume_change"}),
        ({"requests": 19}, [40, 41, 39], {"volume_change"}),
        ({"requests": 0}, [40, 41, 39], {"volume_change"}),
        ({"requests": 0}, [40, 41], set()),  # too few releases to judge by
        ({"requests": 9}, [4, 4, 4], set()),  # too few requests to judge by
        ({"requests": 0}, [0, 0, 0], set()),
        ({"requests": 40, "compared": 40, "changed": 38}, [], set()),
        ({"requests": 40, "compared": 40, "changed": 39}, [], {"changed_share"}),
        ({"requests": 40, "compared": 5, "changed": 5}, [], set()),
        ({"requests": 40, "deepest": 21}, [], {"deepest_rank"}),
    ],
)
def test_judge(config, counts, earlier, failed):
    checks = release.judge(config, "search_results", GOOD | {"compared": 0, "changed": 0} | counts, earlier)
    assert {c.name.removeprefix("search_results.") for c in checks if not c.passed} == failed
    # What will not be served may have nothing in common with what is.
    backfill = release.judge(config, "search_results", GOOD | {"compared": 0, "changed": 0} | counts, earlier, served=False)
    assert {c.name.removeprefix("search_results.") for c in backfill if not c.passed} == failed - {"changed_share"}


@pytest.mark.fault("R10", "R13")
def test_life_of_a_lake(spark, tmp_path):
    """Release, rerun, kill, refusal, rerelease, rollback, backfill: in one lake, as nights would go."""
    config = load(None, [f"lake.root={tmp_path}", "spark.master=local[2]"])
    with pytest.raises(MissingInput, match="nothing was released"):
        release.latest(spark, config, RECOMMENDATIONS)
    prepare(spark, config)
    write(spark, config, MODELS, [("m2", "bridge", "artifacts/m2", "h", "{}", "h", "{}", "0", None, "[]", "passed", "r", NOW, D2)])
    first = {"u1": ["i1", "i2"], "u2": ["i3"]}
    stage(spark, config, D1, first, {"red shoe": ["i4", "i5"]})
    done = release.run(config, D1, "night1")
    assert done == {"status": "released", "rows": {"recommendations": 3, "search_results": 2}, "written": 5}

    # R10: the same again commits nothing anywhere.
    before = published_versions(config)
    assert release.run(config, D1, "night1-again")["written"] == 0
    assert published_versions(config) == before

    # R13: killed between the two publishes, readers still see the first release; a rerun completes. No query was answered.
    second = {"u1": ["i5"], "u2": ["i6"], "u3": ["i7"]}
    stage(spark, config, D2, second, model="m2")
    release.publish(spark, config, RECOMMENDATIONS, D2, read(spark, config, STAGED_RECOMMENDATIONS, at=D2), "killed")
    assert served_items(spark, config) == first | {"red shoe": ["i4", "i5"]} and champion(config) == "m1"
    assert release.run(config, D2, "night2")["rows"] == {"recommendations": 3, "search_results": 0}
    assert served_items(spark, config) == second and champion(config) == "m2"

    # A refused audit publishes nothing, tells why, and the day before is still served.
    stage(spark, config, D3, {"u1": ["i9"]}, {"red shoe": ["nowhere"]})
    before = published_versions(config)
    with pytest.raises(BadData, match=r"recommendations\.unknown_items: found 1\.0, allowed 0\.0; search_results\.unknown_items"):
        release.run(config, D3, "night3")
    assert published_versions(config) == before
    assert read(spark, config, CHECKS, at=D3).where("severity = 'fail' AND NOT passed").count() == 2

    # The same day released anew is served; an older day is published, but not served.
    stage(spark, config, D2, {"u1": ["i8"], "u2": ["i6"]}, model="m2")
    release.run(config, D2, "night2-mended")
    stage(spark, config, D1, {"u1": ["i2"]})
    assert release.run(config, D1, "backfill")["status"] == "backfilled"
    assert served_items(spark, config) == {"u1": ["i8"], "u2": ["i6"]} and champion(config) == "m2"
    assert read(spark, config, RECOMMENDATIONS, at=D1).count() == 1
    rows = release.releases(spark, config)
    assert [(row.run_id, row.status) for row in reversed(rows)] == [
        ("night1", "released"), ("night2", "released"), ("night2-mended", "released"), ("backfill", "backfilled")
    ]  # fmt: skip
    assert release.earlier(rows, "recommendations", D3) == [1, 2]

    # Left, the rows before come back exactly, by their Delta version; then those of the day before; but never rows that VACUUM took.
    with pytest.raises(BadArgument, match="served release is of 2026-11-18"):
        rollback.run(config, D1, "wrong")
    assert rollback.run(config, D2, "back") == {"left": "2026-11-18", "served": "2026-11-18", "run_id": "night2", "withdrawn": None}
    assert served_items(spark, config) == second and champion(config) == "m2"
    assert registry.champion(spark, config, D3).model_version == "m2"
    done = rollback.run(config, D2, "back2")
    assert (done["run_id"], done["withdrawn"], champion(config)) == ("backfill", "m2", "m1")
    # The next night learns from the model that is served, is held against it and goes on with it, not with the one that was left.
    assert registry.champion(spark, config, D3).model_version == "m1"
    with pytest.raises(MissingInput, match="cannot be read any more"):
        vacuum(spark, config, RECOMMENDATIONS)
        rollback.run(config, D1, "back3")  # to night1, whose rows no later version holds
    assert release.served(spark, config).run_id == "backfill"


def test_a_model_that_did_not_pass_is_not_released(spark, config):
    prepare(spark, config, status="failed")
    stage(spark, config, D1, {"u1": ["i1"]})
    with pytest.raises(BadData, match="models_not_passed"):
        release.run(config, D1, "night")
    with pytest.raises(MissingInput, match="staged_recommendations has no rows for 2026-11-19"):
        release.run(config, D3, "night")
    assert release.served(spark, config) is None


@pytest.mark.fault("R14")
def test_two_runs_of_one_day_serve_one_answer(spark, config):
    """R14: a loser is Transient and a no-op on retry; where both win, both wrote the same rows."""
    prepare(spark, config)
    answers = {f"u{i}": ["i1", "i2"] for i in range(5)}
    stage(spark, config, D1, answers, {"shoe": ["i3"]})

    def attempt(name):
        try:
            return release.run(config, D1, name)["status"]
        except TandemError as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, ("a", "b")))
    assert "released" in outcomes and set(outcomes) <= {"released", Transient}
    assert served_items(spark, config) == answers | {"shoe": ["i3"]}
    for name, outcome in zip("ab", outcomes, strict=True):
        if outcome is Transient:
            assert release.run(config, D1, f"{name}-retry")["written"] == 0
    assert read(spark, config, RECOMMENDATIONS, at=D1).count() == 10
    for row in release.releases(spark, config):
        assert read(spark, config, RECOMMENDATIONS, at=D1, version=json.loads(row.output_versions)["recommendations"]).count() == 10


@pytest.mark.fault("R37")
def test_only_one_of_two_promotions_wins(spark, config, monkeypatch):
    """While D2 is being released, D3 is: D2 must not take its place by being later. Of two gates on one model, none is lost in silence."""
    prepare(spark, config)
    for day, item in ((D1, "i1"), (D2, "i2"), (D3, "i3")):
        stage(spark, config, day, {"u": [item]})
    release.run(config, D1, "night1")
    publish, waiting = release.publish, [D3]

    def overtaken(spark, config, table, day, *rest):
        if day == D2 and waiting:
            release.run(config, waiting.pop(), "night3")
        return publish(spark, config, table, day, *rest)

    monkeypatch.setattr(release, "publish", overtaken)
    with pytest.raises(Transient, match="2026-11-18 is published, and not served yet"):
        release.run(config, D2, "night2")
    assert release.served(spark, config).ds == D3
    assert release.run(config, D2, "night2-retried")["status"] == "backfilled"
    assert served_items(spark, config) == {"u": ["i3"]}

    def gate(status):
        try:
            registry.set_status(spark, config, "m1", status)
        except Transient:
            return None
        return status

    with ThreadPoolExecutor(2) as pool:
        outcomes = set(pool.map(gate, ("passed", "failed")))
    (row,) = read(spark, config, MODELS).collect()
    assert row.status in outcomes


def test_previous_goes_one_down_in_the_order_of_day_and_time():
    def row(ds, hour, run_id, status="released"):
        versions = f"{ds} {run_id}"
        return SimpleNamespace(ds=ds, released_at=NOW + timedelta(hours=hour), run_id=run_id, status=status, output_versions=versions)

    first, bad, mended, late = row(D1, 0, "a"), row(D2, 1, "b"), row(D2, 2, "b2"), row(D1, 3, "late", "backfilled")
    back = row(D2, 4, "b", "rollback")
    rows = [back, late, mended, bad, first]
    assert rollback.previous(rows, mended) is bad
    assert rollback.previous(rows, back) is late  # a rollback row stands where its release does
    assert rollback.previous(rows, late) is first
    assert rollback.previous(rows, first) is None
    assert release.served_of(rows) is back and release.served_of(rows[1:]) is mended and release.served_of([]) is None


def vacuum(spark, config, table):
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    try:
        spark.sql(f"VACUUM delta.`{path_of(config, table)}` RETAIN 0 HOURS")
    finally:
        spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
