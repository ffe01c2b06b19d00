"""Similarity to a history, by loops; and answers that are ordered again by it, as validation chose."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from model import artifact, popularity, rank, train
from model.rank import Ranker
from model.similarity import names, similarity

HISTORIES = st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=4)


@given(histories=HISTORIES, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_by_loops(histories: list[list[int]], seed: int) -> None:
    """Item 3 is known to no view, -1 is no item; an empty history is like nothing; the three latest distinct items of another count."""
    rng = np.random.default_rng(seed)
    views = {name: rng.normal(size=(7, width)).astype(np.float16) for name, width in (("text", 3), ("behaviour", 5))}
    for rows in views.values():
        rows[3] = 0
    candidates = rng.integers(-1, 7, (len(histories), 4))
    told = similarity({name: torch.from_numpy(rows) for name, rows in views.items()}, histories, candidates.tolist(), 3)
    assert names(views) == [f"{view} {which}" for view in ("text", "behaviour") for which in ("mean", "nearest", "latest")]
    for row, items in enumerate(histories):
        latest = list(dict.fromkeys(items[::-1]))[:3]
        for place, candidate in enumerate(candidates[row]):
            expected = []
            for rows in views.values():
                near = [cosine(rows[candidate], rows[item]) if candidate >= 0 else 0.0 for item in latest] or [0.0]
                expected += [np.mean(near), max(near), near[0]]
            np.testing.assert_allclose(told[row][place], expected, atol=2e-5)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))


@pytest.mark.parametrize("scheme", ["atomic", "semantic"])
def test_answers_are_in_the_order_that_validation_chose(tmp_path: Path, scheme: str) -> None:
    """A hundred answers are ordered, however few are asked for. The artifact's order is the plain answers' sorted by score and similarity as it weighs them;
    what a request excludes stays out, candidates that are given keep the model's own scores, and an artifact without weights answers plainly."""
    codes = np.arange(12)[:, None] if scheme == "atomic" else np.stack(np.divmod(np.arange(12), 4), axis=1)
    write_lake(tmp_path, checkerboard_rows(), codes, scheme)
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, scheme, epochs=3, history_in_search=1.0, similarity=True)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    assert set(found.order) == {"recommend", "search"} and found.depth(5, 20) == 100
    assert list(found.order["search"]) == found.feature_names == ["score", *names(found.views), "every word", *popularity.NAMES]
    found.order["recommend"] |= {"score": 0.5, "text nearest": 3.0, "behaviour latest": -2.0}
    histories, nothing = [[act(start), act(start + 2)] for start in range(12)], [None] * 12
    again = found.rank("recommend", histories, nothing, 5, beams=1, exclude=[[ITEMS[start]] for start in range(12)])
    asked = ("recommend", histories, nothing, 12, 20, [[ITEMS[start]] for start in range(12)])
    unordered, order, found.order = found.rank(*asked, ordered=False), found.order, {}
    plain = found.rank(*asked)
    assert all(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]) for one, other in zip(unordered, plain, strict=True))
    asks = found.asks("recommend", histories, nothing)
    for (rows, scores), (offered, _), features in zip(again, plain, found.features("recommend", asks, plain), strict=True):
        totals = features @ list(order["recommend"].values())
        best = np.argsort(-totals, kind="stable")[:5]
        assert rows.tolist() == offered[best].tolist() and len(offered) == 11
        np.testing.assert_allclose(scores, totals[best], atol=1e-4)
    found.order["search"] = {"every word": -1.0}  # by itself the model answers such an item first
    assert [rows[-1] for rows, _ in found.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 12)] == [*range(12)]
    given_, own = [np.array([1, 4])] * 12, found.rank_asks("recommend", asks, 2, 12, candidates=[np.array([1, 4])] * 12)
    found.order = order
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found.rank_asks("recommend", asks, 2, 12, candidates=given_), own, strict=True))


def act(item: int) -> dict:
    return {"item_id": ITEMS[item % 12], "surface": "recommendation", "query": None}


def test_a_model_of_before_popularity_answers_as_it_did(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows())
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=1, history_in_search=1.0, similarity=True)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    weights, *rest = artifact.load(tmp_path / "artifact")
    before = Ranker({name: part for name, part in weights.items() if not name.startswith(popularity.PREFIX)}, *rest)
    now = Ranker(weights, *rest)
    assert [*before.feature_names, *popularity.NAMES] == now.feature_names
    now.order = {task: of_task | dict.fromkeys(popularity.NAMES, 0.0) for task, of_task in now.order.items()}
    for task, query in (("recommend", None), ("search", "thing two")):
        (rows, scores), (own, same) = (held.rank(task, [[act(3), act(5)]], [query], 12)[0] for held in (before, now))
        assert np.array_equal(rows, own) and np.allclose(scores, same) and len(rows) == 12


def test_a_search_that_shows_no_history_is_not_ordered_by_it(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows())
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=1, history_in_search=0.0, similarity=True)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    assert {name: weight for name, weight in found.order["search"].items() if name in names(found.views) and weight} == {}
    answers = [found.rank("search", [history], ["thing"], 12)[0] for history in ([act(3)], [])]
    assert np.array_equal(answers[0][0], answers[1][0]) and np.array_equal(answers[0][1], answers[1][1])


def test_the_artifact_keeps_the_views_and_a_model_without_has_none(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows())
    for on, kept in ((True, 2), (False, 0)):
        spec = training_spec(tmp_path, epochs=1, similarity=on) | {"output": str(tmp_path / str(on)), "work": str(tmp_path / f"w{on}")}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        assert train.main([str(tmp_path / "spec.json")]) == 0
        found = rank.load(str(tmp_path / str(on)))
        assert isinstance(found, Ranker) and len(found.views) == kept and bool(found.popularity) == bool(found.order) == on


def test_only_what_the_model_is_trained_on_counts_as_popular(tmp_path: Path) -> None:
    """Whatever is chosen in validation and test, popularity is the same."""
    held, spec = [], training_spec(tmp_path, epochs=1, similarity=True)
    for last in (None, ITEMS[0]):
        later = {"target_item_id": last} if last else {}
        write_lake(tmp_path, [row | (later if row["event_ts"].isoformat() >= spec["valid_from"] else {}) for row in checkerboard_rows()])
        spec |= {"output": str(tmp_path / f"artifact-{last}"), "work": str(tmp_path / f"work-{last}")}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        assert train.main([str(tmp_path / "spec.json")]) == 0
        held.append(rank.load(spec["output"]).popularity)
    assert held[0].chosen.sum() > 0 and len(held[0].items) == 12
    assert all(np.array_equal(one, other) for one, other in zip(*held, strict=True))
