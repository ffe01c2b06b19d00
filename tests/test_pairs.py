"""Negatives and batches: never the answer, as their seed says, from where they should come; a world whose information is known by counting."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from worlds import CORPORA_SCHEMA

from model import negatives, pair_worlds, pairs
from model.data import Ragged, ragged
from model.pairs import Drawing, Settings
from udfs.bm25 import best, build, relevance

WORLD = pair_worlds.tastes_and_topics(1, users=60, tastes=4, topics=3, cell=3)
N = len(WORLD.taste)


def test_popular_negatives_follow_the_counts() -> None:
    counts = np.array([0.0, 9.0, 99.0, 999.0, 4.0])
    targets = np.zeros(3000, int)
    drawn = negatives.popular(targets, counts, 1, seed=3)[:, 0]
    expected = (counts + 1) * (np.arange(5) != 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 3000, expected / expected.sum(), atol=0.02)


def test_no_answer_no_repeat_nothing_barred() -> None:
    rng = np.random.default_rng(0)
    targets, counts = rng.integers(0, 12, 200), 10.0 ** rng.integers(0, 5, 12)
    barred = Ragged(rng.integers(0, 12, 600), np.arange(0, 601, 3))
    drawn = negatives.popular(targets, counts, 5, 1, barred)
    for row in range(200):
        assert len({*drawn[row]}) == 5 and not {*drawn[row]} & {targets[row], *barred[row]}
    assert np.array_equal(drawn, negatives.popular(targets, counts, 5, 1, barred))
    assert not np.array_equal(drawn, negatives.popular(targets, counts, 5, 2, barred))
    with pytest.raises(ValueError, match="expected a catalogue"):
        negatives.popular(targets[:1], counts, 12, 1)


def test_hard_negatives_are_what_a_word_search_finds() -> None:
    """Pools by BM25: the items of the query's words. Where it finds too few, popular ones fill up."""
    texts = ["red ball", "red car", "blue car", "green kite", "red kite", "old drum"]
    pools = negatives.pools(texts, ["red", "drum", "red", "of the", "unheard", ""], 4)
    assert [sorted(pools[n].tolist()) for n in range(6)] == [[0, 1, 4], [5], [0, 1, 4], [], [], []]
    assert len(negatives.pools(texts, ["", ""], 4).values) == 0
    assert set(pools.values) == {row for query in ("red", "drum") for scores in relevance(build(texts), [query]) for row in best(scores, 4)}
    pool = pools.take(np.array([0, 1]))
    drawn = negatives.hard(np.array([1, 5]), pool, np.zeros(6), 3, seed=0)
    assert {0, 4} < {*drawn[0]} and 1 not in drawn[0] and 5 not in drawn[1]
    assert len({*drawn[0]}) == len({*drawn[1]}) == 3


@pytest.mark.parametrize("new_only", [True, False])
def test_candidates(new_only: bool) -> None:
    """The target first; half of a search's negatives of its pool; a recommendation's never of its history, where that is asked."""
    drawing = Drawing(np.zeros(N), per=4, hard=0.5, new_only=new_only)
    made = drawing.candidates(WORLD.train, (7,))
    assert np.array_equal(made[:, 0], WORLD.train.target) and np.array_equal(made, drawing.candidates(WORLD.train, (7,)))
    assert all(len({*row}) == 5 for row in made.tolist())
    seen = np.array([bool({*row[1:]} & {*WORLD.train.history[i]}) for i, row in enumerate(made.tolist())])
    assert seen[WORLD.train.task == 1].any() and seen[WORLD.train.task == 0].any() != new_only
    searches = np.flatnonzero(WORLD.train.task == 1)
    of_pool = [len({*made[i, 1:3]} & {*WORLD.train.pool[i]}) for i in searches]
    assert of_pool == [2] * len(searches)


def test_a_first_stages_answers_are_wrong_only_beside_a_right_one_among_them() -> None:
    """A request that the first stage did not answer keeps the wrong items it has without one, and so does a batch of none but such."""
    asked = WORLD.train.take(np.arange(8))
    own, answered = Drawing(np.zeros(N), per=4, first=0.5), np.arange(8) % 2 == 0
    others = [[n for n in range(20) if n != target][:10] for target in asked.target.tolist()]
    offered = [[*items, target] if found else items for items, target, found in zip(others, asked.target.tolist(), answered, strict=True)]
    plain, made = own.candidates(asked, (3,)), own.candidates(asked, (3,), ragged(offered))
    assert np.array_equal(made[~answered], plain[~answered]) and np.array_equal(made[:, 0], asked.target)
    assert all({*row[1:3]} <= {*items} for row, items in zip(made[answered].tolist(), np.array(others)[answered].tolist(), strict=True))
    assert np.array_equal(own.candidates(asked, (3,), ragged(others)), plain)


@pytest.mark.parametrize("personal", [True, False])
def test_the_worlds_information_by_counting(personal: bool) -> None:
    """Against the plug-in estimate on 20,000 pairs, of who sees whether taste and topic agree."""
    world = pair_worlds.tastes_and_topics(1, users=60, tastes=4, topics=3, cell=3, personal=personal)
    drawing = Drawing(np.zeros(N), per=4, hard=0.0)
    for task, name in enumerate(("recommend", "search")):
        rows = np.flatnonzero(world.test.task == task)
        asked = world.test.take(np.resize(rows, 4000))
        made = drawing.candidates(asked, (1,))
        taste = world.taste[made] == world.taste[asked.target][:, None]
        topic = world.topic[made] == world.topic[asked.target][:, None]
        alike = taste if name == "recommend" else taste & topic if personal else topic
        answer = np.zeros(made.shape, bool)
        answer[:, 0] = True
        joint = np.array([[(alike == a)[answer == y].sum() for y in (False, True)] for a in (False, True)]) / made.size
        outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        counted = float((joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum())
        assert abs(counted - world.information(name, 4)) < 0.01


def test_a_recommendation_of_the_world_is_new() -> None:
    for i in np.flatnonzero(WORLD.train.task == 0):
        assert WORLD.train.target[i] not in WORLD.train.history[i]


def test_batches_are_whole_passes() -> None:
    settings = Settings(steps=12, batch=40, seed=5)
    made = list(pairs.batches(WORLD.train, settings))
    assert all(np.array_equal(a, b) for a, b in zip(made, pairs.batches(WORLD.train, settings), strict=True))
    first_passes = np.concatenate(made)[: 4 * len(WORLD.train)].reshape(4, -1)
    assert (np.sort(first_passes, axis=1) == np.arange(len(WORLD.train))).all()


def test_rows_of_corpora_as_integers() -> None:
    """By hand: a target that is not in the catalogue and another recipe's task are left out, an item of the history that nobody knows is, too."""
    at = datetime(2026, 1, 5, tzinfo=UTC)
    acts = [{"item_id": item, "surface": "search", "action": "click", "query": None, "event_ts": at} for item in ("b", "gone", "a", "a")]
    rows = [
        {"task": "recommend", "user_id": "u", "history": acts, "query": None, "target_item_id": "c"},
        {"task": "search", "user_id": "v", "history": [], "query": "red ball", "target_item_id": "a"},
        {"task": "search", "user_id": "w", "history": acts[:1], "query": "red", "target_item_id": "gone"},
        {"task": "pseudo", "user_id": "u", "history": acts, "query": "red", "target_item_id": "a"},
        {"task": "search", "user_id": "u", "history": acts[:2], "query": "red", "target_item_id": "b"},
    ]
    same = {"event_ts": at, "split": "train", "ds": at.date()}
    table = pa.Table.from_pylist([{"example_id": str(n), **same, **row} for n, row in enumerate(rows)], CORPORA_SCHEMA)
    found, which = pairs.encode(table, ["a", "b", "c"], WORLD.vocabulary, 4, lambda queries: ragged([[len(query)] for query in queries]))
    assert found.task.tolist() == [0, 1, 1] and found.target.tolist() == [2, 0, 1] and which.tolist() == [0, 1, 4]
    assert found.user[0] == found.user[2] != found.user[1]
    assert [found.history[n].tolist() for n in range(3)] == [[1, 0, 0], [], [1]]
    assert [len(found.query[n]) > 0 for n in range(3)] == [False, True, True] and found.pool.values.tolist() == [0, 8, 3]
    u, v = int(found.user[0]), int(found.user[1])
    assert pairs.interactions(found).tolist() == sorted([[u, 0], [u, 1], [u, 2], [v, 0]])
    assert [len(found.take(np.array([2, 1])).pool[n]) for n in range(2)] == [1, 1]
