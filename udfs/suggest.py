"""Histories → queries that may come next, on Spark workers.     Knows no table, no verb, no day.

    requests.mapInPandas(suggester(artifact, k, beams, batch_size, queries), SUGGESTED)

Only queries of a given list are ever answered: the beam walks the trie of their tokens.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from udfs.device import device
from udfs.rank import as_list, in_batches

if TYPE_CHECKING:
    from pyspark import Broadcast

SUGGESTED = "user_id string, rank int, query string, score double"


def suggester(
    artifact: str, k: int, beams: int, batch_size: int, queries: "Broadcast[list[str]]"
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: user_id and history (columns of `udfs.rank.REQUESTS`) → rows of SUGGESTED, at most k per user, best first.

    A user whose history tells the model nothing gets none.
    """

    def suggest(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.products import one_worker
        from model.rank import load

        one_worker()
        model = load(artifact, device())  # once per process: it remembers
        catalogue, numbers = model.query_catalogue(queries.value)
        texts = np.asarray(queries.value, dtype=object)
        for frame in frames:
            for batch in in_batches(frame, batch_size):
                asks = model.asks("next_query", [as_list(history) for history in batch["history"]], [None] * len(batch))
                answers = model.suggest(asks, catalogue, k, beams)
                counts = [len(leaves) for leaves, _ in answers]
                yield pd.DataFrame(
                    {
                        "user_id": np.repeat(batch["user_id"].to_numpy(dtype=object), counts),
                        "rank": np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts]),
                        "query": np.concatenate([texts[numbers[leaves]] for leaves, _ in answers]),
                        "score": np.concatenate([scores for _, scores in answers]),
                    }
                )

    return suggest
