"""Recommendations: who is asked for, what each request gets, and what a broken request does to the others."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import recommend
from jobs.errors import BadData, MissingInput
from jobs.spark import read
from jobs.tables import ACTION, CHECKS, EVENTS, ITEMS, STAGED_RECOMMENDATIONS
from jobs.writes import replace, schema
from udfs.rank import RANKED, bisect, fill, ranker

DAY = date(2026, 3, 10)
NOON = datetime(2026, 3, 10, 12)
NAMES = [f"i{n:02d}" for n in range(30)]
TEXTS = [f"thing number {n}" for n in range(30)]
REQUEST = f"user_id string, query string, history array<{ACTION}>, exclude array<string>"


def event(user: str, item: str, days_ago: float = 0, surface: str = "recommendation", query: str | None = None, arrived: date = DAY) -> tuple:
    at = NOON - timedelta(days=days_ago)
    name = f"{user}-{item}-{days_ago}-{surface}"
    return (name, user, item, surface, "click", query, None, at, 0, datetime.combine(arrived, datetime.min.time()), min(at.date(), DAY))


def write_world(spark, config, events: list[tuple], unavailable: tuple[str, ...] = ()) -> None:
    for ds in sorted({row[-1] for row in events}):
        replace(spark, config, EVENTS, ds, spark.createDataFrame([row for row in events if row[-1] == ds], schema(EVENTS)), "r")
    items = [(name, name, text, [], name not in unavailable, DAY) for name, text in zip(NAMES, TEXTS, strict=True)]
    replace(spark, config, ITEMS, DAY, spark.createDataFrame(items, schema(ITEMS)), "r")


def write_model(spark, config, version: str = "m1", status: str = "passed", day: date = DAY, **options) -> None:
    tiny.artifact(tiny.Path(config.lake.root) / "artifacts" / version, NAMES[:25], TEXTS, **options)
    tiny.register(spark, config, version, day, status)


def broadcast(spark, names: list[str]):
    return spark.sparkContext.broadcast((names, np.log(np.arange(len(names), 0, -1) / 1000)))


def action(item: str | None) -> tuple | None:
    return item and (item, "recommendation", "click", None, NOON)


def by_request(rows) -> dict:
    found: dict = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        found.setdefault(row.user_id, []).append(row)
    return found


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fill_keeps_every_promise(data: st.DataObject) -> None:
    popular = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    exclude = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    k = data.draw(st.integers(1, 8))
    answered = data.draw(st.lists(st.sampled_from(sorted(set(popular) - set(exclude)) or ["x"]), unique=True, max_size=k if set(popular) - set(exclude) else 0))
    scores = np.array(sorted(data.draw(st.lists(st.floats(-9, 0), min_size=len(answered), max_size=len(answered))), reverse=True))
    shares = np.log(np.arange(len(popular), 0, -1) / 1000)
    items, filled, sources = fill(np.array(answered, dtype=object), scores, exclude, popular, shares, k)
    assert len(items) == len(set(items)) == min(k, len(set(popular) - set(exclude)))
    assert items[: len(answered)].tolist() == answered and not set(items) & set(exclude)
    assert (np.diff(filled) <= 0).all() and np.isfinite(filled).all()
    assert sources.tolist() == ["model"] * len(answered) + ["popular"] * (len(items) - len(answered))
    rest = [item for item in popular if item not in {*answered, *exclude}]
    assert items[len(answered) :].tolist() == rest[: k - len(answered)]


@pytest.mark.fault("R42")
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_bisect_finds_exactly_the_poisoned(poisoned: list[bool]) -> None:
    def answer(requests):
        if any(bad for bad, _ in requests):
            raise ZeroDivisionError
        return [(np.array([n]), np.array([0.0])) for _, n in requests]

    found = bisect(answer, [(bad, n) for n, bad in enumerate(poisoned)])
    assert [error for _, _, error in found] == ["ZeroDivisionError" if bad else None for bad in poisoned]
    assert [rows.tolist() for rows, _, _ in found] == [[] if bad else [n] for n, bad in enumerate(poisoned)]


@pytest.mark.fault("R39", "R42", "R46")
def test_the_udf_answers_each_request_by_itself(spark, tmp_path) -> None:
    """Batches of 2 and of 256, one partition and three: the same rows. The poisoned request falls back; an unavailable item never shows."""
    path = tiny.artifact(tmp_path / "m", NAMES[:25], TEXTS)
    rows = [(f"u{n}", None, [action(NAMES[(n * 7 + step) % 25]) for step in range(n % 6 + 1)], [NAMES[n % 25]]) for n in range(20)]
    rows += [("cold", None, [], None), ("stranger", None, [action("unknown")], ["unknown"]), ("poison", None, [action(NAMES[1]), None], [NAMES[29]])]
    requests = spark.createDataFrame(rows, REQUEST)
    catalogue = broadcast(spark, NAMES[:4:-1])  # NAMES[29] is the most popular; the first five are not available
    wide = requests.repartition(3).mapInPandas(ranker(path, "recommend", 8, 8, 256, catalogue), RANKED).collect()
    narrow = requests.coalesce(1).mapInPandas(ranker(path, "recommend", 8, 8, 2, catalogue), RANKED).collect()
    found, again = by_request(wide), by_request(narrow)
    for user, _, _, exclude in rows:
        items = [row.item_id for row in found[user]]
        assert [row["rank"] for row in found[user]] == list(range(1, 9))
        assert len(set(items)) == 8 and set(items) <= set(NAMES[5:]) - set(exclude or [])
        scores = [row.score for row in found[user]]
        assert scores == sorted(scores, reverse=True)
        assert [row.item_id for row in again[user]] == items
        assert [row.score for row in again[user]] == pytest.approx(scores, abs=1e-5)
    assert {user for user, rows in found.items() if rows[0].source == "popular"} == {"cold", "stranger", "poison"}
    assert {user for user, rows in found.items() if rows[0].error} == {"poison"}
    assert [row.item_id for row in found["cold"]] == NAMES[:21:-1] and [row.item_id for row in found["poison"]] == NAMES[28:20:-1]


@pytest.mark.fault("R38")
def test_short_answers_are_filled_up(spark, tmp_path) -> None:
    """The model knows two available items; the other rows are popular, below its scores."""
    path = tiny.artifact(tmp_path / "m", NAMES[:25], TEXTS)
    requests = spark.createDataFrame([("u", None, [action(NAMES[3])], None)], REQUEST)
    answers = requests.mapInPandas(ranker(path, "recommend", 5, 5, 8, broadcast(spark, ["i29", "i00", "i28", "i01"])), RANKED).collect()
    assert [(row.source, row["rank"]) for row in answers] == [("model", 1), ("model", 2), ("popular", 3), ("popular", 4)]
    assert {row.item_id for row in answers[:2]} == {"i00", "i01"} and [row.item_id for row in answers[2:]] == ["i29", "i28"]
    assert answers[2].score <= answers[1].score


def test_who_is_asked_for(spark) -> None:
    histories = spark.createDataFrame(
        [("new", [action("i01")]), ("old", [("i02", "search", "click", "q", NOON - timedelta(days=9))])], f"user_id string, history array<{ACTION}>"
    )
    users = spark.createDataFrame([("old",), ("cold",), ("cold",), (None,)], "user_id string")
    since = datetime(2026, 3, 9, tzinfo=UTC)

    def found(frame) -> dict[str, list[str]]:
        return {row.user_id: [act.item_id for act in row.history] for row in frame.collect()}

    assert found(recommend.user_requests(histories, None, None)) == {"new": ["i01"], "old": ["i02"]}
    assert found(recommend.user_requests(histories, None, since)) == {"new": ["i01"]}
    assert found(recommend.user_requests(histories, users, since)) == {"new": ["i01"], "old": ["i02"], "cold": []}


def test_consumed_and_shelf(spark) -> None:
    events = spark.createDataFrame([event("u", "i01", 5), event("u", "i02", 4), event("u", "i01", 1), event("v", "i09", 3)], schema(EVENTS))
    assert {row.user_id: row.exclude for row in recommend.consumed(events, 2).collect()} == {"u": ["i01", "i02"], "v": ["i09"]}
    assert {row.user_id: row.exclude for row in recommend.consumed(events, 1).collect()} == {"u": ["i01"], "v": ["i09"]}
    items = spark.createDataFrame([("c", True), ("b", True), ("a", True), ("gone", False)], "item_id string, is_available boolean")
    counts = spark.createDataFrame([("b", 3), ("gone", 9), ("c", 1)], "item_id string, count bigint")
    shares = [(row.item_id, pytest.approx(row.log_share)) for row in recommend.shelf(items, counts).collect()]
    assert shares == [("b", np.log(4 / 7)), ("c", np.log(2 / 7)), ("a", np.log(1 / 7))]


def test_counts_of_the_requests(spark) -> None:
    rows = [("u", None, 1, "a", 0.0, "model", None), ("u", None, 2, "b", 0.0, "popular", None), ("p", None, 1, "a", 0.0, "popular", "TypeError")]
    found = {check.name: check for check in recommend.counted(spark.createDataFrame(rows, RANKED), 3, 2)}
    assert {name: check.value for name, check in found.items()} == {
        "requests": 3,
        "unanswered": 1,
        "rows_short_of_k": 3,
        "fallback_rows": 2,
        "fallback_requests": 1,
        "poisoned_share": pytest.approx(1 / 3),
    }
    assert {name for name, check in found.items() if not check.passed} == {"unanswered", "poisoned_share"}


@pytest.mark.fault("R3", "R40", "R41")
def test_a_night_of_recommendations(spark, config, tmp_path) -> None:
    """Every user of the log and of the list, k available unseen items each; the day after, and what arrived after the day, is not looked at."""
    (tmp_path / "users.csv").write_text("who\nu1\nvisitor\n")
    listed = {"path": str(tmp_path / "users.csv"), "format": "csv", "columns": {"user_id": "who"}}
    config = type(config).model_validate(config.model_dump() | {"recommend": {"k": 4, "users": listed, "batch_size": 3}})
    events = [event(f"u{n}", NAMES[(n + step) % 25], step) for n in range(6) for step in range(3)]
    events += [event("u1", "i20", 0.1, "search", "thing"), event("latecomer", "i03", 1, arrived=DAY + timedelta(days=2))]
    write_world(spark, config, events, unavailable=("i00", "i01"))
    write_model(spark, config)
    result = recommend.run(config, DAY, "run1")
    rows = read(spark, config, STAGED_RECOMMENDATIONS, at=DAY).collect()
    found = by_request(rows)
    assert set(found) == {f"u{n}" for n in range(6)} | {"visitor"}
    assert all(len(items) == 4 for items in found.values())
    assert result["rows"] == {"staged_recommendations": 28} and {row.model_version for row in rows} == {"m1"}
    consumed = {user: {row[2] for row in events if row[1] == user} for user in found}
    assert not any(row.item_id in {"i00", "i01", *consumed[row.user_id]} for row in rows)
    assert {row.source for row in found["visitor"]} == {"popular"} and {row.source for row in found["u1"]} == {"model"}
    checks = {row.check: row.value for row in read(spark, config, CHECKS, at=DAY).collect()}
    assert (checks["requests"], checks["unanswered"], checks["fallback_requests"]) == (7, 0, 1)
    assert recommend.run(config, DAY, "run2")["written"] == {"staged_recommendations": 0}

    # Backfilled with the model of today: the rows say so, and know no more of the days after than before.
    write_model(spark, config, "m2", day=DAY + timedelta(days=30))
    assert recommend.run(config, DAY, "run3")["written"] == {"staged_recommendations": 0}
    newest = config.model_copy(update={"recommend": config.recommend.model_copy(update={"model": "newest"})})
    assert recommend.run(newest, DAY, "run4")["model_version"] == "m2"
    again = read(spark, config, STAGED_RECOMMENDATIONS, at=DAY).collect()
    assert {row.model_version for row in again} == {"m2"} and set(by_request(again)) == set(found)
    assert not any(row.item_id in {"i00", "i01", *consumed[row.user_id]} for row in again)


@pytest.mark.fault("R42")
def test_refusals(spark, config, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(spark, config, [event("u1", "i03", 1), event("u2", "i04", 1)])
    with pytest.raises(MissingInput, match="no passed model up to 2026-03-10"):
        recommend.run(config, DAY, "r")
    alone = config.model_copy(update={"train": config.train.model_copy(update={"tasks": ("search",)})})
    assert recommend.run(alone, DAY, "r") == {"rows": {"staged_recommendations": 0}}
    write_model(spark, alone)  # knows search alone
    with pytest.raises(MissingInput, match="trained on search, not on recommend"):
        recommend.run(config, DAY, "r")
    # A model that raises on every request: nothing is staged.
    write_model(spark, config, "m2", tasks=("search",))
    tiny.register(spark, alone, "m1", DAY, "failed")
    with pytest.raises(BadData, match=r"poisoned_share: found 1\.0, allowed 0\.001"):
        recommend.run(config, DAY, "r")
    with pytest.raises(MissingInput, match="staged_recommendations"):
        read(spark, config, STAGED_RECOMMENDATIONS, at=DAY)
