"""Ranking metrics of requests with one target each: what validation, evaluation and their tests mean by a number.     numpy only.

A ranking of a request is told by one integer: the rank of its target, 1 is best, 0 where the target is not in the ranking.
With one target, recall@k and hit rate@k are the same figure and the ideal DCG is 1 (Järvelin & Kekäläinen 2002; Krichene & Rendle 2020
for why ranks must come from the whole catalogue).     Knows no model, no task, no table.
"""

import numpy as np

METRICS = ("recall", "ndcg", "mrr", "hitrate")


def gains(target_rank: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Metric → what each request scores at depth k, float64 (requests,), from integer target ranks (requests,).

    A request scores 0 where its target is not among the first k. Raises ValueError for k < 1 or a negative rank.
    """
    rank = np.asarray(target_rank)
    if k < 1 or (rank < 0).any():
        raise ValueError(f"k = {k}, least rank {rank.min() if rank.size else 'none'}: expected k ≥ 1 and ranks ≥ 0 (0: not found)")
    found = (rank > 0) & (rank <= k)
    reached = np.where(found, rank, 1).astype(np.float64)
    hit = found.astype(np.float64)
    return {"recall": hit, "ndcg": hit / np.log2(reached + 1.0), "mrr": hit / reached, "hitrate": hit}


def mean_at(metric: str, target_rank: np.ndarray, k: int) -> float:
    """The mean over the requests; NaN for none."""
    gain = gains(target_rank, k)[metric]
    return float(gain.mean()) if gain.size else float("nan")


def recall_at(target_rank: np.ndarray, k: int) -> float:
    """Share of requests whose target is among the first k."""
    return mean_at("recall", target_rank, k)


def ndcg_at(target_rank: np.ndarray, k: int) -> float:
    """Mean of 1 / log2(rank + 1) within the first k."""
    return mean_at("ndcg", target_rank, k)


def mrr_at(target_rank: np.ndarray, k: int) -> float:
    """Mean of 1 / rank within the first k."""
    return mean_at("mrr", target_rank, k)


def hitrate_at(target_rank: np.ndarray, k: int) -> float:
    """Share of requests with a hit among the first k: recall, as each request has one target."""
    return mean_at("hitrate", target_rank, k)
