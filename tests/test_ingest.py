"""Ingestion: every reason by literal rows, conservation, late data, history at once, formats, and input that is broken or hostile."""

import gzip
import hashlib
import json
import random
import time
import unicodedata
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from jobs import ingest, rows
from jobs.config import Config, load
from jobs.errors import BadArgument, BadData, MissingInput, Transient
from jobs.sections import Ingest, Lake, Source, Warehouse
from jobs.spark import current_version, path_of, read
from jobs.tables import CHECKS, EVENTS, ITEMS, QUARANTINE
from jobs.writes import create, dry_run

D1, D2, D3 = date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 20)
ITEMS_LINES = [{"item_id": f"i{n}", "title": f"Title {n}", "categories": ["Toys", "Games"]} for n in range(6)]
CANARIES = ("ann@example.com", "+1 555 0100", "4111111111111111")


def event(name, user="u1", item="i1", at="2026-11-20T10:00:00.000Z", **more):
    return {"event_id": name, "user_id": user, "item_id": item, "event_ts": at, "action": "click"} | more


def asked(name, query="red ball", **more):
    return event(name, query=query, **more)


def write(path: Path, lines: list) -> None:
    """JSON lines; text and bytes stand as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)).encode() for line in lines]
    path.write_bytes(b"\n".join(made) + b"\n")


def daily(config: Config, root: Path, **limits: object) -> Config:
    """A warehouse of one file per day below root, with a catalogue of six items."""
    write(root / "catalogue.json", ITEMS_LINES)
    sources = {name: Source(path=f"{root}/{name}-{{ds}}.json", format="jsonl") for name in ("interactions", "searches")}
    made = Warehouse(catalogue=Source(path=f"{root}/catalogue.json", format="jsonl"), **sources)
    return config.model_copy(update={"warehouse": made, "ingest": Ingest(**({"max_quarantine_share": 1.0} | limits))})


def drop(root: Path, day: date, interactions: list, searches: list | None = None) -> None:
    write(root / f"interactions-{day}.json", interactions)
    write(root / f"searches-{day}.json", [asked(f"s-{day}", at=f"{day}T01:00:00Z")] if searches is None else searches)


def only_interactions(config: Config, **source: object) -> Config:
    made = config.warehouse.interactions.model_copy(update=source)
    return config.model_copy(update={"warehouse": config.warehouse.model_copy(update={"interactions": made, "searches": None})})


def ids(spark, config, day: date) -> set[str]:
    return {row["event_id"] for row in read(spark, config, EVENTS).where(F.col("ds") == F.lit(day)).collect()}


def checks(spark, config, day: date) -> dict:
    return {row["check"]: row for row in read(spark, config, CHECKS).where(F.col("ds") == F.lit(day)).collect()}


# One row per reason, in the order of the checks. A row that fails several has the first.
REFUSED = [
    ("interactions", "malformed", '{"event_id": "m1", "user_id": "u1"'),
    ("interactions", "malformed", '{"event_id": "m2"} {"event_id": "m3"}'),
    ("interactions", "malformed", '{"event_id": "m4", "user_id": "u1", "item_id": "i1", "event_ts": "2026-11-20T10:00:00Z", "action": NaN}'),
    ("interactions", "malformed", b'{"event_id": "m5", "user_id": "\xff\xfe", "item_id": "i1", "event_ts": "2026-11-20T10:00:00Z", "action": "click"}'),
    ("interactions", "malformed", '["u1", "i1"]'),
    ("interactions", "missing user_id", event("a1", user=None, at="no time either")),
    ("interactions", "missing user_id", event("a2", user=" NaN ")),
    ("interactions", "missing item_id", event("a3", item="")),
    ("interactions", "missing event_ts", event("a4", at=None)),
    ("searches", "missing query", asked("a5", query=" \t ")),
    ("searches", "missing query", event("a6")),
    ("interactions", "missing action", event("a7", action=None)),
    ("interactions", "bad user_id", event("b1", user=-1)),
    ("interactions", "bad user_id", event("b2", user={"mail": CANARIES[0]})),
    ("interactions", "bad item_id", event("b3", item=-7)),
    ("interactions", "bad sequence", event("b4", sequence="first")),
    ("interactions", "bad ingested_at", event("b5", ingested_at="soon")),
    ("interactions", "bad event_ts", event("c1", at=f"call {CANARIES[1]}")),
    ("interactions", "bad event_ts", event("c2", at="2026-13-45")),
    ("interactions", "bad event_ts", event("c3", at="12:30")),
    ("interactions", "bad event_ts", event("c4", at="9999-01-01")),
    ("interactions", "future", event("d1", at="2026-11-21T00:00:00.000Z")),
    ("interactions", "future", event("d2", at="2026-11-20T23:00:00-05:00")),
    ("interactions", "future", event("d3", ingested_at="2026-11-21T00:00:00Z")),
    ("interactions", "late_beyond_window", event("d4", at="2026-11-16T23:59:59.999Z", item="i99")),
    ("interactions", "unknown item_id", event("e1", item="i99", user="u" * 200)),
    ("interactions", "user_id too long", event("f1", user="u" * 129)),
    ("searches", "query too long", asked("f2", query=CANARIES[0] + "x" * 1_000_000)),
    ("interactions", "unknown action", event("g1", action="hover")),
    ("interactions", "control characters", event("h1", user="u\x001")),
    ("searches", "control characters", asked("h2", query="red \u202egnp.exe")),
    ("interactions", "bot", event("j1", user=f"bot {CANARIES[2]}")),
    ("interactions", "bot", event("j2", user=f"bot {CANARIES[2]}")),
    ("interactions", "bot", event("j3", user=f"bot {CANARIES[2]}")),
    ("searches", "bot", asked("j4", user=f"bot {CANARIES[2]}")),
    ("interactions", "duplicate", event("ok1", at="2026-11-20T10:00:00.001Z")),
    ("interactions", "duplicate", event("ok1", ingested_at="2026-11-20T12:00:00Z")),
    ("searches", "duplicate", {key: value for key, value in asked("", user="u3", item="i2").items() if key != "event_id"}),
]
ACCEPTED = [
    ("interactions", event("ok1", ingested_at="2026-11-20T11:00:00Z")),
    ("interactions", event("ok2", user=12, item="i2", at="2026-11-20T23:59:59.999Z")),
    ("interactions", event("ok3", user="x' OR '1'='1", at="2026-11-20 05:00:00+05:00", action="BUY")),
    ("interactions", event("ok4", user="late", at="2026-11-17T00:00:00.000Z")),
    ("searches", asked("ok5", query="  ＲＥＤ\u00a0  Ball ", user="u2", sequence=3, extra={"ignored": 1})),
    ("searches", {key: value for key, value in asked("", user="u3", item="i2").items() if key != "event_id"}),
]


def test_control_characters_are_these_and_no_others(spark):
    text = [chr(code) for code in range(0x10000) if not 0xD800 <= code <= 0xDFFF]
    frame = spark.createDataFrame([(f"plain {each} text",) for each in text], "text STRING")
    found = {row["text"][len("plain ")] for row in frame.where(F.col("text").rlike(rows.CONTROLS)).collect()}
    white_space, marks = {*"\t\n\v\f\r\x85"}, {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffd"}
    assert found == {each for each in text if unicodedata.category(each) == "Cc"} - white_space | marks


@pytest.mark.fault("R2", "R5", "R48")
def test_every_reason_and_nothing_lost(spark, config, tmp_path, caplog):
    caplog.set_level("DEBUG", logger="tandem")
    config = daily(config, tmp_path, max_events_per_user_day=3)
    mapped = config.warehouse.interactions.model_copy(update={"actions": {"click": "click", "BUY": "purchase"}})
    config = config.model_copy(update={"warehouse": config.warehouse.model_copy(update={"interactions": mapped})})
    of = {name: [line for source, line in ACCEPTED if source == name] for name in ("interactions", "searches")}
    lines = {name: [*(line for source, _, line in REFUSED if source == name), "", *of[name]] for name in of}
    drop(tmp_path, D3, lines["interactions"], lines["searches"])
    result = ingest.run(config, D3, "r1")

    expected = Counter(f"{source}: {reason}" for source, reason, _ in REFUSED)
    assert result["reasons"] == dict(expected)
    bad = read(spark, config, QUARANTINE, at=D3).collect()
    assert Counter(f"{row['source']}: {row['reason']}" for row in bad) == expected
    raw = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)).encode() for _, _, line in REFUSED]
    # The first three rows named "ok1" differ in time of arrival alone, so each hash tells which row was refused.
    assert Counter(row["payload_hash"] for row in bad) == Counter(hashlib.sha256(line).hexdigest() for line in raw)
    told = " ".join(row["payload"] for row in bad)
    logs = "".join(path.read_text() for path in Path(config.lake.root).glob("*/_delta_log/*.json"))  # commits, with their userMetadata and statistics
    assert not any(canary in text for canary in CANARIES for text in (caplog.text, logs, json.dumps(result, default=str)))
    assert not any(canary in told for canary in (*CANARIES, "u1", "red ball")) and all(json.loads(row["payload"]) for row in bad)

    good = {row["event_id"]: row for row in read(spark, config, EVENTS).collect()}
    assert {name for name in good if name.startswith("ok")} == {"ok1", "ok2", "ok3", "ok4", "ok5"} and len(good) == 6
    assert good["ok1"]["event_ts"].isoformat() == "2026-11-20T10:00:00" and good["ok1"]["ingested_at"].isoformat() == "2026-11-20T11:00:00"
    assert (good["ok2"]["user_id"], good["ok2"]["ds"], good["ok2"]["surface"]) == ("12", D3, "recommendation")
    assert (good["ok3"]["user_id"], good["ok3"]["action"], good["ok3"]["event_ts"].isoformat()) == ("x' OR '1'='1", "purchase", "2026-11-20T00:00:00")
    assert (good["ok4"]["ds"], good["ok4"]["ingested_at"].isoformat()) == (date(2026, 11, 17), "2026-11-20T00:00:00"), "late, but within the window"
    assert (good["ok5"]["query"], good["ok5"]["sequence"], good["ok2"]["sequence"]) == ("red ball", 3, 0)

    found = checks(spark, config, D3)
    for name in lines:
        counts = [found[f"{name}.{what}"].value for what in ("rows_in", "rows_out", "rows_quarantined", "conservation")]
        assert counts == [len(lines[name]) - 1, len(of[name]), len(lines[name]) - 1 - len(of[name]), 0.0], "a blank line is no row"
    assert found["interactions.late_beyond_window"].value == 1
    assert not found["interactions.quarantine_share_warning"].passed and found["interactions.quarantine_share"].passed
    assert any(check.name == "searches.delta_version" and check.value == 3 for check in ingest.verdicts(config, {}, {}, {"searches": 3}))
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


@pytest.mark.fault("R9")
def test_the_hosts_time_zone_changes_nothing(spark, config, tmp_path, monkeypatch):
    """The last millisecond of a day and the first of the next, on hosts of three zones: the same rows in the same days."""
    zones, outcomes = spark._jvm.java.util.TimeZone, []
    home = zones.getDefault()
    drop(tmp_path, D2, [event("last", at=f"{D1}T23:59:59.999Z"), event("first", at=f"{D2}T00:00:00.000Z"), event("plain", at=f"{D2} 00:00:00")])
    try:
        for zone in ("UTC", "America/St_Johns", "Asia/Tokyo"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            zones.setDefault(zones.getTimeZone(zone))
            there = daily(config, tmp_path).model_copy(update={"lake": Lake(root=f"{tmp_path}/{zone}")})
            ingest.run(there, D2, "r")
            told = read(spark, there, EVENTS).selectExpr("event_id", "string(event_ts)", "string(ingested_at)", "string(ds)")
            outcomes.append(sorted(map(tuple, told.collect())))
    finally:
        zones.setDefault(home)
        monkeypatch.undo()
        time.tzset()
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert {name: (at, ds) for name, at, _, ds in outcomes[0]} == {
        "last": (f"{D1} 23:59:59.999", str(D1)),
        "first": (f"{D2} 00:00:00", str(D2)),
        "plain": (f"{D2} 00:00:00", str(D2)),
        f"s-{D2}": (f"{D2} 01:00:00", str(D2)),
    }


@pytest.mark.fault("R1", "R2")
def test_late_rows_join_their_day_and_a_rerun_of_any_day_changes_nothing(spark, config, tmp_path, caplog):
    config = daily(config, tmp_path)
    drop(tmp_path, D1, [event("a", at=f"{D1}T08:00:00Z"), event("b", at=f"{D1}T09:00:00Z")])
    late = [event("c", at=f"{D1}T10:00:00Z"), event("a", at=f"{D1}T08:00:00Z", ingested_at=f"{D2}T03:00:00Z")]
    drop(tmp_path, D2, [event("d", at=f"{D2}T08:00:00Z"), *late])
    ingest.run(config, D1, "one")
    assert ids(spark, config, D1) == {"a", "b", f"s-{D1}"}
    files = set(Path(config.lake.root).rglob("*"))
    with caplog.at_level("INFO"), dry_run(True):
        told = ingest.run(config, D2, "two")
    assert set(Path(config.lake.root).rglob("*")) == files
    for day, new in ((D1, 1), (D2, 2)):
        assert f"dry run: events where ds = '{day}': {new} rows would be new, 0 would go" in caplog.text
    result = ingest.run(config, D2, "two")
    assert told == result and result["reasons"] == {"interactions: duplicate": 1} and result["rows"]["events"] == 3
    assert ids(spark, config, D1) == {"a", "b", "c", f"s-{D1}"} and ids(spark, config, D2) == {"d", f"s-{D2}"}
    before = {table.name: current_version(spark, config, table) for table in (EVENTS, ITEMS, QUARANTINE, CHECKS)}
    assert ingest.run(config, D1, "one again")["rows"]["events"] == 3
    assert ingest.run(config, D2, "two again") == result
    assert {table.name: current_version(spark, config, table) for table in (EVENTS, ITEMS, QUARANTINE, CHECKS)} == before
    # The drop is corrected: what it gave to another day goes with it, and what other drops gave stays.
    drop(tmp_path, D2, [event("d", at=f"{D2}T08:00:00Z")])
    ingest.run(config, D2, "corrected")
    assert ids(spark, config, D1) == {"a", "b", f"s-{D1}"}
    assert read(spark, config, QUARANTINE).count() == 0


@pytest.mark.fault("R1")
def test_a_log_that_repeats_itself_stops_no_night_and_two_that_count_alike_lose_nothing(spark, config, tmp_path):
    """At the default limits: half of the drop is told twice, and both logs number their rows from 1, also those that the next day sends again."""
    config = daily(config, tmp_path, max_quarantine_share=Ingest().max_quarantine_share)
    clicks = [event(str(n), user=f"u{n}", at=f"{D1}T08:00:00Z") for n in range(4)]
    searches = [asked(str(n), user=f"v{n}", at=f"{D1}T09:00:00Z") for n in range(4)]
    drop(tmp_path, D1, clicks + clicks, searches)
    assert ingest.run(config, D1, "one")["reasons"] == {"interactions: duplicate": 4}
    assert checks(spark, config, D1)["interactions.duplicate_share"].value == 0.5
    later = [asked(str(n), user=f"w{n}", at=f"{D2}T09:00:00Z") for n in range(4, 8)]
    drop(tmp_path, D2, [event(str(n), user=f"w{n}", at=f"{D2}T08:00:00Z") for n in range(4, 8)] + clicks, later)
    ingest.run(config, D2, "two")
    kept = {(row["surface"], row["event_id"]) for row in read(spark, config, EVENTS).collect()}
    assert kept == {(surface, str(n)) for surface in ("recommendation", "search") for n in range(8)}


def test_a_day_that_another_run_has_written_meanwhile_is_left_to_it(spark, config, tmp_path, monkeypatch):
    """While the drop of D2, which adds to D1, is judged, that of D3, which does too, is ingested."""
    config = daily(config, tmp_path)
    for day, late in ((D1, []), (D2, [event("b", at=f"{D1}T09:00:00Z")]), (D3, [event("c", at=f"{D1}T10:00:00Z")])):
        drop(tmp_path, day, [event(f"a-{day}", at=f"{day}T08:00:00Z"), *late])
    ingest.run(config, D1, "one")
    judged = ingest.accepted_days

    def meanwhile(*values):
        monkeypatch.setattr(ingest, "accepted_days", judged)
        ingest.run(config, D3, "three")
        return judged(*values)

    monkeypatch.setattr(ingest, "accepted_days", meanwhile)
    with pytest.raises(Transient, match=f"events of {D1}"):
        ingest.run(config, D2, "two")
    assert "c" in ids(spark, config, D1)
    ingest.run(config, D2, "two, again")
    assert ids(spark, config, D1) == {f"a-{D1}", "b", "c", f"s-{D1}"} and ids(spark, config, D2) == {f"a-{D2}", f"s-{D2}"}


def test_too_many_bad_rows_stop_the_night_with_the_events_as_they_were(spark, config, tmp_path):
    config = daily(config, tmp_path, max_quarantine_share=0.25, warn_quarantine_share=0.1)
    drop(tmp_path, D1, [event(f"a{n}", at=f"{D1}T08:00:00Z") for n in range(4)])
    ingest.run(config, D1, "one")
    drop(tmp_path, D2, [event("b", at=f"{D2}T08:00:00Z"), event("c", at=f"{D2}T08:00:00Z", item="nowhere"), event("d", at=f"{D1}T10:00:00Z")])
    before = current_version(spark, config, EVENTS), current_version(spark, config, ITEMS)
    with pytest.raises(BadData, match=r"interactions\.quarantine_share: found 0\.33\d*, allowed 0\.25"):
        ingest.run(config, D2, "two")
    assert (current_version(spark, config, EVENTS), current_version(spark, config, ITEMS)) == before
    assert [(row["reason"], row["run_id"]) for row in read(spark, config, QUARANTINE, at=D2).collect()] == [("unknown item_id", "two")]
    found = checks(spark, config, D2)
    assert not found["interactions.quarantine_share"].passed and found["searches.quarantine_share"].passed


def test_history_at_once_from_one_gzipped_log_then_day_by_day(spark, config, tmp_path):
    config = daily(config, tmp_path, base_day=D2)
    config = only_interactions(
        config,
        path=f"{tmp_path}/log.tsv.gz",
        format="tsv",
        timestamp_unit="s",
        default_action="purchase",
        columns={"user_id": "user", "item_id": "item", "event_ts": "timestamp", "ingested_at": "loaded"},
    )

    def second(day, hour):
        return int(datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp())

    old = second(date(2011, 3, 1), 0)
    table = [
        ("user", "item", "timestamp", "loaded"),
        ("u1", "i1", old, ""),
        ("u1", "i2", old, ""),
        ("u2", '"i3"', old, ""),  # TSV has no quoting
        ("u2", "i3", second(D2, 23), ""),
        ("u3", "i3", "yesterday", ""),
        ("u3", "i3"),  # cut off
        ("u4", "i1", second(D3, 5), ""),
        ("u4", "i2", second(D2, 5), f"{D3}T06:00:00Z"),
        ("u4", "i3", second(D3, 5), second(D3, 6)),
        ("u4", "i4", second(D3, 5), "2026-11-21T01:00:00Z"),
    ]
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress("".join("\t".join(map(str, line)) + "\n" for line in table).encode()))
    with pytest.raises(BadArgument, match=r"--date 2026-11-18: expected 2026-11-19 or later.*ingest\.base_day"):
        ingest.run(config, D1, "early")
    first = ingest.run(config, D2, "base")
    assert first["rows_in"]["interactions"] == 6
    assert first["reasons"] == {"interactions: bad event_ts": 1, "interactions: malformed": 1, "interactions: unknown item_id": 1}
    rows_of = [(row["user_id"], row["item_id"], row["event_ts"].date(), row["ds"]) for row in read(spark, config, EVENTS).collect()]
    assert sorted(rows_of) == [("u1", "i1", date(2011, 3, 1), D2), ("u1", "i2", date(2011, 3, 1), D2), ("u2", "i3", D2, D2)]
    # The rows that tell no time belong to the run before; a new one of the same look is counted.
    path.write_bytes(gzip.compress("".join("\t".join(map(str, line)) + "\n" for line in [*table, ("u3", "i3")]).encode()))
    second_run = ingest.run(config, D3, "next")
    assert second_run["rows_in"]["interactions"] == 4
    assert second_run["reasons"] == {"interactions: late_beyond_window": 1, "interactions: malformed": 1}
    assert {row["item_id"] for row in read(spark, config, EVENTS, at=D3).collect()} == {"i1", "i3"}


def test_history_at_once_from_daily_drops(spark, config, tmp_path):
    config = only_interactions(daily(config, tmp_path, base_day=D2))
    drop(tmp_path, D1, [event("a", at="2001-01-01"), event("b", at=f"{D1}T08:00:00Z"), event("f", at=f"{D2}T01:00:00Z")])
    drop(tmp_path, D2, [event("a", at="2001-01-01"), event("c", at=f"{D2}T08:00:00Z")])
    drop(tmp_path, D3, [event("d", at=f"{D3}T08:00:00Z")])
    result = ingest.run(config, D2, "base")
    # `f` was delivered before it happened; the second `a` is the later delivered one.
    assert result["reasons"] == {"interactions: duplicate": 1, "interactions: future": 1}
    assert ids(spark, config, D2) == {"a", "b", "c"} and result["rows_in"]["interactions"] == 5


@pytest.mark.fault("R1")
def test_conservation_and_winners_do_not_depend_on_the_order_of_rows(spark):
    """Twenty random days, each in three orders and partitionings: the oracle's winners, the same rows refused, none lost (R1)."""
    draw, days = random.Random(5), []
    for _ in range(20):
        lines = []
        for n in range(draw.randint(1, 30)):
            at = f"2026-11-20T10:00:{draw.randint(0, 4):02d}.000Z"
            lines.append((f"e{draw.randint(0, 12)}", f"u{draw.randint(0, 2)}", draw.choice(["i1", "i1", "i9"]), at, f"2026-11-20T11:00:{n % 3:02d}Z"))
        days.append(lines + draw.sample(lines, len(lines) // 4))  # byte-identical replays
    outcomes = []
    for order in range(3):
        shuffled = []
        for trial, lines in enumerate(days):
            for name, user, item, at, loaded in random.Random(order).sample(lines, len(lines)):
                # Trials share one frame, and nothing else.
                values = [f"{trial}-{name}", f"{trial}-{user}", item, at, loaded]
                shuffled.append((*values, "click", json.dumps(values)))
        names = "event_id STRING, user_id STRING, item_id STRING, event_ts STRING, ingested_at STRING, action STRING, raw STRING"
        frame = spark.createDataFrame(random.Random(order).sample(shuffled, len(shuffled)), names).repartition(1 + 2 * order)
        text = frame.selectExpr("*", "CAST(NULL AS STRING) query", "CAST(NULL AS STRING) session_id", "CAST(NULL AS STRING) sequence", "false malformed")
        typed = rows.log_rows(text.withColumn("drop", F.lit(D3)), "interactions", Source(path="-", format="jsonl")).withColumn("arrival", F.lit(D3))
        items = spark.createDataFrame([("i1", None)], "item_id STRING, reason STRING")
        limits = Ingest(max_events_per_user_day=9)
        outcomes.append(ingest.judge(ingest.judge_alone(typed, items, limits, D3), None, limits).toPandas())
    columns = ["event_id", "user_id", "event_ts", "ingested_at", "payload_hash", "reason"]
    judged = [outcome[columns].fillna("").sort_values(columns, ignore_index=True) for outcome in outcomes]
    assert judged[0].equals(judged[1]) and judged[0].equals(judged[2])
    accepted, refused = outcomes[0][outcomes[0].reason.isna()], outcomes[0][outcomes[0].reason.notna()]
    assert len(accepted) + len(refused) == sum(map(len, days)) and set(refused.reason) == {"unknown item_id", "bot", "duplicate"}
    found = zip(accepted.event_id, accepted.event_ts.dt.strftime("%H:%M:%S"), accepted.ingested_at.dt.strftime("%H:%M:%S"), strict=True)
    assert {name: (at, loaded) for name, at, loaded in found} == oracle(days, 9)


def oracle(days: list, most: int) -> dict[str, tuple[str, str]]:
    """event_id → earliest (event_ts, ingested_at) among the rows of known items of users that are no bots."""
    winners: dict[str, tuple[str, str]] = {}
    for trial, lines in enumerate(days):
        known = [line for line in lines if line[2] == "i1"]
        rows_of = Counter(user for _, user, *_ in known)
        for name, user, _, at, loaded in known:
            if rows_of[user] <= most:
                moment = (at[11:19], loaded[11:19])
                winners[f"{trial}-{name}"] = min(winners.get(f"{trial}-{name}", moment), moment)
    return winners


@pytest.mark.fault("R4", "R6")
def test_broken_or_missing_input_writes_nothing_and_says_what(spark, config, tmp_path):
    config = daily(config, tmp_path)
    lake = Path(config.lake.root)
    with pytest.raises(MissingInput, match=r"warehouse\.interactions\.path = .*interactions-2026-11-20\.json.*2026-11-20"):
        ingest.run(config, D3, "r")
    drop(tmp_path, D3, [])
    with pytest.raises(BadData, match=r"EMPTY_INPUT: warehouse\.interactions holds no rows for 2026-11-20"):
        ingest.run(config, D3, "r")
    drop(tmp_path, D3, [{"customer": "u1", "item_id": "i1", "event_ts": "2026-11-20"}, "half a row"])
    with pytest.raises(BadData, match=r"expected column 'user_id' \(our user_id\), found it in none of 1 rows, which hold customer, event_ts, item_id"):
        ingest.run(config, D3, "r")
    whole = gzip.compress(b"".join(json.dumps(event(str(n), user=str(n * 7919))).encode() + b"\n" for n in range(5000)))
    (tmp_path / "half.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadData, match=r"half\.json\.gz is damaged, half written.*EOFException"):
        ingest.run(only_interactions(config, path=f"{tmp_path}/half.json.gz"), D3, "r")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and then the power went")
    with pytest.raises(BadData, match=r"half\.parquet is damaged"):
        ingest.run(only_interactions(config, path=f"{tmp_path}/half.parquet", format="parquet"), D3, "r")
    write(tmp_path / "two/a.csv", ["user_id,item_id,event_ts,action", "u1,i1,2026-11-20,click"])
    write(tmp_path / "two/b.csv", ["item_id,user_id,event_ts,action", "i1,u1,2026-11-20,click"])
    with pytest.raises(BadData, match=r"[ab]\.csv is damaged, half written or unlike the others \(.*header does not conform"):
        ingest.run(only_interactions(config, path=f"{tmp_path}/two", format="csv"), D3, "r")
    with pytest.raises(BadData, match=r"expected a Delta table at .*two, found none"):
        ingest.run(only_interactions(config, path=f"{tmp_path}/two", format="delta"), D3, "r")
    with pytest.raises(BadArgument, match=r"warehouse\.interactions\.columns names 'usr': expected one of user_id"):
        ingest.run(only_interactions(config, columns={"usr": "x"}), D3, "r")
    assert not lake.exists()


@pytest.mark.fault("R6")
def test_an_empty_day_is_written_only_when_it_is_allowed(spark, config, tmp_path):
    config = only_interactions(daily(config, tmp_path))
    drop(tmp_path, D2, [event("a", at=f"{D2}T08:00:00Z")])
    ingest.run(config, D2, "one")
    drop(tmp_path, D2, [event("a", at="2026-01-01")])  # rows, but none of the day
    before = current_version(spark, config, EVENTS)
    with pytest.raises(BadData, match="EMPTY_INPUT: no event of 2026-11-19 was accepted"):
        ingest.run(config, D2, "none left")
    assert current_version(spark, config, EVENTS) == before
    (tmp_path / f"interactions-{D2}.json").unlink()
    assert ingest.run(config, D2, "allowed", allow_empty=True)["rows"]["events"] == 0
    assert ids(spark, config, D2) == set()


@pytest.mark.fault("R7")
def test_a_volume_unlike_last_week_is_refused_from_seven_days_on(spark, config):
    create(spark, config, EVENTS)

    def past(days: range, each: int) -> None:
        frame = spark.range(len(days) * each).selectExpr(
            "CAST(id AS STRING) event_id",
            "'u' user_id",
            "'i' item_id",
            "'recommendation' surface",
            "'click' action",
            "CAST(NULL AS STRING) query",
            "CAST(NULL AS STRING) session_id",
            f"CAST(date_add(DATE'2026-11-01', CAST({days.start} + id % {len(days)} AS INT)) AS TIMESTAMP) event_ts",
            "0L sequence",
        )
        frame = frame.withColumn("ingested_at", F.col("event_ts")).withColumn("ds", F.to_date("event_ts"))
        frame.write.format("delta").mode("append").save(path_of(config, EVENTS))

    def change(config: Config, day: date, count: int) -> list:
        return [(check.value, check.passed) for check in ingest.volumes(spark, config, day, {("interactions", None, day): count}, {"interactions": count})]

    past(range(6), 10)
    assert change(config, date(2026, 11, 7), 1) == [], "six days are no week"
    past(range(6, 7), 1000)
    assert change(config, date(2026, 11, 8), 16) == [(pytest.approx(0.6), False)], "the median does not mind one strange day"
    assert change(config, date(2026, 11, 8), 5) == [(0.5, True)]
    based = config.model_copy(update={"ingest": Ingest(base_day=date(2026, 11, 1))})
    assert change(based, date(2026, 11, 8), 16) == [], "the base partition is no day"


@pytest.mark.parametrize("name", ["amazon_beauty", "amazon_toys", "amazon_toys_known_item", "movielens_small"])
def test_examples_load(name, monkeypatch):
    path = Path(__file__).parents[1] / "examples" / f"{name}.toml"
    monkeypatch.delenv("TANDEM_DATA", raising=False)
    with pytest.raises(BadArgument, match=r"\$\{TANDEM_DATA\}, which is not set"):
        load(str(path))
    monkeypatch.setenv("TANDEM_DATA", "/data")
    config = load(str(path))
    assert config.ingest.base_day and config.warehouse.searches.path.startswith("/data/") and config.lake.root != Config().lake.root
    values = [line for line in path.read_text().splitlines() if " = " in line and line.startswith(("path", "base", "valid", "test", "max", "root"))]
    assert len(values) >= 6
