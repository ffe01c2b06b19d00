"""Neighbours: counted as by hand and as by loops, one vote per user and pair, and never from the user who is asked."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import Examples, Ragged, ragged
from model.neighbours import DECAY, FOLDS, WINDOW, neighbours
from model.pointers import Pointers, pointing
from model.recipes import SERVED

Row = tuple[int, list[int], int]  # user, history, target
ITEMS = 6
ROWS = st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, ITEMS - 1), max_size=4), st.integers(0, ITEMS - 1)), min_size=1, max_size=20)


def examples(rows: list[Row]) -> Examples:
    user, history, target = zip(*rows, strict=True)
    n, words = len(rows), Ragged(np.empty(0, np.int32), np.zeros(len(rows) + 1, int))
    return Examples(SERVED, np.zeros(n, np.int8), ragged(history), words, np.array(target, np.int64), np.zeros(n, "datetime64[us]"), np.array(user, np.int64))


def lists(rows: list[Row], most: int = ITEMS) -> list[list[dict[int, float]]]:
    """Everybody's, then each fold's: of each item its neighbours and their shares."""
    found = neighbours(examples(rows), ITEMS, most)
    whole = [dict(zip(found.items[a:b].tolist(), found.shares[a:b].tolist(), strict=True)) for a, b in zip(found.first[:-1], found.first[1:], strict=True)]
    return [whole[number * ITEMS : (number + 1) * ITEMS] for number in range(1 + FOLDS)]


def test_by_hand() -> None:
    """Users 0 and 4 had 0, then 1; user 1 had 0, 2, 1. 1 has three users, 0 three, 2 one."""
    everybody = lists([(0, [0], 1), (4, [0], 1), (1, [0, 2], 1), (1, [0], 2)])[0]
    assert everybody[0] == pytest.approx({1: (2 + DECAY) / 3, 2: 1 / np.sqrt(3)})
    assert everybody[1] == pytest.approx({0: (2 + DECAY) / 3, 2: 1 / np.sqrt(3)})
    assert everybody[2] == pytest.approx({0: 1 / np.sqrt(3), 1: 1 / np.sqrt(3)})
    assert everybody[3:] == [{}, {}, {}]


def test_what_is_long_ago_is_not_near_and_the_nearest_are_kept() -> None:
    rows = [(0, [0, *[5] * (WINDOW - 1)], 1), (1, [0, *[5] * WINDOW], 2)]
    assert lists(rows)[0][0] == pytest.approx({1: DECAY ** (WINDOW - 1)})
    assert list(lists(rows, most=1)[0][5]) == [1] and sorted(lists(rows)[0][5]) == [1, 2]


@given(rows=ROWS, most=st.integers(1, ITEMS))
@settings(max_examples=100, deadline=None)
def test_as_by_loops(rows: list[Row], most: int) -> None:
    for number, found in enumerate(lists(rows, most)):
        closest: dict[tuple[int, int, int], float] = defaultdict(float)
        for user, history, target in rows:
            for age, item in enumerate(reversed(history)):
                if item != target and (number == 0 or user % FOLDS != number - 1):
                    pair = user, min(item, target), max(item, target)
                    closest[pair] = max(closest[pair], DECAY**age)
        users = [len({user for user, *pair in closest if item in pair}) for item in range(ITEMS)]
        expected: list[dict[int, float]] = [defaultdict(float) for _ in range(ITEMS)]
        for (_, low, high), closeness in closest.items():
            for item, other in ((low, high), (high, low)):
                expected[item][other] += closeness / np.sqrt(users[low] * users[high])
        for each, other in zip(found, expected, strict=True):
            assert len(each) == min(most, len(other)) and each == pytest.approx({item: other[item] for item in each}, rel=1e-5)
            assert sorted(each.values()) == pytest.approx(sorted(other.values())[len(other) - len(each) :], rel=1e-5)


@given(rows=ROWS, others=ROWS, fold=st.integers(0, FOLDS - 1))
@settings(max_examples=100, deadline=None)
def test_no_prompt_is_told_what_its_own_user_did(rows: list[Row], others: list[Row], fold: int) -> None:
    """Whatever the users of a fold do, the lists that their prompts read stay as they are."""
    stay = [row for row in rows if row[0] % FOLDS != fold]
    changed = stay + [row for row in others if row[0] % FOLDS == fold]
    if stay and changed:
        assert lists(stay)[1 + fold] == lists(changed)[1 + fold]


def test_one_user_counts_once() -> None:
    """A thousand times the same two items: as once."""
    assert lists([(0, [0], 1), (1, [0], 2)]) == lists([(0, [0], 1), (0, [1], 0), *[(0, [0], 1)] * 998, (1, [0], 2)])


@pytest.mark.parametrize(("own", "low", "high"), [(False, -0.05, 0.05), (True, 0.5, 9.0)])
def test_what_is_chance_is_not_learned(own: bool, low: float, high: float) -> None:
    """A log of no order at all: told by other users, training finds nothing in neighbours; told by each user's own doings, it would trust them blindly."""
    rng = np.random.default_rng(0)
    rows = [(user, rng.integers(0, 60, 4).tolist(), int(rng.integers(0, 60))) for user in range(300)]
    log = examples(rows)
    pointers = Pointers.of([[]] * 60, 3, neighbours(log, 60, 60))
    said = pointing([log.ask(row) for row in range(300)], None, None if own else log.user)
    optimizer = torch.optim.Adam([pointers.near], lr=0.05)
    for _ in range(150):
        told = pointers(said)
        logits = torch.zeros(300 * 60).index_add(0, told.rows * 60 + told.items, told.told).view(300, 60)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(log.target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert low < pointers.near[SERVED.index("recommend")].item() < high
