"""Corpora hold what a user had done before, and never what came at the same time or later."""

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from jobs import build_corpora as job
from jobs.errors import BadArgument, BadData, MissingInput
from jobs.sections import Corpora
from jobs.spark import current_version, read
from jobs.tables import CORPORA, EVENTS, ITEMS
from jobs.writes import append, dry_run, replace, schema

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = START.date()


def event(name, user, item, surface, hours, sequence=0, ingested=None, base_day=None):
    """A row of EVENTS, `hours` after START."""
    ts = START + timedelta(hours=hours)
    query = f"find {item}" if surface == "search" else None
    ds = max(ts.date(), base_day) if base_day else ts.date()
    return (name, user, item, surface, "click", query, None, ts, sequence, ingested or ts, ds)


def frame(spark, rows):
    return spark.createDataFrame(rows, schema(EVENTS))


def instant(row):
    return row[7], row[8]


def oracle(rows, length, cap, leave_one_out=False):
    """The examples by nested loops: example_id → (task, user, history as (item, surface, query, ts), query, target, split, ds)."""
    examples = {}
    for user in {row[1] for row in rows}:
        mine = sorted((r for r in rows if r[1] == user), key=lambda r: (*instant(r), r[0]))[-cap:]
        level = {}
        for surface in ("recommendation", "search"):
            ids = [r[0] for r in mine if r[3] == surface]
            level |= {name: 0 for name in ids} | {name: 1 for name in ids[-2:]} | {name: 2 for name in ids[-1:]}
        for target in mine:
            before = [r for r in mine if instant(r) < instant(target) and (not leave_one_out or level[r[0]] <= level[target[0]])]
            split = ("train", "valid", "test")[level[target[0]]] if leave_one_out else "by_time"
            task = "search" if target[3] == "search" else "recommend"
            history = [(r[2], r[3], r[5], r[7]) for r in before[-length:]]
            examples[target[0]] = (task, user, history, target[5], target[2], split, target[10])
    return examples


def collected(corpora):
    utc = {"tzinfo": UTC}
    return {
        r.example_id.removeprefix("search:" if r.task == "search" else ""): (
            r.task,
            r.user_id,
            [(a.item_id, a.surface, a.query, a.event_ts.replace(**utc)) for a in r.history],
            r.query,
            r.target_item_id,
            r.split,
            r.ds,
        )
        for r in corpora.collect()
    }


@pytest.fixture(autouse=True)
def utc_driver(monkeypatch):
    """collect() gives timestamps in the driver's local time: read them as UTC wherever the tests run."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


# Few items, few instants: ties within and across surfaces are the rule here.
user_log = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["recommendation", "search"]), st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=16)


@pytest.mark.fault("R3")
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate,))  # shrinking would take Spark minutes
@given(
    logs=st.lists(user_log, min_size=25, max_size=25),
    length=st.integers(1, 6),
    cap=st.integers(10, 14),
    leave_one_out=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_histories_are_the_strict_past(spark, logs, length, cap, leave_one_out, shuffled):
    rows = [
        event(f"e{u}-{i}", f"u{u}", f"i{item}", surface, 11 * hours, sequence)
        for u, log in enumerate(logs)
        for i, (item, surface, hours, sequence) in enumerate(log)
    ]
    shuffled.shuffle(rows)
    chosen = Corpora(history_length=length, max_events_per_user=cap, split="leave_one_out" if leave_one_out else "time")
    built = collected(job.build_corpora(frame(spark, rows).repartition(3), chosen))
    by_id = {row[0]: row for row in rows}
    for name, (_, _, history, *_) in built.items():
        assert all(ts <= by_id[name][7] for *_, ts in history)
    assert built == oracle(rows, length, cap, leave_one_out)


def test_one_shuffle(spark):
    events = frame(spark, [event("a", "u", "i", "search", 0), event("b", "u", "j", "recommendation", 1)])
    for split in ("time", "leave_one_out"):
        corpora = job.build_corpora(events, Corpora(split=split))
        assert len(corpora.collect()) == 2
        plan = corpora._jdf.queryExecution().executedPlan().toString()
        final = plan.split("== Initial Plan ==")[0]  # what ran, and not also what AQE began with
        assert final.count("Exchange hashpartitioning") == 1 and final.count("Exchange") == 1, plan


def test_latest_histories_are_what_a_next_target_would_see(spark):
    randomly = random.Random(3)
    rows = [
        event(f"e{i}", f"u{i % 7}", f"i{randomly.randrange(9)}", randomly.choice(["recommendation", "search"]), randomly.randrange(30), randomly.randrange(2))
        for i in range(120)
    ]
    chosen = Corpora(history_length=5)
    served = {r.user_id: r.history for r in job.latest_histories(frame(spark, rows), chosen).collect()}
    next_targets = [event(f"next{u}", f"u{u}", "i0", "recommendation", 99) for u in range(7)]
    built = job.build_corpora(frame(spark, rows + next_targets), chosen).where(F.col("example_id").contains("next"))
    assert served == {r.user_id: r.history for r in built.collect()}
    assert all(len(history) == 5 for history in served.values())


def test_with_split_divides_at_the_bounds_and_no_training_row_sees_beyond_them(spark):
    randomly = random.Random(5)
    rows = [event(f"e{i}", f"u{i % 5}", f"i{i % 4}", ("recommendation", "search")[i % 2], randomly.randrange(24 * 9)) for i in range(150)]
    rows += [event(f"edge{hours}", "edge", "i0", "search", hours) for hours in (95, 96, 143, 144, 191, 192)]
    chosen, day = Corpora(valid_days=2, test_days=2), DAY + timedelta(days=7)
    split = job.with_split(job.build_corpora(frame(spark, rows), chosen), chosen, day).collect()
    edges = {r.example_id: r.split for r in split if r.user_id == "edge"}
    edges = {name.removeprefix("search:"): split for name, split in edges.items()}
    assert edges == {"edge95": "train", "edge96": "valid", "edge143": "valid", "edge144": "test", "edge191": "test"}
    valid_from = (START + timedelta(days=4)).replace(tzinfo=None)
    train = [r for r in split if r.split == "train"]
    assert train and all(r.event_ts < valid_from and all(a.event_ts < valid_from for a in r.history) for r in train)
    assert {r.example_id.removeprefix("search:") for r in split} == {r[0] for r in rows if r[7] < START + timedelta(days=8)}


def test_leave_one_out_labels_and_hides_held_out_targets_of_the_other_task(spark):
    # u: the recommend test and valid targets come before the last train search.
    rows = [event(f"r{i}", "u", f"a{i}", "recommendation", i) for i in range(4)] + [event(f"s{i}", "u", f"b{i}", "search", 4 + i) for i in range(4)]
    corpora = job.build_corpora(frame(spark, [*rows, event("only", "v", "a0", "search", 0)]), Corpora(split="leave_one_out"))
    assert {r.split for r in job.with_split(corpora, Corpora(split="leave_one_out"), DAY).collect()} == {"train", "valid", "test"}
    built = collected(corpora)
    assert {name: row[5] for name, row in built.items()} == {
        **{"r0": "train", "r1": "train", "r2": "valid", "r3": "test"},
        **{"s0": "train", "s1": "train", "s2": "valid", "s3": "test", "only": "test"},
    }
    shown = {name: [item for item, *_ in built[name][2]] for name in ("s1", "s2", "s3")}
    assert shown == {
        "s1": ["a0", "a1", "b0"],
        "s2": ["a0", "a1", "a2", "b0", "b1"],
        "s3": ["a0", "a1", "a2", "a3", "b0", "b1", "b2"],
    }


def test_core_is_stable_and_counted_on_training_events_alone(spark):
    randomly = random.Random(11)
    rows = [event(f"e{i}", f"u{randomly.randrange(40)}", f"i{randomly.randrange(40)}", "recommendation", randomly.randrange(96)) for i in range(190)]
    training = [r for r in rows if r[7] < START + timedelta(days=3)]
    kept, before = training, None
    while kept != before:
        before = kept
        users, items = Counter(r[1] for r in kept), Counter(r[2] for r in kept)
        kept = [r for r in kept if users[r[1]] >= 3 and items[r[2]] >= 3]
    users, items = {r[1] for r in kept}, {r[2] for r in kept}
    expected = {r[0] for r in rows if r[1] in users and r[2] in items}
    assert 0 < len(kept) < len(training) and len(expected) > len(kept)  # else this world shows nothing
    cut = F.col("event_ts") < F.lit(START + timedelta(days=3))
    assert {r.event_id for r in job.core(frame(spark, rows), cut, 3).collect()} == expected


def test_leave_one_out_core_keeps_the_labels_it_was_counted_with(spark):
    # b is a core item by u's and v's training events; u's test target x is not, and u's valid target must not step into its place.
    rows = [event(f"{user}{i}", user, "b", "recommendation", i) for user in "uv" for i in range(4)]
    rows += [event("u-last", "u", "x", "recommendation", 9)]
    built = collected(job.of_day(frame(spark, [(*r[:10], DAY) for r in rows]), Corpora(split="leave_one_out", k_core=2), DAY))
    assert {name: row[5] for name, row in built.items() if row[1] == "u"} == {"u0": "train", "u1": "train", "u2": "train", "u3": "valid"}


def test_a_user_of_a_million_events_survives(spark):
    events = spark.range(1_000_000).selectExpr(
        "string(id) AS event_id",
        "'bot' AS user_id",
        "string(id % 1000) AS item_id",
        "'recommendation' AS surface",
        "'click' AS action",
        "string(null) AS query",
        "timestamp_seconds(1700000000 + id) AS event_ts",
        "0L AS sequence",
        "date'2026-11-01' AS ds",
    )
    found = job.build_corpora(events, Corpora()).agg(F.count("*"), F.max(F.size("history")), F.min("event_ts"), F.count_if(F.size("history") == 50)).first()
    assert (found[0], found[1], found[3]) == (2000, 50, 1950)
    assert found[2].replace(tzinfo=UTC).timestamp() == 1700000000 + 998_000


@pytest.mark.fault("R2", "R3")
def test_nights_add_their_day_take_late_rows_and_rerun_to_nothing(spark, config):
    randomly = random.Random(2)
    base, days = DAY + timedelta(days=1), [DAY + timedelta(days=n) for n in (1, 2, 3)]
    config = config.model_copy(update={"ingest": config.ingest.model_copy(update={"base_day": base})})
    rows = [
        event(f"e{i}", f"u{i % 6}", f"i{i % 5}", ("recommendation", "search")[i % 2], randomly.randrange(96), base_day=base) for i in range(90)
    ]  # fmt: skip
    on_day = START + timedelta(days=3, hours=5)
    late = event("late", "u0", "i1", "search", 50, ingested=on_day)  # of days[1], delivered on days[2]
    for_base = event("late-for-base", "u0", "i1", "search", 1, ingested=on_day, base_day=base)
    append(spark, config, EVENTS, frame(spark, rows), "test")
    for day in days[:2]:
        assert set(job.run(config, day, "first")["rows"]) == {str(day)}
    append(spark, config, EVENTS, frame(spark, [late, for_base]), "test")

    version = current_version(spark, config, CORPORA)
    with dry_run(True):
        told = job.run(config, days[2], "second")
    assert current_version(spark, config, CORPORA) == version

    done = job.run(config, days[2], "second")
    assert told == done, "a dry run tells what a run does"
    assert set(done["rows"]) == set(done["written"]) == {str(days[1]), str(days[2])}
    stored = {day: collected(read(spark, config, CORPORA, at=day)) for day in days}
    assert "late" in stored[days[1]] and "late-for-base" not in stored[base]
    assert stored[base] == {name: row for name, row in oracle(rows, 20, 2000).items() if row[6] == base}
    whole = oracle([*rows, late, for_base], 20, 2000)
    for day in days[1:]:
        assert stored[day] == {name: row for name, row in whole.items() if row[6] == day}

    assert set(job.run(config, days[2], "third")["written"].values()) == {0}
    # Run again, the second night takes nothing back of what the third has added to its day.
    assert job.run(config, days[1], "fourth")["written"] == {str(days[1]): 0}
    assert "late" in collected(read(spark, config, CORPORA, at=days[1]))


def test_refusals_leave_the_lake_alone(spark, config):
    with pytest.raises(MissingInput, match="events"):
        job.run(config, DAY, "test")
    append(spark, config, EVENTS, frame(spark, [event("a", "u", "i", "search", 0), event("b", "u", "i", "search", 24)]), "test")
    with pytest.raises(BadData, match="EMPTY_INPUT"):
        job.run(config, date(2026, 12, 24), "test")
    lone = config.model_copy(update={"corpora": config.corpora.model_copy(update={"split": "leave_one_out"})})
    with pytest.raises(BadArgument, match=r"2026-11-01, 2026-11-02.*one base day"):
        job.run(lone, DAY + timedelta(days=1), "test")
    early = config.model_copy(update={"ingest": config.ingest.model_copy(update={"base_day": date(2026, 11, 5)})})
    with pytest.raises(BadArgument, match=r"ingest\.base_day"):
        job.run(early, DAY, "test")
    with pytest.raises(MissingInput):
        read(spark, config, CORPORA)
    # Ingested, and accepted as a day without events, it is one.
    replace(spark, config, ITEMS, date(2026, 12, 25), spark.createDataFrame([("i", "Item", "item", [], True, date(2026, 12, 25))], schema(ITEMS)), "test")
    assert job.run(config, date(2026, 12, 25), "test")["rows"] == {"2026-12-25": 0}
