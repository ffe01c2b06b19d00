"""Sinkhorn balancing against the official module's numbers, and codes that part items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.collisions import parted, repaired, sinkhorn, squared_distances


def test_squared_distances_are_what_they_are_called() -> None:
    x, book = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(squared_distances(x, book), [[0, 9], [25, 16]])


@pytest.mark.parametrize(
    ("epsilon", "codes", "first"), [(1.0, [1, 1, 1, 0, 0, 0], (0.157529, 0.495420, 0.347051)), (0.1, [1, 1, 2, 2, 0, 0], (0.000012, 0.770128, 0.229859))]
)
def test_the_official_modules_balancing(epsilon: float, codes: list[int], first: tuple[float, ...]) -> None:
    """Reference gensar 6.3, oracle 2."""
    i, j = np.meshgrid(np.arange(6), np.arange(3), indexing="ij")
    distances = np.sin(1 + 3 * i + 2 * j) ** 2
    assert distances.argmin(axis=1).tolist() == [1, 1, 1, 1, 0, 0]
    given_out = sinkhorn(distances, epsilon)
    assert given_out.argmax(axis=1).tolist() == codes
    np.testing.assert_allclose(given_out[0], first, atol=2e-6)
    np.testing.assert_allclose(given_out.sum(axis=0), 2)


def test_repair_moves_only_what_collides_and_spreads_it() -> None:
    """Four rows near code 0 and one alone at code 3: the four are spread over the codes, the one stays."""
    book = np.arange(5, dtype=float)[:, None]
    rows = np.array([[0.0], [0.1], [0.2], [0.3], [3.0]])
    distances = squared_distances(rows, book)
    codes = distances.argmin(axis=1)
    assert codes.tolist() == [0, 0, 0, 0, 3]
    after = repaired(distances, codes, 0.1)
    assert after[4] == 3 and len(set(after.tolist())) > 2
    assert np.array_equal(repaired(distances, codes, 0.0), codes)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.sets(st.integers(0, 7), max_size=6), st.integers(0, 2**31))
def test_parted_rows_differ_and_first_claims_stand(n: int, codes: int, taken: set[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    distances, last = rng.random((n, codes)), rng.integers(0, codes, n)
    after = parted(distances, last, taken)
    assert len(set(after.tolist())) == n and not taken & set(after.tolist())
    for row, code in enumerate(last.tolist()):
        if code not in taken and code not in last[:row]:
            assert after[row] == code  # nobody had a claim before it
    beyond = [code for code in after.tolist() if code >= codes]
    assert not beyond or set(range(codes)) <= taken | set(after.tolist())  # past the codebook only where it is used up
