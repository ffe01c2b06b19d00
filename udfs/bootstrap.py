"""Sums of metrics over test examples and over their bootstrap resamples, on Spark workers.     Knows no table, no verb, no day.

A resample gives each example a Poisson(1) weight instead of drawing with replacement (Chamandy et al. 2012), so that it needs no pass over
all examples and no order among them. The weight is a function of (example, replicate) alone: however the examples lie in partitions the
resamples are the same, and two methods are compared on the same resamples, which makes the intervals of their difference paired.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

SUMS = "task string, slice string, n bigint, weights array<double>, sums array<double>"
METRICS = ("recall", "ndcg", "mrr")  # hit rate is recall, as each example has one target

# P(Poisson(1) ≤ n) for n = 0 … 12; beyond lies less than 1e-10
POISSON = np.cumsum(np.exp(-1.0) / np.cumprod(np.concatenate([[1.0], np.arange(1.0, 13.0)])))


def poisson_weights(keys: np.ndarray, replicates: int) -> np.ndarray:
    """float64 [examples, 1 + replicates]: ones (the examples as they are), then Poisson(1) weights, from int64 example keys."""
    steps = np.arange(1, replicates + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = keys.astype(np.int64).view(np.uint64)[:, None] + steps[None, :]  # splitmix64 (Steele et al. 2014), wrapping as meant
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.concatenate([np.ones((len(keys), 1)), np.searchsorted(POISSON, uniform, side="right").astype(np.float64)], axis=1)


def resampled_sums(ks: Sequence[int], methods: int, replicates: int) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: (key bigint, task, slices array<string>, ranks array<int> [methods], 0: not found) → rows of SUMS.

    One row per task and slice of the partition. `weights` is [1 + replicates]; `sums`, flattened from [1 + replicates, methods,
    METRICS, ks], holds weight × gain summed over the examples. Both add up over partitions.
    """
    width = methods * len(METRICS) * len(ks)

    def sums(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.metrics import gains

        totals: dict[tuple[str, str], list] = {}
        for frame in frames:
            weights = poisson_weights(frame["key"].to_numpy(), replicates)
            ranks = np.stack(frame["ranks"].tolist()).reshape(len(frame), methods)
            by_k = [gains(ranks, k) for k in ks]
            gain = np.stack([np.stack([at[metric] for at in by_k], axis=-1) for metric in METRICS], axis=2).reshape(len(frame), width)
            long = frame[["task", "slices"]].reset_index(drop=True).explode("slices")
            for name, rows in long.groupby(["task", "slices"], sort=True).indices.items():
                rows = long.index.to_numpy()[rows]
                total = totals.setdefault(name, [0, np.zeros(1 + replicates), np.zeros((1 + replicates, width))])
                total[0] += len(rows)
                total[1] += weights[rows].sum(axis=0)
                total[2] += weights[rows].T @ gain[rows]
        if totals:
            yield pd.DataFrame([(*name, n, weights, sums.ravel()) for name, (n, weights, sums) in totals.items()], columns=column_names(SUMS))

    return sums


def column_names(ddl: str) -> list[str]:
    return [column.split()[0] for column in ddl.split(", ")]
