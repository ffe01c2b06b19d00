"""A day is written whole or not at all, whatever happens to the writer: bad rows, other writers, older days, a full disk."""

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from deltalake import DeltaTable
from py4j.protocol import Py4JJavaError
from test_release import prepare, recommendation, stage

from jobs import release, writes
from jobs.__main__ import main
from jobs.config import load
from jobs.errors import BadData, Transient
from jobs.spark import current_version, path_of, read
from jobs.tables import EVENTS, LINEAGE, RECOMMENDATIONS, Column
from jobs.writes import create, replace, schema

DAY = date(2026, 11, 17)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def rows(day, *items):
    return [recommendation(day, "u", rank, item) for rank, item in enumerate(items, 1)]


def put(spark, config, day, run_id, *items):
    return replace(spark, config, RECOMMENDATIONS, day, spark.createDataFrame(rows(day, *items), schema(RECOMMENDATIONS)), run_id)["written"]


def promise(config):
    """What a table says of itself: columns with comments and nullability, constraints, partition, properties."""
    table = DeltaTable(path_of(config, RECOMMENDATIONS))
    told = table.metadata()
    return told.description, told.partition_columns, told.configuration, table.schema().to_json(), table.protocol().min_reader_version


@pytest.mark.fault("R11", "R15", "R16", "R20")
def test_days_side_by_side_and_out_of_order(spark, config):
    """Four days at once all get through; an older day after newer ones is written; a day of bad rows leaves all as it was, and names the rule."""
    assert put(spark, config, DAY, "first", "a") == 1
    before = promise(config)
    days = [DAY + timedelta(days=n) for n in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda day: put(spark, config, day, f"backfill-{day}", "a", "b"), days)) == [2, 2, 2, 2]
    version = current_version(spark, config, RECOMMENDATIONS)
    old = DAY - timedelta(days=30)
    assert put(spark, config, old, "late", "c") == 1
    assert current_version(spark, config, RECOMMENDATIONS) == version + 1
    for rerun in ("x", "y", "z"):
        assert put(spark, config, DAY, "rerun", rerun) == 1
    held = {day: n for day, n in read(spark, config, RECOMMENDATIONS).groupBy("ds").count().collect()}
    assert held == {old: 1, DAY: 1} | dict.fromkeys(days, 2)
    assert promise(config) == before and "delta.constraints.recommendations_rank" in before[2] and "1 is best" in before[3]

    version = current_version(spark, config, RECOMMENDATIONS)
    for spoilt, rule in (
        (recommendation(DAY, "u", 0, "a"), "rank: rank >= 1"),
        (recommendation(DAY, "u", 1, "a", math.nan), "score: "),
        (recommendation(DAY, None, 1, "a"), "user_id is not null"),
        (recommendation(DAY + timedelta(days=1), "u", 1, "a"), "partition: ds = '2026-11-17'"),
    ):
        frame = spark.createDataFrame([spoilt, *rows(DAY, "b")], ", ".join(f"{column.name} {column.type}" for column in RECOMMENDATIONS.columns))
        with pytest.raises(BadData, match=f"refuses 1 of 2 rows: the promise `{rule}"):
            replace(spark, config, RECOMMENDATIONS, DAY, frame, "spoilt")
    assert current_version(spark, config, RECOMMENDATIONS) == version


@pytest.mark.fault("R20")
def test_a_table_from_before_a_column_gets_it_and_loses_nothing(spark, config):
    """What an upgrade finds. A column that may be null is added in one commit, older rows and versions have null there; one that may not is refused."""
    assert put(spark, config, DAY, "old", "a") == 1
    before, version = promise(config), current_version(spark, config, RECOMMENDATIONS)
    newer = with_column(Column("reason", "STRING", "why it is here", required=False))
    told = spark.createDataFrame([(*row, "bought with") for row in rows(DAY + timedelta(days=1), "b")], schema(newer))
    for run_id in ("new", "again"):
        replace(spark, config, newer, DAY + timedelta(days=1), told, run_id)
    assert current_version(spark, config, RECOMMENDATIONS) == version + 2, "one commit for the column, one for the day"
    after = promise(config)
    assert (*before[:3], before[4]) == (*after[:3], after[4])
    *kept, added = json.loads(after[3])["fields"]
    assert kept == json.loads(before[3])["fields"] and (added["nullable"], added["metadata"]) == (True, {"comment": "why it is here"})
    assert {row.item_id: row.reason for row in read(spark, config, newer).collect()} == {"a": None, "b": "bought with"}
    assert [row.reason for row in read(spark, config, newer, version=version).collect()] == [None]

    with pytest.raises(BadData, match=r"another schema than declared: rank_of_all: expected int, found no such column; reason: expected no such column, found"):
        create(spark, config, with_column(Column("rank_of_all", "INT", "needed")))
    assert promise(config) == after


def with_column(column):
    return dataclasses.replace(RECOMMENDATIONS, columns=(*RECOMMENDATIONS.columns, column))


@pytest.mark.fault("R12")
def test_a_killed_creator_blocks_nobody(spark, config):
    """A log folder without a commit: of a creator at work, retry; of one killed a while ago, the table is made. Damaged logs and foreign files stay."""
    log = Path(path_of(config, RECOMMENDATIONS), "_delta_log")
    log.mkdir(parents=True)
    (log / ".00000000000000000000.json.tmp").write_text("{")
    with pytest.raises(Transient, match="another writer is creating"):
        put(spark, config, DAY, "meanwhile", "a")
    for place in (*log.iterdir(), log):
        os.utime(place, (0, 0))
    assert put(spark, config, DAY, "later", "a") == 1
    assert read(spark, config, RECOMMENDATIONS, at=DAY).count() == 1

    damaged = Path(path_of(config, EVENTS), "_delta_log", "00000000000000000007.json")
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{}")
    os.utime(damaged, (0, 0))
    os.utime(damaged.parent, (0, 0))
    with pytest.raises(Py4JJavaError, match="DELTA_TRUNCATED_TRANSACTION_LOG"):
        create(spark, config, EVENTS)
    assert damaged.exists()

    foreign = Path(path_of(config, LINEAGE), "notes.txt")
    foreign.parent.mkdir()
    foreign.write_text("mine")
    with pytest.raises(BadData, match="holds files and is no Delta table"):
        create(spark, config, LINEAGE)
    assert foreign.read_text() == "mine"


@pytest.mark.fault("R14")
def test_a_creator_that_is_overtaken_may_retry(spark, config, monkeypatch):
    """Another writer makes the log's folder after this one looked and before it commits: what Delta then says is Transient."""
    log = Path(path_of(config, RECOMMENDATIONS), "_delta_log")
    monkeypatch.setattr(writes, "clear_abandoned", lambda *_: log.mkdir(parents=True))
    with pytest.raises(Transient, match="another writer changed"):
        put(spark, config, DAY, "overtaken", "a")
    monkeypatch.undo()
    log.rmdir()
    assert put(spark, config, DAY, "again", "a") == 1


@pytest.mark.fault("R21")
@pytest.mark.slow
def test_what_is_served_stays_on_a_disk_that_is_full_or_read_only(spark, tmp_path):
    """A night on a file system of its own that fills up at another write each time: exit 75, yesterday is served whole; with room enough, today."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    place, barred = tmp_path / "disk", tmp_path / "barred"
    place.mkdir()
    barred.mkdir()
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("no file system of one's own here: unshare or mount is not allowed")
    config = load(None, [f"lake.root={tmp_path / 'lake'}", "spark.master=local[2]", "registry.uri=none"])
    prepare(spark, config)
    users = [f"user-{hash((n, 'x')):x}" * 2 for n in range(3000)]
    stage(spark, config, DAY, {user: ["i1", "i2"] for user in users})
    assert release.run(config, DAY, "yesterday")["status"] == "released"
    today = DAY + timedelta(days=1)
    stage(spark, config, today, {user: ["i1", "i3"] for user in users})

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYSPARK", "SPARK"))} | {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1"}
    command = [*alone, sys.executable, Path(__file__).with_name("full_disk.py"), tmp_path / "lake", place, barred, str(today)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    *full, last = found["tries"]
    assert full == [[75, str(DAY), 6000]] * 3, "yesterday, whole, to its readers"
    assert last == [0, str(today), 6000]
    assert (found["read_only"], found["changed"]) == (69, False)
    assert done.stderr.count("tandem: a disk is full") == len(full) and done.stderr.count("tandem: a disk may only be read") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.fault("R21")
def test_a_full_disk_publishes_nothing(spark, tmp_path, monkeypatch):
    """The JVM may write no file over 60 kB from the publish on, as on a disk that fills up: exit 70, nothing is served. With room again, the retry is."""
    config = load(None, [f"lake.root={tmp_path}", "spark.master=local[2]"])
    prepare(spark, config)
    stage(spark, config, DAY, {f"user-{hash((n, 'x')):x}" * 2: ["i1", "i2"] for n in range(3000)})
    java = next(child for child in psutil.Process().children(recursive=True) if child.name() == "java")
    room, publish = java.rlimit(psutil.RLIMIT_FSIZE), release.publish

    def on_a_full_disk(*arguments):
        java.rlimit(psutil.RLIMIT_FSIZE, (60_000, room[1]))
        return publish(*arguments)

    command = ["release", "--date", str(DAY), "--set", f"lake.root={tmp_path}"]
    try:
        monkeypatch.setattr(release, "publish", on_a_full_disk)
        assert main(command) == 70
    finally:
        java.rlimit(psutil.RLIMIT_FSIZE, room)
    assert room[0] == resource.RLIM_INFINITY and release.served(spark, config) is None
    assert read(spark, config, RECOMMENDATIONS).count() == 0
    monkeypatch.undo()
    assert main(command) == 0
    assert json.loads(release.served(spark, config).counts)["recommendations"] == {"rows": 6000, "requests": 3000}
    (told,) = read(spark, config, LINEAGE).collect()  # of the run that ended well
    inputs, outputs = json.loads(told.inputs), json.loads(told.outputs)
    assert (told.step, told.ds, inputs["items"], inputs["models"]) == ("release", DAY, [1], [1]) and {"staged_recommendations", "releases"} <= set(inputs)
    assert outputs == {name: DeltaTable(f"{tmp_path}/{name}").version() for name in ("checks", "recommendations", "releases", "search_results")}
