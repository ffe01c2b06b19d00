"""Order candidates on Spark workers: the second stage's items first, popular ones where there are too few.     Knows no table, no verb, no day.

    requests.mapInPandas(reranker(artifact, "search", k, batch_size, catalogue), RANKED)

As `udfs.rank`, whose rows it gives: one model per Python worker, one thread, one Arrow batch at a time. What a request costs grows with its candidates; the
model bounds its own batches by tokens.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from udfs.rank import Request, as_list, bisect, fill, to_rows

if TYPE_CHECKING:
    from pyspark import Broadcast

REQUESTS = "user_id, query: the request's key; history: array<struct<item_id, …>>; candidates: array<string>; exclude: array<string> or null"


def reranker(
    artifact: str, task: str, k: int, batch_size: int, catalogue: "Broadcast[tuple[list[str], np.ndarray]]"
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: requests (columns of REQUESTS) → rows of `udfs.rank.RANKED`, `k` per request.

    `catalogue` is (item ids, log popularity shares float64), most popular first: a candidate that is not in it, or that the request excludes, is not
    answered. Within a request: distinct items, ranks 1, 2, …, scores non-increasing, source `model` before `popular`. `error` names the class of the
    exception that a request raised: such a request is answered by popularity alone.
    """

    def rerank(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import torch

        from model.rerank import load

        torch.set_num_threads(1)
        popular, log_shares = catalogue.value
        available = set(popular)
        model = load(artifact)  # once per process: it remembers

        def answer(requests: list[Request]) -> list[tuple[np.ndarray, np.ndarray]]:
            histories, queries, candidates = (list(column) for column in zip(*requests, strict=True))
            answers = model.rank(task, histories, queries, candidates, k)
            return [(np.asarray(items, dtype=object), scores) for items, scores in answers]

        for frame in frames:
            for start in range(0, len(frame), batch_size):
                batch = frame.iloc[start : start + batch_size]
                excludes = [as_list(items) for items in batch["exclude"]]
                offered = [[i for i in as_list(items) if i in available and i not in e] for items, e in zip(batch["candidates"], excludes, strict=True)]
                requests = [(as_list(history), query, items) for history, query, items in zip(batch["history"], batch["query"], offered, strict=True)]
                answers = bisect(answer, requests)
                filled = [fill(items, scores, out, popular, log_shares, k) for (items, scores, _), out in zip(answers, excludes, strict=True)]
                yield to_rows(batch, filled, [error for _, _, error in answers])

    return rerank
