"""How many people chose an item: of literal rows, by loops, and where one account alone did."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import Examples, ragged
from model.popularity import HALF_LIFE, LEAST, LITTLE, MIN_USERS, Popularity, numbers
from model.recipes import SERVED

Row = tuple[str, int, int, tuple[int, ...], float]  # task, user, item, query, days ago
NEWEST = np.datetime64("2026-11-01T12:00:00", "us")
A, B = (5, 7), (7, 5)  # the same words, another query


def examples(rows: list[Row]) -> Examples:
    tasks, users, items, queries, ages = zip(*rows, strict=True)
    at = NEWEST - (np.array(ages) * 86_400_000_000).astype("timedelta64[us]")
    nothing = ragged([[]] * len(rows))
    return Examples(SERVED, np.array([SERVED.index(t) for t in tasks], np.int8), nothing, ragged(queries), np.array(items), at, np.array(users))


def users(popularity: Popularity, task: str, query: tuple[int, ...], size: int) -> np.ndarray:
    """[items, 2]: how many users each feature says."""
    return np.expm1(popularity.features(task, [query], [np.arange(size)])[0]) * LITTLE


def test_what_counts() -> None:
    rows: list[Row] = [
        ("recommend", 1, 0, (), 0), ("recommend", 1, 0, (), HALF_LIFE), ("recommend", 2, 0, (), HALF_LIFE), ("recommend", 1, 2, (), 400),
        ("search", 1, 1, A, 0), ("search", 2, 1, A, HALF_LIFE), ("search", 2, 1, B, 0), ("search", 2, 1, B, 0), ("search", 3, 2, A, 0),
    ]  # fmt: skip
    found = Popularity.of(examples(rows), 3)
    # Item 0: a user's latest counts once. Item 2: chosen too long ago.
    np.testing.assert_allclose(users(found, "recommend", (), 3), [[1.5, 0], [0, 0], [0, 0]], atol=1e-6)
    # Item 1 for A: two users, one a half-life ago; for B one user alone, as item 2 for A: nobody's, but it counts as a choice of the item.
    np.testing.assert_allclose(users(found, "search", A, 3), [[0, 0], [2, 1.5], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(users(found, "search", B, 3), [[0, 0], [2, 0], [1, 0]], atol=1e-6)
    # A query that nobody made, and none at all.
    assert [users(found, "search", query, 3)[:, 1].any() for query in ((5,), (5, 7, 7), ())] == [False] * 3


QUERIES = st.sampled_from([(), (3,), A, B, (5, 7, 3), (0,), (0, 0)])
ROWS = st.lists(st.tuples(st.sampled_from(SERVED), st.integers(0, 3), st.integers(0, 4), QUERIES, st.floats(0, 300)), min_size=1, max_size=40)


@given(rows=ROWS, seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_by_loops_and_in_any_order(rows: list[Row], seed: int) -> None:
    rows = [*rows, ("recommend", 9, 0, (), 0.0)]
    found = Popularity.of(examples([rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]), 5)
    of_item, of_query = defaultdict[tuple, dict](dict), defaultdict[tuple, dict](dict)
    for task, user, item, query, age in rows:
        weight = 0.5 ** (age / HALF_LIFE)
        if weight >= LEAST:
            for held, key in ((of_item, (task, item)), *(((of_query, (query, item)),) if query else ())):
                held[key][user] = max(weight, held[key].get(user, 0.0))
    for task in SERVED:
        for query in ((3,), A, B, (5, 7, 3), (0,), (0, 0)):
            told = users(found, task, query, 5)
            for item in range(5):
                asked = of_query[query, item]
                expected = sum(of_item[task, item].values()), sum(asked.values()) if len(asked) >= MIN_USERS else 0.0
                np.testing.assert_allclose(told[item], expected, atol=1e-4)


@given(queries=st.lists(st.lists(st.integers(0, 1 << 17), max_size=6), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_query_has_its_own_number_whatever_stands_beside_it(queries: list[list[int]]) -> None:
    found = numbers(ragged(queries))
    assert len(set(found.tolist())) == len(set(map(tuple, queries)))
    assert found.tolist() == [int(numbers(ragged([query]))[0]) for query in queries]


def test_a_query_keeps_its_number() -> None:
    """Artifacts hold them: another would make every query of an older model one that nobody made."""
    assert numbers(ragged([[5, 7], [], [0]])).tolist() == [-367757351280851134, 0, -6696874842932477345]


def test_it_is_kept_and_loaded() -> None:
    found = Popularity.of(examples([("search", user, 1, A, 0) for user in (1, 2)]), 3)
    again = Popularity.loaded(found.kept())
    assert again is not None and all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    assert Popularity.loaded({}) is None
