"""Vectors on the workers: text → vector, vectors → codes. The encoder or naming is loaded once per worker process.

Takes folders, returns functions for Spark; knows no table, no configuration.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

NAMED = "item_id string, view string, levels array<int>"


def embed(folder: str) -> Callable[..., Any]:
    """UDF text → array<float>: unit length, or zeros. `folder` holds an encoder (model.encoders) and is readable on every worker."""

    @F.pandas_udf("array<float>")  # type: ignore[call-overload]
    def vector(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for texts in batches:
            yield pd.Series(list(encoder(folder).encode(texts.tolist())))

    return vector


def name(folder: str) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: item_id and a column of vectors per view → rows of NAMED. `folder` holds a naming (model.naming)."""

    def code(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.naming import encode

        for frame in frames:
            if len(frame):
                vectors = {view: np.stack(frame[view].tolist()) for view in frame.columns.drop("item_id")}
                for view, levels in encode(naming(folder), vectors).items():
                    yield pd.DataFrame({"item_id": frame["item_id"], "view": view, "levels": list(levels)})

    return code


@lru_cache(maxsize=1)
def encoder(folder: str) -> Any:
    from model import encoders

    return encoders.load(folder)


@lru_cache(maxsize=1)
def naming(folder: str) -> Any:
    from model import naming

    return naming.load(folder)
