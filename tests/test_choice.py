"""The conditional logit: weights that are known by construction are found, and where nothing is to be learned the order stays the one that was there."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model import choice


def fit(known: list[np.ndarray], right: list[int]) -> np.ndarray:
    names = [f"feature {i}" for i in range(known[0].shape[1])]
    weights = choice.fit(names, known, right)
    assert list(weights) == names
    return np.array(list(weights.values()))


def chosen(rng: np.random.Generator, requests: int, weights: list[float], candidates: int = 8) -> tuple[list[np.ndarray], list[int]]:
    """Requests that choose by the softmax of what is known of their candidates."""
    known = [rng.normal(size=(candidates, len(weights))) for _ in range(requests)]
    return known, [int((of @ np.array(weights) + rng.gumbel(size=candidates)).argmax()) for of in known]


def test_what_counts_is_found_whatever_its_scale() -> None:
    known, right = chosen(np.random.default_rng(0), 4000, [0.5, 1.0, 0.0, -2.0])
    np.testing.assert_allclose(fit(known, right), [0.5, 1.0, 0.0, -2.0], atol=0.1)
    scale = np.array([100.0, 0.01, 5.0, 1.0])
    np.testing.assert_allclose(fit([of * scale for of in known], right) * scale, [0.5, 1.0, 0.0, -2.0], atol=0.2)


def test_few_choices_move_little_and_none_nothing() -> None:
    """Three choices by chance leave the first thing in charge; what no candidate differs in tells nothing; a request without its right one is not read."""
    known, right = chosen(np.random.default_rng(1), 3, [1.0, 0.0])
    weights = fit(known, right)
    assert abs(weights[1]) < 0.2 * weights[0]
    assert fit(known, [-1] * 3).tolist() == [1.0, 0.0] and choice.fit(["score", "odds"], [], []) == {"score": 1.0, "odds": 0.0}
    told, where = chosen(np.random.default_rng(2), 500, [1.0, 2.0])
    same = [np.column_stack([of, np.full(len(of), i)]) for i, of in enumerate(told)]
    both = fit([*same, np.full((3, 3), 1e3)], [*where, -1])
    assert both[2] == 0 and np.allclose(both[:2], fit(told, where), atol=1e-4)


@given(seed=st.integers(0, 99), shift=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_neither_their_order_nor_what_all_have_in_common_counts(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    known, right = chosen(rng, 60, [1.0, -0.5, 0.3], 5)
    turned = [rng.permutation(5) for _ in known]
    moved = [of[turn] + shift for of, turn in zip(known, turned, strict=True)]
    places = [int(np.flatnonzero(turn == place)[0]) for turn, place in zip(turned, right, strict=True)]
    order = rng.permutation(60)
    again = fit([moved[i] for i in order], [places[i] for i in order])
    np.testing.assert_allclose(again, fit(known, right), atol=1e-3)


def test_scores_too_large_for_an_exponential() -> None:
    known = [np.array([[-2000.0, 0.0], [-1000.0, 1.0], [0.0, 0.0]])] * 50
    assert np.isfinite(fit(known, [1] * 50)).all()


def test_utility_by_hand() -> None:
    features = np.array([[1.0, 2.0, 5.0], [0.5, -1.0, 5.0]])
    assert choice.utility({"score": 2.0, "text latest": 3.0}, ["score", "text latest", "odds"], features).tolist() == [8.0, -2.0]
