"""The RQ-VAE against the official module's numbers, and against what a code says."""

import numpy as np
import pytest
import torch

from model import identifiers, rqvae


def book(number: int, dim: int) -> torch.Tensor:
    k, j = torch.meshgrid(torch.arange(5), torch.arange(dim), indexing="ij")
    return torch.cos((1 + 11 * number + 5 * k + 2 * j).float()) / (1 + 0.5 * number)


@pytest.mark.parametrize(
    ("epsilon", "loss", "of_first", "of_second"),
    [
        (0.0, 0.546854, ["0120", "0111", "0111", "0114", "3443", "3443"], ["0110", "0104", "0103", "0102", "3443", "3423"]),
        (0.003, 0.554806, ["0120", "0111", "0110", "0114", "3442", "3443"], ["0110", "0104", "0103", "0102", "3441", "3421"]),
    ],
)
def test_the_official_modules_codes_and_loss(epsilon: float, loss: float, of_first: list[str], of_second: list[str]) -> None:
    """GenSAR's residual quantizer on inputs of ours (reference gensar 6.3): two shared levels, then two of each half."""
    i, j = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    x = torch.sin((1 + 7 * i + 3 * j).float())
    own = [[book(2, 4), book(3, 4)], [book(4, 4), book(5, 4)]]
    codes, totals, losses = rqvae.descend_sides([x[:, :4], x[:, 4:]], [book(0, 8), book(1, 8)], own, epsilon)
    names = [["".join(map(str, row)) for row in side.tolist()] for side in codes]
    assert names == [of_first, of_second]
    assert abs(float(losses.mean()) - loss) < 1e-6
    np.testing.assert_allclose(totals[0][0], [0.010794, -0.833888, 0.683246, 0.265226], atol=1e-6)
    np.testing.assert_allclose(totals[1][0], [0.315104, -0.210612, -0.139813, 0.326978], atol=1e-6)


def test_the_published_sizes_have_the_official_number_of_parameters() -> None:
    first = [torch.randn(600, dim) for dim in (256, 32)]
    net = rqvae.network(first, 2, 2, 256, 0, rqvae.Plan(rqvae.PUBLISHED))
    assert sum(p.numel() for p in net.parameters) == 1_060_960  # reference gensar 6.3, oracle 3


def test_every_level_moves_the_encoder_where_asked() -> None:
    books = [torch.zeros(1, 2), torch.full((1, 2), 0.5)]
    for every_level in (False, True):
        hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
        rqvae.descend(hidden, books, every_level=every_level)[3][1].backward()
        assert bool(hidden.grad.any()) == every_level


def test_only_the_first_level_moves_the_encoder() -> None:
    hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
    books = [torch.zeros(1, 2, requires_grad=True), torch.full((1, 2), 0.5, requires_grad=True)]
    losses = rqvae.descend(hidden, books)[3]
    losses[1].backward(retain_graph=True)
    assert not hidden.grad.any() and books[1].grad.any()
    losses[0].backward()
    np.testing.assert_allclose(hidden.grad, [[0.25, 0.5]])  # α · 2 (r − e) / 2
    np.testing.assert_allclose(books[0].grad, [[-1.0, -2.0]])


def test_it_says_more_with_more_levels(monkeypatch) -> None:
    """Six clusters of vectors on a 3-dimensional sheet in 12 dimensions: closer than random codes, closer with two levels than with one."""
    monkeypatch.setattr(rqvae, "STEPS", 400)
    rng = np.random.default_rng(0)
    sheet = rng.normal(size=(6, 3)).repeat(50, axis=0) + 0.3 * rng.normal(size=(300, 3))
    vectors = np.tanh(sheet @ rng.normal(size=(3, 12))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    error = {}
    for levels in (1, 2):
        quantizer = identifiers.fit("rq_vae", vectors, levels, codes=6, seed=1)
        codes = identifiers.encode(quantizer, vectors)
        error[levels] = float(((identifiers.decode(quantizer, codes) - vectors) ** 2).sum(axis=1).mean())
        error["random", levels] = float(((identifiers.decode(quantizer, rng.permutation(codes)) - vectors) ** 2).sum(axis=1).mean())
    assert error[2] < 0.8 * error[1] < 0.5 * error["random", 1] and error[2] < 0.5 * error["random", 2]
    again = identifiers.fit("rq_vae", vectors, 2, codes=6, seed=1)
    assert np.array_equal(identifiers.encode(again, vectors), codes)
