"""What somebody with write access to the logs can and cannot do: the README's table, each row of which names its test."""

import re
from pathlib import Path

import pytest
from test_recommend import NAMES, event

from jobs.recommend import liked, shelf
from jobs.tables import EVENTS
from jobs.writes import schema

HERE = Path(__file__).parent


def test_one_account_moves_an_item_by_one(spark) -> None:
    """Five hundred events of one account on one item, one each of two users on another: the other is the more popular one."""
    flood = [event("bot", "i01", n / 1000) for n in range(500)]
    counts = liked(spark.createDataFrame([*flood, event("u1", "i02"), event("u2", "i02")], schema(EVENTS)))
    assert {row.item_id: row["count"] for row in counts.collect()} == {"i01": 1, "i02": 2}
    items = spark.createDataFrame([(name, True) for name in NAMES[:4]], "item_id string, is_available boolean")
    assert [row.item_id for row in shelf(items, counts).collect()] == ["i02", "i01", "i00", "i03"]


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(test_\w+)`", (HERE.parent / "README.md").read_text(encoding="utf-8").split("## What an attacker")[1])))
)
def test_a_limit_that_the_readme_names_has_its_test(name: str) -> None:
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
