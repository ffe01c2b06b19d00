"""Vectors on the workers: text → vector, vectors → codes, equal codes → different ones. The encoder or naming is loaded once per worker process.

Takes folders, returns functions for Spark; knows no table, no configuration.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

NAMED = "item_id string, view string, levels array<int>, rest array<float>"
PARTED = "item_id string, view string, codes array<int>, repaired array<int>"


def embed(folder: str) -> Callable[..., Any]:
    """UDF text → array<float>: unit length, or zeros. `folder` holds an encoder (model.encoders) and is readable on every worker."""

    @F.pandas_udf("array<float>")  # type: ignore[call-overload]
    def vector(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for texts in batches:
            yield pd.Series(list(encoder(folder).encode(texts.tolist())))

    return vector


def name(folder: str) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for `mapInPandas`: item_id and a column of vectors per view → rows of NAMED. `folder` holds a naming (model.naming).

    `rest` is null but for a naming whose identifiers are parted by their own last code.
    """

    def code(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from model.naming import encode, rest

        for frame in frames:
            if len(frame):
                vectors = {view: np.stack(frame[view].tolist()) for view in frame.columns.drop("item_id")}
                held = naming(folder)
                left = rest(held, vectors) if held.settings["construction"] == "dual" else {}
                for view, levels in encode(held, vectors).items():
                    of_view = list(left[view]) if view in left else [None] * len(levels)
                    yield pd.DataFrame({"item_id": frame["item_id"], "view": view, "levels": list(levels), "rest": of_view})

    return code


def part(folder: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A function for `applyInPandas` by view and all codes but the last: rows of NAMED → rows of PARTED. Rows whose `rest` is null are named already."""

    def settle(frame: pd.DataFrame) -> pd.DataFrame:
        from model import naming as namings

        new = frame[frame["rest"].notna()].sort_values("item_id")
        codes = np.stack(new["levels"].tolist())
        taken = np.array([levels[-1] for levels in frame.loc[frame["rest"].isna(), "levels"]], np.int64)
        made = namings.part(naming(folder), new["view"].iloc[0], np.stack(new["rest"].tolist()), codes[:, -1].astype(np.int64), taken)
        repaired, parted = (list(np.column_stack([codes[:, :-1], last]).astype(np.int32)) for last in made)
        return pd.DataFrame({"item_id": new["item_id"], "view": new["view"], "codes": parted, "repaired": repaired})

    return settle


@lru_cache(maxsize=1)
def encoder(folder: str) -> Any:
    from model import encoders

    return encoders.load(folder)


@lru_cache(maxsize=1)
def naming(folder: str) -> Any:
    from model import naming

    return naming.load(folder)
