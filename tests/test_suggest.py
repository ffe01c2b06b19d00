"""Query suggestions: nobody is told what few have searched, and the audit counts again."""

import pytest
import tiny
from test_recommend import DAY, event, write_model, write_world

from jobs import release, suggest
from jobs.errors import BadData, MissingInput
from jobs.spark import read
from jobs.tables import CHECKS, QUERY_SUGGESTIONS, STAGED_QUERY_SUGGESTIONS

TASKS = ("recommend", "search", "next_query")


def asks(user: str, query: str, days_ago: float = 0) -> tuple:
    return event(user, "i01", days_ago, "search", query)


@pytest.fixture
def night(config):
    wanted = {"suggest": {"k": 3, "min_users": 2, "lookback_days": 7}, "recommend": {"k": 2}, "search": {"k": 2}}
    trained = {"train": config.train.model_copy(update={"recipe": "gensar", "tasks": TASKS}).model_dump()}
    return type(config).model_validate(config.model_dump() | wanted | trained)


def test_only_what_several_have_searched_is_suggested_and_published(spark, night) -> None:
    """Five users: two queries of two each, one private, one too old; a user without any known item gets nothing."""
    shared = [asks(user, query, ago) for query, users, ago in (("thing number 3", "ab", 0.1), ("thing number 4", "bc", 0.2)) for user in users]
    events = [*shared, asks("d", "my own address"), asks("a", "years ago", 9), asks("b", "years ago", 9), event("e", "i29", 0)]
    write_world(spark, night, events)
    with pytest.raises(MissingInput, match="no passed model"):
        suggest.run(night, DAY, "early")
    write_model(spark, night, tasks=TASKS, recipe="gensar")
    tiny.register(spark, night, "m1", DAY, "passed")
    done = suggest.run(night, DAY, "r1")
    rows = read(spark, night, STAGED_QUERY_SUGGESTIONS, at=DAY).collect()
    assert {row.user_id for row in rows} == set("abcd") and done["rows"] == {"staged_query_suggestions": 8}  # i29 has no identifier
    assert {row.query for row in rows} == {"thing number 3", "thing number 4"}
    for user in "abcd":
        own = sorted((row.rank, row.score, row.query) for row in rows if row.user_id == user)
        assert [rank for rank, _, _ in own] == [1, 2] and own[0][1] >= own[1][1] and len({query for _, _, query in own}) == 2
    assert suggest.run(night, DAY, "r2")["written"] == {"staged_query_suggestions": 0}

    from jobs import recommend, search

    for verb in (recommend, search):
        verb.run(night, DAY, "r1")
    assert release.run(night, DAY, "r1")["rows"]["query_suggestions"] == 8
    served = release.latest(spark, night, QUERY_SUGGESTIONS).collect()
    assert {(row.user_id, row.rank, row.query) for row in served} == {(row.user_id, row.rank, row.query) for row in rows}
    stricter = night.model_copy(update={"suggest": night.suggest.model_copy(update={"min_users": 3})})
    with pytest.raises(BadData, match=r"query_suggestions\.unknown_items: found 8\.0"):
        release.run(stricter, DAY, "r3")
    nothing = suggest.run(stricter, DAY, "r4")
    assert nothing["rows"] == {"staged_query_suggestions": 0} and release.run(stricter, DAY, "r4")["rows"]["query_suggestions"] == 0
    checks = {row.check: row.value for row in read(spark, night, CHECKS, at=DAY).where("step = 'suggest'").collect()}
    assert checks["queries"] == 0 and checks["requests"] == 5


def test_none_are_made_unless_asked_for(config) -> None:
    assert suggest.run(config, DAY, "r") == {"rows": {"staged_query_suggestions": 0}}
