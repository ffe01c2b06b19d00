"""How far the world has moved, on rows that can be counted by hand."""

from datetime import UTC, date, datetime, timedelta

from jobs import drift

D = date(2026, 3, 20)


def at(day):
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def events(spark, rows):
    made = [(item, surface, at(day)) for item, surface, day, n in rows for _ in range(n)]
    return spark.createDataFrame(made, "item_id STRING, surface STRING, event_ts TIMESTAMP")


def test_kept_is_the_share_on_the_top_tenth_of_the_week_before(spark):
    """Twenty items, so a head of two: a and b for six days; then half of the searches are on c, and two days later c is head."""
    week = [(item, "search", D - timedelta(days=ago), n) for ago in range(4, 10) for item, n in (("a", 5), ("b", 4), *((f"i{i}", 1) for i in range(18)))]
    told = events(
        spark,
        [
            *week,
            ("a", "search", D - timedelta(days=3), 2),
            ("c", "search", D - timedelta(days=3), 2),
            ("c", "search", D - timedelta(days=2), 90),
            ("c", "search", D, 3),
            ("new", "search", D, 1),
            ("a", "recommendation", D - timedelta(days=40), 9),  # of no week here
            ("a", "recommendation", D, 9),  # the first in a week: nothing to hold it against
            ("a", "search", D + timedelta(days=1), 9),
        ],
    )
    found = {(row.surface, row.day): row.kept for row in drift.popularity(told, D, 4).collect()}
    assert found == {("search", D - timedelta(days=3)): 0.5, ("search", D - timedelta(days=2)): 0.0, ("search", D): 0.75}


def test_new_and_gone_are_shares_of_a_day_and_of_the_day_before(spark):
    days = [D - timedelta(days=2), D - timedelta(days=1), D]  # of the last day but one a and d are not for sale, and e is there again after it
    stock = [("a", True, 0), ("b", True, 0), ("c", True, 0), ("e", True, 0), ("b", True, 1), ("c", True, 1), ("a", False, 1), ("d", False, 1)]
    stock += [("b", True, 2), ("e", True, 2), ("f", True, 2), ("g", True, 2)]
    items = spark.createDataFrame([(item, there, days[n]) for item, there, n in stock], "item_id STRING, is_available BOOLEAN, ds DATE")
    assert [tuple(row) for row in drift.catalogue(items).collect()] == [(days[0], 4, None, None), (days[1], 2, 0.0, 0.5), (days[2], 4, 0.75, 0.5)]
