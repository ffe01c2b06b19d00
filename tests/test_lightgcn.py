"""LightGCN on a world of two groups whose members only ever meet each other."""

import numpy as np
import pytest
import torch

from model import lightgcn


@pytest.fixture
def two_groups(monkeypatch) -> np.ndarray:
    """Users 0 to 19 act on items 0 to 9, users 20 to 39 on items 10 to 19, six each; user 40 and item 20 stand alone."""
    monkeypatch.setattr(lightgcn, "FEWEST", 60)
    rng = np.random.default_rng(0)
    return np.array([(user, 10 * (user // 20) + item) for user in range(40) for item in rng.choice(10, 6, replace=False)])


def test_the_graph_by_hand() -> None:
    """Users a, b and items x, y; a–x twice, a–y, b–y: degrees a 2, b 1, x 1, y 2."""
    made = lightgcn.graph(np.array([[0, 0], [0, 0], [0, 1], [1, 1]]), 2, 2).to_dense()
    half, root = 0.5, 0.5**0.5
    np.testing.assert_allclose(made, [[0, 0, root, half], [0, 0, 0, root], [root, 0, 0, 0], [half, root, 0, 0]], atol=1e-6)
    one = torch.eye(4)[:, :1]
    np.testing.assert_allclose(lightgcn.propagated(one, made, 1)[:, 0], [0.5, 0, root / 2, 0.25], atol=1e-6)


def test_the_gradient_is_the_propagation_again() -> None:
    """What `fit` does instead of autograd, against autograd on the dense graph."""
    adjacency = lightgcn.graph(np.array([[0, 0], [0, 1], [1, 1], [2, 0]]), 3, 2)
    rows, weight = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    (lightgcn.propagated(rows, adjacency.to_dense(), 2) * weight).sum().backward()
    torch.testing.assert_close(rows.grad, lightgcn.propagated(weight, adjacency, 2))


def test_it_finds_the_groups(two_groups) -> None:
    users, items = lightgcn.fit(two_groups, 41, 21, seed=1)
    assert users.shape == (41, 64) and items.shape == (21, 64)
    near = items[:20] @ items[:20].T
    same = np.arange(20)[:, None] // 10 == np.arange(20) // 10
    assert near[same].min() > near[~same].max()
    unseen = np.ones((40, 20), dtype=bool)
    unseen[two_groups[:, 0], two_groups[:, 1]] = False
    own = np.arange(40)[:, None] // 20 == np.arange(20) // 10
    scores = users[:40] @ items[:20].T
    assert scores[unseen & own].min() > scores[~own].max()
    assert not users[40].any() and not items[20].any()


def test_a_seed_decides(two_groups) -> None:
    first, again, other = (lightgcn.fit(two_groups, 41, 21, seed=seed, dim=8)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_two_threads_add_up_alike(monkeypatch) -> None:
    """Large enough that torch shares the work out: of an indexed row's gradient threads add up the parts in any order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(lightgcn, "FEWEST", 20)
    monkeypatch.setattr(lightgcn, "EPOCHS", 1)
    rng = np.random.default_rng(4)
    seen = np.stack([rng.integers(0, 300, 6000), rng.integers(0, 40, 6000)], axis=1)
    first, again = (lightgcn.fit(seen, 300, 40, seed=1, dim=64)[1] for _ in range(2))
    torch.set_num_threads(threads)
    assert np.array_equal(first, again)


def test_no_interaction_is_said() -> None:
    with pytest.raises(ValueError, match="no interaction"):
        lightgcn.fit(np.zeros((0, 2), np.int64), 3, 3, seed=1)
