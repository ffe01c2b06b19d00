"""Dense search on Spark workers: queries and items in one vector space, by cosine.     Knows no table, no verb, no day.

queries.mapInPandas(searcher(index, depth), FOUND)
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from udfs.bm25 import best

if TYPE_CHECKING:
    from pyspark import Broadcast

    Index = tuple[Any, list[str], np.ndarray]


def searcher(index: "Broadcast[Index]", depth: int) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: column query → rows of `udfs.bm25.FOUND`, the items of a cosine above 0, highest first, ties in the index's order.

    `index` is (encoder of model.encoders, item ids, their vectors float32 [items, dim] of unit length or zeros).
    """

    def search(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        encoder, item_ids, vectors = index.value
        names = np.asarray(item_ids, dtype=object)
        for frame in frames:
            for query, vector in zip(frame["query"], encoder.encode(frame["query"].tolist()), strict=True):
                # Rounded: equal texts must tie, and a product's last bits hang on its place in the batch.
                scores = np.round((vectors @ vector).astype(np.float64), 6)
                rows = best(scores, depth)
                yield pd.DataFrame({"query": query, "rank": np.arange(1, len(rows) + 1, dtype=np.int32), "item_id": names[rows], "score": scores[rows]})

    return search
