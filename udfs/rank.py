"""Answer requests on Spark workers: the model's items first, popular ones where it has too few.     Knows no table, no verb, no day.

    requests.mapInPandas(ranker(artifact, "recommend", k, beams, batch_size, catalogue), RANKED)

The model is loaded once per Python worker. A worker holds one Arrow batch of requests and one batch of answers at a time, so its memory
does not grow with the number of requests. It computes on one thread: Spark runs one worker per core, and more threads in several workers
fight for the cores (4 to 15 times slower, measured). Where Spark gave the task a GPU, it computes there.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from udfs.device import device

if TYPE_CHECKING:
    from pyspark import Broadcast

REQUESTS = "user_id, query: the request's key; history: array<struct<item_id, surface, action, query>>; exclude: array<string> or null"
RANKED = "user_id string, query string, rank int, item_id string, score double, source string, error string"

Request = tuple[list[dict[str, Any]], str | None, list[str]]
Answer = tuple[np.ndarray, np.ndarray, str | None]


def ranker(
    artifact: str, task: str, k: int, beams: int, batch_size: int, catalogue: "Broadcast[tuple[list[str], np.ndarray]]"
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: requests (columns of REQUESTS) → rows of RANKED, `k` per request.

    `catalogue` is (item ids, log popularity shares float64), most popular first: exactly the items that may be answered. A request gets
    fewer rows only where fewer items are left after its `exclude`. Within a request: distinct items, ranks 1, 2, …, scores non-increasing,
    source `model` before `popular`. `error` names the class of the exception that a request raised: such a request is answered by
    popularity alone, and the requests beside it are not touched by it.
    """

    def rank(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.products import one_worker
        from model.rank import load

        one_worker()
        popular, log_shares = catalogue.value
        model = load(artifact, device())  # once per process: it remembers
        available = set(popular)
        allowed = np.fromiter((item in available for item in model.item_ids), dtype=bool, count=len(model.item_ids))
        names = np.asarray(model.item_ids, dtype=object)

        def answer(requests: list[Request]) -> list[tuple[np.ndarray, np.ndarray]]:
            histories, queries, excludes = (list(column) for column in zip(*requests, strict=True))
            return model.rank(task, histories, queries, k, beams=beams, exclude=excludes, allowed=allowed)

        for frame in frames:
            # Requests of like length share a batch: padding is work for nothing.
            for batch in in_batches(frame, batch_size):
                requests = [(as_list(h), q, as_list(e)) for h, q, e in zip(batch["history"], batch["query"], batch["exclude"], strict=True)]
                answers = bisect(answer, requests)
                filled = [fill(names[rows], scores, request[2], popular, log_shares, k) for (rows, scores, _), request in zip(answers, requests, strict=True)]
                yield to_rows(batch, filled, [error for _, _, error in answers])

    return rank


def in_batches(frame: pd.DataFrame, batch_size: int) -> Iterator[pd.DataFrame]:
    order = np.argsort([len(as_list(history)) for history in frame["history"]], kind="stable")
    for start in range(0, len(order), batch_size):
        yield frame.iloc[order[start : start + batch_size]]


def as_list(values: Any) -> list:
    return [] if values is None else list(values)


def bisect(answer: Callable[[list[Request]], list[tuple[np.ndarray, np.ndarray]]], requests: list[Request]) -> list[Answer]:
    """The answers, each with None; or no items and the exception's class name for exactly the requests that raise alone."""
    try:
        return [(rows, scores, None) for rows, scores in answer(requests)]
    except Exception as error:
        if len(requests) == 1:
            return [(np.zeros(0, dtype=np.int64), np.zeros(0), type(error).__name__)]
    half = len(requests) // 2
    return bisect(answer, requests[:half]) + bisect(answer, requests[half:])


def fill(
    items: np.ndarray, scores: np.ndarray, exclude: list[str], popular: list[str], log_shares: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items (object), scores (float64) and sources (object) of one request: the model's, then the most popular others up to `k`.

    A popular item scores its log share, but never more than the model's last item: scores stay non-increasing.
    """
    items, scores = items[:k], scores[:k]
    taken = {*items, *exclude}
    extra = list(islice((n for n, item in enumerate(popular) if item not in taken), k - len(items)))
    ceiling = scores[-1] if len(scores) else np.inf
    return (
        np.concatenate([items, np.array([popular[n] for n in extra], dtype=object)]),
        np.concatenate([scores, np.minimum(log_shares[extra], ceiling)]),
        np.repeat(np.array(["model", "popular"], dtype=object), [len(items), len(extra)]),
    )


def to_rows(batch: pd.DataFrame, filled: list[tuple[np.ndarray, np.ndarray, np.ndarray]], errors: list[str | None]) -> pd.DataFrame:
    counts = [len(items) for items, _, _ in filled]
    items, scores, sources = (np.concatenate(column) for column in zip(*filled, strict=True))
    return pd.DataFrame(
        {
            "user_id": np.repeat(batch["user_id"].to_numpy(dtype=object), counts),
            "query": np.repeat(batch["query"].to_numpy(dtype=object), counts),
            "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
            "item_id": items,
            "score": scores,
            "source": sources,
            "error": np.repeat(np.array(errors, dtype=object), counts),
        }
    )
