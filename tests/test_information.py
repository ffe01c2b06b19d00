"""Estimates on worlds whose information is known, and gradients whose angle is."""

import numpy as np
import pytest
import torch
from torch import nn

from model.information import barber_agakov, donsker_varadhan, entropy, gradient_cosines


def test_the_bound_by_hand() -> None:
    """Five candidates, one right: who knows everything loses nothing and has H(0.2) = 0.5004 nats; who answers the prior has none."""
    assert abs(entropy(0.2) - 0.5004) < 1e-4 and entropy(1.0) == entropy(0.0) == 0.0
    assert barber_agakov(np.zeros((10, 5))).value == entropy(0.2)
    prior = np.tile(-np.log([0.2, 0.8, 0.8, 0.8, 0.8]), (10, 1))
    assert abs(barber_agakov(prior).value) < 1e-12 and barber_agakov(prior).error < 1e-12
    mixed = np.concatenate([np.zeros((10, 5)), prior])
    assert abs(barber_agakov(mixed).value - entropy(0.2) / 2) < 1e-12 and barber_agakov(mixed).error > 0.05


@pytest.mark.parametrize(("flipped", "tolerance"), [(0.0, 0.06), (0.1, 0.06), (0.5, 0.02)])
def test_the_second_estimate_knows_what_a_noisy_channel_tells(flipped: float, tolerance: float) -> None:
    """The label is a coordinate's sign, flipped with some probability: ln 2 - H(flipped) nats. A bound: it may not exceed that but by its error."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2000, 2, 4))
    labels = (states[..., 1] > 0) ^ (rng.random((2000, 2)) < flipped)
    known = np.log(2) - entropy(flipped)
    found = donsker_varadhan(states, labels, seed=1)
    assert known - tolerance < found.value < known + 3 * max(found.error, 0.005)
    assert found == donsker_varadhan(states, labels, seed=1)


def test_two_bounds_of_one_channel_agree() -> None:
    """The state is the log-odds of a right answer itself: the model's own bound is tight, and the critic's must find as much."""
    rng = np.random.default_rng(2)
    odds = rng.normal(scale=3, size=(3000, 2, 1)) * np.array([1.0, -1.0])[None, :, None]
    labels = rng.random((3000, 2)) < 1 / (1 + np.exp(-odds[..., 0]))
    losses = np.log1p(np.exp(np.where(labels, -odds[..., 0], odds[..., 0])))
    own = entropy(float(labels.mean())) - float(losses.mean())
    assert abs(donsker_varadhan(odds, labels, seed=0).value - own) < 0.02


def test_angles_by_hand() -> None:
    w, v = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    groups = {"w": [w], "v": [v], "all": [w, v]}
    found = gradient_cosines(w[0] + v[0], w[1] + v[0], groups)
    np.testing.assert_allclose([found["w"], found["v"], found["all"]], [0.0, 1.0, 0.5], atol=1e-6)
    assert gradient_cosines(w.sum(), -2 * w.sum(), {"w": [w]}) == pytest.approx({"w": -1.0})
    assert np.isnan(gradient_cosines(w.sum(), v.sum(), {"w": [w]})["w"])


def test_tasks_that_have_nothing_in_common_have_orthogonal_gradients() -> None:
    """Two regressions through one hidden layer: on the same target their gradients agree, on independent ones of 64 outputs each they are at right angles."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(512, 64)
    targets = torch.randn(2, 512, 64)
    groups = {"layer": [layer.weight]}

    def loss(target: torch.Tensor) -> torch.Tensor:
        return -(layer(x) * target).mean()

    assert abs(gradient_cosines(loss(targets[0]), loss(targets[1]), groups)["layer"]) < 0.06
    assert gradient_cosines(loss(targets[0]), loss(targets[0]), groups)["layer"] > 0.999
