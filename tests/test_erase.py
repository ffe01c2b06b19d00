"""Erasure: nothing of the user is left, in tables, on pages, and in files once their time is over; nor comes back from the logs."""

import json
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_ingest import D2, daily, drop, event, ids
from test_release import D1, NOW, recommendation, served_items, vacuum, write

from jobs import erase, ingest
from jobs.errors import Transient
from jobs.lineage import told
from jobs.spark import read, written_up_to
from jobs.tables import CORPORA, ERASURES, EVENTS, OF_USERS, QUARANTINE, RECOMMENDATIONS, RELEASES, SEARCH_RESULTS, TABLES
from jobs.writes import WRITTEN

ANN = "ann-4111111111111111"
HASH = sha256(ANN.encode()).hexdigest()


def holding(lake: Path) -> set[str]:
    """Tables of which a data file, current or not, holds the user's key."""
    files = [path for path in lake.rglob("*.parquet") if "_delta_log" not in path.parts]
    return {path.relative_to(lake).parts[0] for path in files if ANN in json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str)}


@pytest.mark.fault("R49")
def test_an_erased_user_is_gone_and_stays_gone(spark, config, tmp_path, caplog):
    caplog.set_level("INFO", logger="tandem")
    config = config.model_copy(update={"lake": config.lake.model_copy(update={"root": f"{config.lake.root}/the lake"})})  # a page's path comes URL-encoded
    lake = Path(config.lake.root)
    for user in (ANN, "u1"):
        write(spark, config, EVENTS, [(f"e-{user}", user, "i1", "recommendation", "click", None, None, NOW, 0, NOW, D1)])
        write(spark, config, CORPORA, [(f"e-{user}", "recommend", user, [], None, "i1", NOW, "by_time", D1)])
        write(spark, config, QUARANTINE, [(D1, "searches", "bot", json.dumps({"user_id": sha256(user.encode()).hexdigest()[:16]}), "h", "r")])
        write(spark, config, RECOMMENDATIONS, [recommendation(D1, user, 1, "i1")])
    write(spark, config, SEARCH_RESULTS, [(D1, "red ball", user, 1, "i3", -1.0, "model", "m1", "r", NOW) for user in (ANN, None)])
    versions = json.dumps({"recommendations": 2, "search_results": 1})
    write(spark, config, RELEASES, [(D1, "r", "m1", "released", versions, "{}", "{}", "h", "0", NOW)])
    pages = [lake / "reports" / name for name in ("with.html", "without.html")]
    pages[0].parent.mkdir()
    for page, user in zip(pages, (HASH[:8], "12345678"), strict=True):
        page.write_text(f"user {user}")
    trained_of = written_up_to(spark, config, CORPORA, D1)

    done = erase.run(config, D2, "request", ANN)
    assert done == {"removed": {"recommendations": 1, "search_results": 1, "corpora": 1, "events": 1, "quarantine": 1}, "left": 0, "pages": 1}
    assert served_items(spark, config) == {"u1": ["i1"], "red ball": ["i3"]}, "the release names versions that still hold the user"
    assert not pages[0].exists() and pages[1].exists()
    assert ANN not in str(read(spark, config, ERASURES).collect()) + caplog.text
    assert written_up_to(spark, config, CORPORA, D1) > trained_of, "a model trained again for that day is another one"
    assert holding(lake) == {"recommendations", "search_results", "corpora", "events"}
    for table in (RECOMMENDATIONS, SEARCH_RESULTS, CORPORA, EVENTS):
        vacuum(spark, config, table)
    assert holding(lake) == set()
    assert {table.name for table in OF_USERS} == {table.name for table in TABLES.values() if "user_id" in table.names} | {QUARANTINE.name}

    # The log still holds the user: what is of before the request is refused, told without a trace, and not taken for bad data; a later event is a new user's.
    config = daily(config, tmp_path, max_quarantine_share=0.4)
    erase.tell(spark, config, D1, sha256(b"u9").hexdigest(), {}, "r")
    drop(tmp_path, D2, [*(event(f"old{n}", user=ANN, at=f"{D2}T08:00:0{n}Z") for n in range(3)), event("new", user="u9", at=f"{D2}T08:00:00Z")])
    assert ingest.run(config, D2, "next")["reasons"] == {"interactions: erased": 3}
    assert ids(spark, config, D2) == {"new", f"s-{D2}"}
    assert {row.payload for row in read(spark, config, QUARANTINE, at=D2).collect()} == {"{}"}


@pytest.mark.fault("R49")
def test_a_step_that_was_at_work_during_an_erasure_is_run_again(spark, config):
    """It may have read the user's rows before they were deleted, and written them after."""
    of_ann = ("e", ANN, "i1", "recommendation", "click", None, None, NOW, 0, NOW, D1)
    with pytest.raises(Transient, match="erased while ingest ran"), told(config, "ingest", D1, "night"):
        erase.run(config, D1, "request", ANN)
        write(spark, config, EVENTS, [of_ann])
        WRITTEN.add(EVENTS.name)
    with told(config, "erase", D1, "again"):
        assert erase.run(config, D1, "again", ANN)["removed"] == {"events": 1}
    with told(config, "ingest", D1, "retry"):
        WRITTEN.add(EVENTS.name)
