"""Worlds whose answer is known by construction.

The checkerboard: 12 items, even users like even items, odd ones odd items; the query "word i" means item i. A user walks through
the items of their colour in order, so the next item is known too.
"""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

DAY = date(2026, 1, 31)
ITEMS = [f"item{i:02d}" for i in range(12)]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
ACT = pa.struct(
    [("item_id", pa.string()), ("surface", pa.string()), ("action", pa.string()), ("query", pa.string()), ("event_ts", pa.timestamp("us", tz="UTC"))]
)


def checkerboard_rows(users: int = 24, steps: int = 16) -> list[dict[str, Any]]:
    """Rows of `corpora` (split by_time): each user walks their colour from a start of their own, one item a day up to DAY."""
    first = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) - timedelta(days=steps - 1)
    rows = []
    for user in range(users):
        walk = [(2 * ((user // 2 + step) % 6) + user % 2) for step in range(steps)]
        acts: list[dict[str, Any]] = []
        for step, item in enumerate(walk):
            at = first + timedelta(days=step, hours=1)
            row = {"user_id": f"user{user}", "history": acts[-8:], "target_item_id": ITEMS[item], "split": "by_time", "ds": at.date()}
            rows.append({"example_id": f"r{user}-{step}", "task": "recommend", "query": None, "event_ts": at, **row})
            rows.append({"example_id": f"s{user}-{step}", "task": "search", "query": f"thing {WORDS[item]}", "event_ts": at, **row})
            acts.append({"item_id": ITEMS[item], "surface": "recommendation", "action": "click", "query": None, "event_ts": at})
    return rows


CORPORA_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("task", pa.string()),
        ("user_id", pa.string()),
        ("history", pa.list_(ACT)),
        ("query", pa.string()),
        ("target_item_id", pa.string()),
        ("event_ts", pa.timestamp("us", tz="UTC")),
        ("split", pa.string()),
        ("ds", pa.date32()),
    ]
)


TABLES = ("corpora", "items", "item_identifiers", "item_embeddings")


def write_lake(root: Path, rows: list[dict[str, Any]], codes: np.ndarray | dict[str, np.ndarray] | None = None, scheme: str = "atomic") -> dict[str, list[Any]]:
    """Write corpora, items, item_identifiers (codes of a view, or of each) and item_embeddings (by chance) as Delta tables.

    Returns name → [path, version], as a training's specification pins them.
    """
    codes = np.arange(len(ITEMS))[:, None] if codes is None else codes
    views = codes if isinstance(codes, dict) else {"joint": codes}
    rows_of = [(item, view, held) for view, of_items in views.items() for item, held in zip(ITEMS, of_items.tolist(), strict=False)]
    write_deltalake(str(root / "corpora"), pa.Table.from_pylist(rows, CORPORA_SCHEMA), partition_by=["ds"], mode="overwrite")
    texts = [f"thing {word}" for word in WORDS]
    items = pa.table({"item_id": ITEMS, "title": texts, "text": texts, "ds": pa.array([DAY] * len(ITEMS))})
    write_deltalake(str(root / "items"), items, partition_by=["ds"], mode="overwrite")
    named = pa.table(
        {
            "item_id": [item for item, _, _ in rows_of],
            "scheme": [scheme] * len(rows_of),
            "view": [view for _, view, _ in rows_of],
            "codes": pa.array([held for _, _, held in rows_of], pa.list_(pa.int32())),
            "ds": pa.array([DAY] * len(rows_of)),
        }
    )
    write_deltalake(str(root / "item_identifiers"), named, partition_by=["ds", "scheme"], mode="overwrite")
    vectors = np.random.default_rng(0).normal(size=(2, len(ITEMS), 4)).astype(np.float32)
    embedded = {
        "item_id": ITEMS * 2,
        "view": ["text"] * len(ITEMS) + ["behaviour"] * len(ITEMS),
        "vector": [row.tolist() for rows in vectors for row in rows],
        "ds": pa.array([DAY] * 2 * len(ITEMS)),
    }
    write_deltalake(str(root / "item_embeddings"), pa.table(embedded), partition_by=["ds", "view"], mode="overwrite")
    return {name: [str(root / name), None] for name in TABLES}


def training_spec(root: Path, scheme: str = "atomic", **settings: Any) -> dict[str, Any]:
    """A small training of the checkerboard, as jobs.train would specify it; `write_lake` comes first."""
    from jobs.config import load

    config = load()
    test_from = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    small = {
        "epochs": 30,
        "batch_size": 64,
        "patience": 30,
        "text_vocabulary": 400,
        "dropout": 0.0,
        "learning_rate": 1e-3,
        "checkpoint_steps": 10_000,
        "item_init": "random",
        "similarity": False,
    }
    return {
        "day": DAY.isoformat(),
        "tables": {name: [str(root / name), None] for name in TABLES},
        "valid_from": (test_from - timedelta(days=1)).isoformat(),
        "test_from": test_from.isoformat(),
        "scheme": scheme,
        "shared_levels": 0,
        "history_length": 8,
        "exclude_seen": False,
        "train": config.train.model_dump(mode="json", exclude={"launcher"}) | small | settings,
        "parent": None,
        "spec_hash": "0" * 64,
        "model_version": "test",
        "output": str(root / "artifact"),
        "work": str(root / "work"),
    }
