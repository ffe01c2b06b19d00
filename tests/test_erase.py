"""Erasure: nothing of the user is left, in tables, on pages, and in files once their time is over; nor comes back from the logs."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import tiny
from test_ingest import D1, D2, D3, daily, drop, event, ids
from test_release import served_items, stage, vacuum

from jobs import build_corpora, erase, ingest, release, rollback
from jobs.__main__ import main
from jobs.spark import read, written_up_to
from jobs.tables import CORPORA, ERASURES, EVENTS, QUARANTINE, TABLES

ANN = "ann-4111111111111111"


def holding(lake: Path, word: bytes) -> set[str]:
    """Tables of which a file, current or not, holds the word; Parquet's pages are read through its own reader."""
    import pyarrow.parquet as pq

    found = set()
    for path in lake.rglob("*.parquet"):
        if "_delta_log" not in path.parts and word.decode() in json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str):
            found.add(path.relative_to(lake).parts[0])
    return found


@pytest.mark.fault("R49")
def test_an_erased_user_is_gone_and_stays_gone(spark, config, tmp_path, capsys):
    config = daily(config, tmp_path, max_quarantine_share=0.5)
    lake = Path(config.lake.root)
    drop(tmp_path, D1, [event("a1", user=ANN, at=f"{D1}T08:00:00Z"), event("a2", user=ANN, at=f"{D1}T09:00:00Z"), event("b", at=f"{D1}T08:00:00Z")])
    bad = [event("bad", user=ANN, at=f"{D2}T08:00:00Z", item="i99"), event("odd", at=f"{D2}T08:00:00Z", item="i99")]
    drop(tmp_path, D2, [event("a3", user=ANN, at=f"{D2}T08:00:00Z"), event("c", at=f"{D2}T08:00:00Z"), event("d", at=f"{D2}T09:00:00Z"), *bad])
    for day in (D1, D2):
        ingest.run(config, day, "night")
        build_corpora.run(config, day, "night")
    tiny.register(spark, config, "m1", D1, "passed")
    for day in (D1, D2):
        stage(spark, config, day, {ANN: ["i1"], "u1": ["i2"]}, {"red ball": ["i3"]})
        release.run(config, day, f"night-{day}")
    pages = {name: lake / "reports" / name for name in ("with.html", "without.html")}
    pages["with.html"].parent.mkdir()
    pages["with.html"].write_text(f"user {sha256(ANN.encode()).hexdigest()[:8]}")
    pages["without.html"].write_text("user 12345678")
    trained_of = written_up_to(spark, config, CORPORA, D1)

    assert main(["erase", "--date", str(D2)]) == 64
    done = erase.run(config, D2, "request", ANN)
    expected = {"recommendations": 2, "search_results": 0, "staged_recommendations": 2, "staged_search_results": 0, "corpora": 3, "events": 3, "quarantine": 1}
    assert done == {"removed": expected, "left": 0, "pages": 1}
    assert served_items(spark, config) == {"u1": ["i2"], "red ball": ["i3"]}
    assert not pages["with.html"].exists() and pages["without.html"].exists()
    assert [row.reason for row in read(spark, config, QUARANTINE).collect()] == ["unknown item_id"]
    assert ANN not in str(read(spark, config, ERASURES).collect()) + capsys.readouterr().out
    assert written_up_to(spark, config, CORPORA, D1) > trained_of, "a model trained again for that day is another one"

    # The logs still hold the user. A rerun refuses them, tells nothing of them, and does not take them for bad data; later events are a new user's.
    assert ingest.run(config, D2, "rerun")["reasons"] == {"interactions: erased": 2, "interactions: unknown item_id": 1}
    drop(tmp_path, D3, [event("late", user=ANN, at=f"{D2}T09:00:00Z"), event("new", user=ANN, at=f"{D3}T09:00:00Z"), event("e", at=f"{D3}T09:00:00Z")])
    assert ingest.run(config, D3, "next")["reasons"] == {"interactions: erased": 1}
    assert ids(spark, config, D3) == {"new", "e", f"s-{D3}"} and ids(spark, config, D2) == {"c", "d", f"s-{D2}"}
    assert {row.payload for row in read(spark, config, QUARANTINE).where("reason = 'erased'").collect()} == {"{}"}

    # A release of before the erasure may be served again, and shows nothing of them; when the files' time is over, no byte is left but the new event's.
    rollback.run(config, D2, "back")
    assert served_items(spark, config) == {"u1": ["i2"], "red ball": ["i3"]}
    assert holding(lake, ANN.encode()) == {"recommendations", "staged_recommendations", "corpora", "events"}
    for table in (*erase.TABLES, ERASURES):
        vacuum(spark, config, table)
    assert holding(lake, ANN.encode()) == {"events"}
    assert read(spark, config, EVENTS).where(f"user_id = '{ANN}'").count() == 1
    assert set(erase.TABLES) == {t for t in TABLES.values() if "user_id" in t.names} | {QUARANTINE}
