"""The fault campaign, `make chaos`: kill -9 at random points of every step, hostile parameters, parallel backfill, resumed weights, and all fault tests.

    python tests/benchmarks/chaos.py [--kills 20] [--steps release train …] [--parts kills hostile backfill resume rows] [--home .tandem/chaos]

Writes tests/benchmarks/results/faults.json and a file per headline figure; `python tests/benchmarks/readme.py` shows them. All that is done is kept below
--home, part by part and kill by kill: begun again, it goes on. A part that was left out is left out of the table, too.
The world is small (120 users, 60 items), as a kill is about moments and not about sizes: a step takes seconds, of which its kills pick random ones.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from figures import HERE, REPOSITORY, commit, keep, origin, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kills import PUBLISHED, Reader, campaign, compare, rows_of, start

from jobs.__main__ import main as command_line
from jobs.run import STEPS
from jobs.sections import Recommend

sys.path.insert(0, str(HERE.parent))

NIGHT = date(2026, 11, 19)
FIRST = NIGHT - timedelta(days=3)  # its night makes the model; the days between are published with it
BACKFILL = ("build_corpora", "recommend", "search", "release")
SEED = 7
SMALL = [
    *("simulate.users=120", "simulate.items=60", "simulate.clusters=4", "simulate.days=14", "simulate.bad_share=0", "simulate.late_share=0"),
    *("train.epochs=2", "train.warm_epochs=2", "train.text_vocabulary=400", "train.checkpoint_steps=5", "evaluate.bootstrap=20"),
    *("gate.beat_popularity=false", "gate.max_drop=1", "gate.min_coverage_ratio=0", f"ingest.base_day={FIRST - timedelta(days=1)}"),
    *("release.max_volume_change=9", "ingest.max_volume_change=9", "spark.master=local[2]", "spark.shuffle_partitions=2"),
]


def world(home: Path) -> list[str]:
    """The settings of every command line: the lake and the warehouse below the campaign's home."""
    logs = {"interactions": "interactions/ds={ds}", "searches": "searches/ds={ds}", "catalogue": "catalogue"}
    sources = [f"warehouse.{name}={{path='{home}/warehouse/{path}',format='jsonl'}}" for name, path in logs.items()]
    return [f"lake.root={home / 'lake'}", f"simulate.path={home / 'warehouse'}", *sources, *SMALL]


def run(asked: list[str], *commands: tuple[str, date]) -> int:
    """The commands one after the other in one process, so that the JVM starts once; the exit code of the first that fails, or 0."""
    settings = [word for each in asked for word in ("--set", each)]
    lines = [[verb, "--date", str(day), *settings] for verb, day in commands]
    code = "import json, sys; from jobs.__main__ import main; sys.exit(next((code for code in map(main, json.loads(sys.argv[1])) if code), 0))"
    return subprocess.run([sys.executable, "-c", code, json.dumps(lines)], stdout=subprocess.DEVNULL, check=False).returncode


def prepare(home: Path) -> dict[str, float]:
    """Simulate, serve one night, publish the days after it, then make the night step by step: copies of the lake before each step and at the end.

    Returns how long each step of the night took once Spark was up.
    """
    kept = home / "straight.json"
    if kept.exists():
        return json.loads(kept.read_text())
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    asked, lake = world(home), home / "lake"
    between = [FIRST + timedelta(days=n) for n in range(1, (NIGHT - FIRST).days)]
    made = [("simulate", NIGHT), *((verb, FIRST - timedelta(days=1)) for verb in ("ingest", "build_corpora")), ("run", FIRST)]
    made += [(verb, day) for day in between for verb in ("ingest", *BACKFILL)]
    told(f"prepare: {len(made)} commands up to {NIGHT - timedelta(days=1)}")
    assert run(asked, *made) == 0, "a command failed in an undisturbed lake"
    seconds = {}
    for verb in STEPS:
        shutil.copytree(lake, home / "before" / verb)
        told(f"prepare: {verb} {NIGHT}, undisturbed")
        process = start(asked, [verb, "--date", str(NIGHT)])
        begun = time.monotonic()
        assert process.wait() == 0, f"{verb} failed in an undisturbed lake"
        seconds[verb] = time.monotonic() - begun
    shutil.copytree(lake, home / "before" / "end")
    kept.write_text(json.dumps(seconds))
    return seconds


def kills(home: Path, steps: list[str], count: int) -> dict[str, Any]:
    """Each step's campaign; the reference is the lake that the undisturbed step left."""
    seconds, made = prepare(home), {}
    after = dict(zip(STEPS, [*STEPS[1:], "end"], strict=True))
    for step in steps:
        before = home / "before" / step
        reference = rows_of(home / "before" / after[step])
        shutil.rmtree(home / "lake", ignore_errors=True)
        shutil.copytree(before, home / "lake")
        end = home / "before" / "end"
        whole = {name: {0, Reader(end, {}, "").count(name, str(NIGHT), None)} for name in PUBLISHED}
        reader = Reader(home / "lake", whole, str(NIGHT))
        reader.start()
        told(f"kills: {step}, {count} within {seconds[step]:.1f} s of work")
        command = [step, "--date", str(NIGHT)]
        made[step] = campaign(home / "lake", before, world(home), command, reference, seconds[step], reader, count, SEED, home / "trials.jsonl")
        reader.stopped.set()
        reader.join()
        told(f"kills: {step}: {made[step]}")
    return {"steps": made}


def hostile(home: Path) -> dict[str, Any]:
    """A thousand hostile command lines: all are refused with 64, and no file of the lake changes."""
    prepare(home)
    lake, tried = home / "before" / "end", 0
    files, whole = fingerprint(lake), rows_of(lake)
    text = st.text(max_size=60)
    spoilt = st.one_of(text, text.map(lambda tail: f"{NIGHT}{tail}x"), st.sampled_from([f"{NIGHT}' OR '1'='1", f"{NIGHT}\n", "../x", "２０２６-１１-１９", ""]))
    places = st.sampled_from(["--date={}", "--run-id=/{}", "--set={}", "--set=lake.root.{}=1", "--config=/nowhere/{}", "--result=/nowhere/{}", "{}", "--{}"])

    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st.sampled_from([*STEPS, "rollback", "maintain"]), places, spoilt)
    def refused(verb: str, place: str, value: str) -> None:
        nonlocal tried
        asked = [verb, f"--date={NIGHT}", "--set", f"lake.root={lake}", place.format(value)]
        if value == "" and place in ("{}", "--{}"):
            asked[-1] = " "
        with contextlib.redirect_stderr(io.StringIO()):
            assert command_line(asked) == 64, asked
        tried += 1

    refused()
    return {"tried": tried, "rows_changed": sum(compare(whole, rows_of(lake))), "files_changed": len(files.items() ^ fingerprint(lake).items())}


def fingerprint(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def backfill(home: Path) -> dict[str, Any]:
    """Four days made again side by side, with shorter answers, each with Airflow's three retries."""
    prepare(home)
    shutil.rmtree(home / "lake", ignore_errors=True)
    shutil.copytree(home / "before" / "end", home / "lake")
    days = [FIRST + timedelta(days=n) for n in range(4)]

    before = Reader(home / "lake", {}, "")
    served = [before.count("recommendations", str(day), None) // Recommend().k for day in days]

    def night(day: date) -> dict[str, Any]:
        tries = []
        for verb in BACKFILL:
            codes: list[int] = []
            while 0 not in codes and len(codes) < 4:
                codes.append(run([*world(home), "recommend.k=7", "spark.driver_memory=1g"], (verb, day)))
            tries.append(codes)
        return {"day": str(day), "codes": tries, "ok": all(codes[-1] == 0 for codes in tries)}

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(night, days))
    found = [before.count("recommendations", str(day), None) for day in days]
    whole = [each["ok"] and rows == 7 * users for each, rows, users in zip(done, found, served, strict=True)]
    return {"days": done, "rows": found, "ok": sum(whole) / len(days)}


def resume(home: Path) -> dict[str, Any]:
    """The largest difference between the weights of a training and of the same one killed three times."""
    from test_train import weight_delta

    folder = home / "resume"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return {"max_weight_delta": weight_delta(folder, 3)}


def rows(home: Path) -> dict[str, Any]:
    """Every test that injects a row of the fault table: a row passes when all of its tests do, and a skipped one does not."""
    home.mkdir(parents=True, exist_ok=True)
    report = home / "faults.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "fault", "-n", "2", "--dist", "loadfile", f"--junitxml={report}", "tests"]
    subprocess.run(command, cwd=REPOSITORY, check=False)
    return {"passed": judged(report)}


def judged(report: Path) -> dict[str, bool]:
    """Row → whether all of its tests passed, of pytest's JUnit report."""
    passed: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        good = not any(case.find(name) is not None for name in ("failure", "error", "skipped"))
        for each in case.iter("property"):
            if each.get("name") == "fault":
                passed[each.get("value", "")] = passed.get(each.get("value", ""), True) and good
    return dict(sorted(passed.items(), key=lambda item: int(item[0][1:])))


def once(home: Path, name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The part's outcome, from the file that an earlier campaign left or made now."""
    kept = home / f"{name}.json"
    if not kept.exists():
        began = time.monotonic()
        told = {"commit": commit()}
        kept.write_text(json.dumps(part() | told | {"seconds": round(time.monotonic() - began)}))
    return json.loads(kept.read_text())


def told(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


def figures(parts: dict[str, dict[str, Any]], common: dict[str, Any]) -> list[dict[str, Any]]:
    """The headline figures of what was run, each with the commit that its part was run at."""
    found: list[tuple[str, str, float, str]] = []
    if "rows" in parts:
        found.append(("rows", "faults_passed", sum(parts["rows"]["passed"].values()), "rows of the fault table, of 50"))
    if "kills" in parts:
        steps = parts["kills"]["steps"].values()
        found.append(("kills", "kills_survived", sum(step["kills"] for step in steps if step["code"] == 0), "kills"))
        found.append(("kills", "rows_lost", sum(step["lost"] + step["doubled"] for step in steps), "rows"))
        found.append(("kills", "partial_days_seen", sum(step["partial"] for step in steps), "polls"))
    if "hostile" in parts:
        found.append(("hostile", "hostile_parameters_tried", parts["hostile"]["tried"], "parameters"))
        found.append(("hostile", "rows_changed_by_them", parts["hostile"]["rows_changed"], "rows"))
    if "backfill" in parts:
        found.append(("backfill", "parallel_backfill_days_ok", parts["backfill"]["ok"], "fraction of four days"))
    if "resume" in parts:
        found.append(("resume", "resume_max_weight_delta", parts["resume"]["max_weight_delta"], "absolute difference"))
    made = []
    for part, name, value, unit in found:
        made.append({"figure": name, "value": value, "unit": unit, "ci": None, "rival": None, "rival_value": None})
        write(made[-1:], common | {"commit": parts[part]["commit"]})
    return made


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20, help="per step")
    options.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options.add_argument(
        "--parts", nargs="+", choices=("kills", "hostile", "backfill", "resume", "rows"), default=["kills", "hostile", "backfill", "resume", "rows"]
    )
    options.add_argument("--home", default=".tandem/chaos")
    chosen = options.parse_args()
    home = Path(chosen.home).absolute()
    made = {"kills": lambda: kills(home, chosen.steps, chosen.kills), "hostile": lambda: hostile(home), "backfill": lambda: backfill(home)}
    made |= {"resume": lambda: resume(home), "rows": lambda: rows(home)}
    parts = {name: once(home, f"{name}-{chosen.kills}-{len(chosen.steps)}" if name == "kills" else name, made[name]) for name in chosen.parts}
    usual = vars(options.parse_args([]))  # what differs from the defaults, but for the place it was done in
    asked = {name: value for name, value in vars(chosen).items() if name != "home" and value != usual[name]}
    words = [word for name, value in asked.items() for word in (f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)]))]
    command = " ".join(["python tests/benchmarks/chaos.py", *words])
    common = origin(command, "simulated, 120 users, 60 items", [SEED])
    held = common | {"minutes": round(sum(part["seconds"] for part in parts.values()) / 60), "figures": figures(parts, common), **parts}
    keep("faults", held)
    told(f"written: {HERE / 'results' / 'faults.json'}")
    return 0


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    sys.exit(main())
