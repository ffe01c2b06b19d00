"""Vectors on the workers: text → vector, vector → codes. The encoder or quantizer is loaded once per worker process.

Takes folders, returns UDFs; knows no table, no configuration, no item.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F


def embed(folder: str) -> Callable[..., Any]:
    """UDF text → array<float>: unit length, or zeros. `folder` holds an encoder (model.encoders) and is readable on every worker."""

    @F.pandas_udf("array<float>")  # type: ignore[call-overload]
    def vector(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for texts in batches:
            yield pd.Series(list(encoder(folder).encode(texts.tolist())))

    return vector


def quantize(folder: str) -> Callable[..., Any]:
    """UDF array<float> → array<int>: the vector's code per level. `folder` holds a quantizer (model.identifiers)."""

    @F.pandas_udf("array<int>")  # type: ignore[call-overload]
    def codes(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        from model import identifiers

        for vectors in batches:
            yield pd.Series(list(identifiers.encode(quantizer(folder), np.stack(vectors.tolist())))) if len(vectors) else pd.Series([], dtype=object)

    return codes


@lru_cache(maxsize=1)
def encoder(folder: str) -> Any:
    from model import encoders

    return encoders.load(folder)


@lru_cache(maxsize=1)
def quantizer(folder: str) -> Any:
    from model import identifiers

    return identifiers.load(folder)
