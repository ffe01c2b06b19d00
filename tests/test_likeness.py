"""Likeness to a history, by loops; and answers that are ordered again by it, as validation chose."""

import json
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ITEMS, checkerboard_rows, training_spec, write_lake

from model import rank, train
from model.likeness import likeness, names
from model.rank import Ranker

HISTORIES = st.lists(st.lists(st.integers(0, 6), max_size=4, unique=True), min_size=1, max_size=4)


@given(histories=HISTORIES, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_by_loops(histories: list[list[int]], seed: int) -> None:
    """Item 3 is known to no view; an empty history is like nothing."""
    rng = np.random.default_rng(seed)
    views = {name: rng.normal(size=(7, width)).astype(np.float16) for name, width in (("text", 3), ("behaviour", 5))}
    for rows in views.values():
        rows[3] = 0
    candidates = rng.integers(0, 7, (len(histories), 4))
    history = np.full((len(histories), 4), -1)
    for row, items in zip(history, histories, strict=True):
        row[: len(items)] = items
    told = likeness({name: torch.from_numpy(rows) for name, rows in views.items()}, torch.from_numpy(history), torch.from_numpy(candidates)).numpy()
    assert names(views) == [f"{view} {how}" for view in ("text", "behaviour") for how in ("mean", "nearest", "latest")]
    for row, items in enumerate(histories):
        for place, candidate in enumerate(candidates[row]):
            expected = []
            for rows in views.values():
                near = [cosine(rows[candidate], rows[item]) for item in items] or [0.0]
                expected += [np.mean(near), max(near), near[0]]
            np.testing.assert_allclose(told[row, place], expected, atol=2e-5)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))


def test_answers_are_in_the_order_that_validation_chose(tmp_path: Path) -> None:
    """The artifact's order is the plain answers' sorted by score and likeness as it weighs them; what a request excludes stays out, candidates that are given
    keep the model's own scores, and an artifact without weights answers plainly."""
    write_lake(tmp_path, checkerboard_rows())
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=3, history_in_search=1.0, likeness=True)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    assert set(found.order) == {"recommend", "search"} and list(found.order["search"]) == ["first", *names(found.views)]
    found.order["recommend"] |= {"first": 0.5, "text nearest": 3.0, "behaviour latest": -2.0}
    histories, nothing = [[act(start), act(start + 2)] for start in range(12)], [None] * 12
    again = found.rank("recommend", histories, nothing, 5, exclude=[[ITEMS[start]] for start in range(12)])
    order, found.order = found.order, {}
    plain = found.rank("recommend", histories, nothing, 12, exclude=[[ITEMS[start]] for start in range(12)])
    asks = found.asks("recommend", histories, nothing)
    for (rows, scores), (offered, first), told in zip(again, plain, found.alike(asks, plain), strict=True):
        weights = order["recommend"]
        totals = weights["first"] * first + told @ [weights[name] for name in names(found.views)]
        best = np.argsort(-totals, kind="stable")[:5]
        assert rows.tolist() == offered[best].tolist() and len(offered) == 11
        np.testing.assert_allclose(scores, totals[best], atol=1e-4)
    given_, own = [np.array([1, 4])] * 12, found.rank_asks("recommend", asks, 2, 12, candidates=[np.array([1, 4])] * 12)
    found.order = order
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found.rank_asks("recommend", asks, 2, 12, candidates=given_), own, strict=True))


def act(item: int) -> dict:
    return {"item_id": ITEMS[item % 12], "surface": "recommendation", "query": None}


def test_a_search_that_shows_no_history_is_not_ordered_by_it(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows())
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=1, history_in_search=0.0, likeness=True)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    assert {name: weight for name, weight in found.order["search"].items() if name != "first" and weight} == {}
    answers = [found.rank("search", [history], ["thing"], 12)[0] for history in ([act(3)], [])]
    assert np.array_equal(answers[0][0], answers[1][0]) and np.array_equal(answers[0][1], answers[1][1])


def test_the_artifact_keeps_the_views_and_a_model_without_has_none(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows())
    for likeness_on, kept in ((True, 2), (False, 0)):
        spec = training_spec(tmp_path, epochs=1, likeness=likeness_on) | {"output": str(tmp_path / str(likeness_on)), "work": str(tmp_path / f"w{likeness_on}")}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        assert train.main([str(tmp_path / "spec.json")]) == 0
        found = rank.load(str(tmp_path / str(likeness_on)))
        assert isinstance(found, Ranker) and len(found.views) == kept and bool(found.order) == likeness_on
