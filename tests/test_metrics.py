"""Metrics against literal values and against a DCG written out the long way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.metrics import gains, hitrate_at, mrr_at, ndcg_at, recall_at

RANKS = np.array([1, 2, 0, 11, 10])  # 0: not found


def test_literal_ranks() -> None:
    assert recall_at(RANKS, 10) == pytest.approx(3 / 5)
    assert hitrate_at(RANKS, 10) == recall_at(RANKS, 10)
    assert mrr_at(RANKS, 10) == pytest.approx((1 + 1 / 2 + 1 / 10) / 5)
    assert ndcg_at(RANKS, 10) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5)
    assert recall_at(RANKS, 1) == ndcg_at(RANKS, 1) == mrr_at(RANKS, 1) == pytest.approx(1 / 5)
    assert recall_at(RANKS, 11) == pytest.approx(4 / 5)


@given(st.permutations(range(8)), st.integers(0, 9), st.integers(1, 10))
def test_equals_the_general_definition(ranking: list[int], target: int, k: int) -> None:
    """Binary relevance, DCG over IDCG, first relevant position, relevant found over relevant."""
    relevance = [float(item == target) for item in ranking[:k]]
    dcg = sum(gain / math.log2(place + 2) for place, gain in enumerate(relevance))
    first = next((place + 1 for place, gain in enumerate(relevance) if gain), None)
    rank = np.array([ranking.index(target) + 1 if target in ranking else 0])
    got = {metric: float(gain[0]) for metric, gain in gains(rank, k).items()}
    assert got == pytest.approx({"recall": sum(relevance), "ndcg": dcg, "mrr": 1 / first if first else 0.0, "hitrate": float(any(relevance))})


def test_no_request_has_no_mean() -> None:
    assert math.isnan(ndcg_at(np.array([], dtype=np.int64), 10))


@pytest.mark.parametrize(("ranks", "k"), [([1], 0), ([-1], 5)])
def test_refuses_what_is_no_rank(ranks: list[int], k: int) -> None:
    with pytest.raises(ValueError, match="expected k ≥ 1"):
        gains(np.array(ranks), k)
