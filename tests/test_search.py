"""Search: which queries are answered, for whom, and that each gets an answer."""

from datetime import datetime, timedelta

import pytest
from test_recommend import DAY, NAMES, NOON, by_request, event, write_model, write_world

from jobs import search
from jobs.spark import read
from jobs.tables import ACTION, EVENTS, STAGED_SEARCH_RESULTS
from jobs.writes import schema

MIDNIGHT = datetime(2026, 3, 10)


def asks(user: str, query: str, days_ago: float = 0) -> tuple:
    return event(user, "i01", days_ago, "search", query)


def test_the_window_is_of_event_times(spark) -> None:
    """A base day's partition holds older events, so ds does not tell; the bounds are midnights."""
    base_day = [(*row[:-1], DAY) for row in (asks("u", "old", 9), asks("u", "new", 1.5))]
    rows = [*base_day, asks("u", "first", (NOON - MIDNIGHT) / timedelta(days=1) + 1), event("u", "i02", 0)]
    found = search.asked(spark.createDataFrame(rows, schema(EVENTS)), MIDNIGHT - timedelta(days=1), MIDNIGHT + timedelta(days=1))
    assert {row.query for row in found.select("query").collect()} == {"new", "first"}


@pytest.mark.fault("R48")
def test_which_queries(spark) -> None:
    rows = [asks("u1", "shared"), asks("u2", "shared"), asks("u1", "private"), asks("u1", "private", 0.1), asks("u3", "listed")]
    events = spark.createDataFrame(rows, schema(EVENTS))
    listed = spark.createDataFrame([("  LISTED ",), ("shared",), ("never  asked",), (None,), ("",)], "query string")

    def found(queries, min_users: int) -> list[str]:
        rows = search.query_requests(events, queries, min_users).collect()
        assert all(row.user_id is None and row.history == [] for row in rows)
        return sorted(row.query for row in rows)

    assert found(None, 2) == ["shared"]  # one user asking twice is one user
    assert found(None, 1) == ["listed", "private", "shared"]
    assert found(listed, 2) == ["", "listed", "never asked", "shared"]


def test_personal_requests_show_the_history(spark) -> None:
    events = spark.createDataFrame([asks("u1", "a"), asks("u1", "a", 0.1), asks("u1", "b"), asks("u2", "a")], schema(EVENTS))
    histories = spark.createDataFrame(
        [(u, [("i05", "recommendation", "click", None, NOON)]) for u in ("u1", "u2", "u3")], f"user_id string, history array<{ACTION}>"
    )
    found = search.personal_requests(events, histories).collect()
    assert sorted((row.user_id, row.query, row.history[0].item_id) for row in found) == [("u1", "a", "i05"), ("u1", "b", "i05"), ("u2", "a", "i05")]


@pytest.mark.fault("R41")
def test_a_night_of_search(spark, config, tmp_path) -> None:
    """Common and listed queries for everyone, each user's own for themselves; k available items each, though nobody knows the words."""
    (tmp_path / "queries.jsonl").write_text('{"query": "Thing NUMBER"}\n{"query": ""}\n')
    wanted = {"k": 5, "personalised": True, "queries": {"path": str(tmp_path / "queries.jsonl"), "format": "jsonl"}}
    config = type(config).model_validate(config.model_dump() | {"search": wanted})
    events = [asks("u1", "thing number 3"), asks("u2", "thing number 3"), asks("u1", "my own query"), asks("u2", "too old", 8)]
    write_world(spark, config, events, unavailable=("i02",))
    write_model(spark, config)
    result = search.run(config, DAY, "run1")
    rows = read(spark, config, STAGED_SEARCH_RESULTS, at=DAY).collect()
    requests = {(row.query, row.user_id) for row in rows}
    assert requests == {
        ("thing number 3", None),
        ("thing number", None),
        ("", None),
        ("thing number 3", "u1"),
        ("thing number 3", "u2"),
        ("my own query", "u1"),
    }
    assert len(rows) == 5 * len(requests) == result["rows"]["staged_search_results"]
    assert {row.item_id for row in rows} <= set(NAMES) - {"i02"}
    assert {row.source for row in rows if row.query == ""} == {"popular"} and {row.source for row in rows if row.query == "thing number 3"} == {"model"}
    everyone = by_request([row for row in rows if row.query == "thing number 3"])
    assert [row.item_id for row in everyone[None]] == [row.item_id for row in everyone["u1"]]  # this model shows no history in search
    # A night on which nobody asks the same: an empty day, not a failure.
    quiet = type(config).model_validate(config.model_dump() | {"search": {"min_users": 9}})
    assert search.run(quiet, DAY, "run2")["rows"] == {"staged_search_results": 0}
    assert read(spark, config, STAGED_SEARCH_RESULTS).isEmpty()
