"""Kill a step at random moments while a reader polls what is published, let a retry finish it, and count what was lost, doubled or half seen.

    done = campaign(lake, before, command, reference, kills=20, seed=7, kept=Path("trials.jsonl"))

`before` is a copy of the lake as it was before the step, `reference` the rows that an undisturbed step leaves. Driver, JVM, a Python worker, or all
of them get the SIGKILL. A trial that ends before its kill does not count. Trials are kept, one JSON line each: begun again, a campaign goes on.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from deltalake import DeltaTable

from jobs.tables import TABLES

PUBLISHED = ("recommendations", "search_results")
TARGETS = ("all", "driver", "java", "worker")
# Tables that tell of executions: what an undisturbed night writes there is not what a killed one does.
TOLD = ("releases", "lineage", "checks")
# Columns that hold times, and a hash over them; the weights are compared by themselves.
TIMED = {"models": ("curve", "artifact_hash")}
# Begins with a line once Spark is up, so that a kill falls into the step and not into the start of the JVM.
UP = "import os, sys; from jobs.config import load; from jobs.spark import session; session(load(None, sys.argv[1].split())); print('UP', flush=True); "
UP += "from jobs.__main__ import main; code = main(sys.argv[2:]); sys.stdout.flush(); os._exit(code)"

Rows = dict[str, Counter]


def rows_of(lake: Path) -> Rows:
    """Table → hashes of its rows with their counts, and of the models' weights."""
    found: Rows = {}
    for name, table in TABLES.items():
        if name in TOLD or not (lake / name / "_delta_log").exists():
            continue
        kept = [column for column in table.names if column not in (*table.volatile, *TIMED.get(name, ()))]
        rows = DeltaTable(str(lake / name)).to_pyarrow_dataset().to_table(columns=kept).to_pylist()
        found[name] = Counter(hashlib.sha256(json.dumps(row, default=str, sort_keys=True).encode()).hexdigest() for row in rows)
    weights = sorted((lake / "artifacts").glob("*/model.safetensors"))
    found["weights"] = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in weights)
    return found


def compare(reference: Rows, found: Rows) -> tuple[int, int]:
    """Rows of the reference that are missing, and rows too many."""
    names = reference.keys() | found.keys()
    none: Counter = Counter()
    return tuple(sum(sum((a.get(name, none) - b.get(name, none)).values()) for name in names) for a, b in ((reference, found), (found, reference)))


class Reader(threading.Thread):
    """Polls the served release and the newest version of the published tables until it is stopped; counts days that are not whole."""

    # A class for what a thread shares with its owner: a lock to hold it off while the lake is put back, and the counts.
    def __init__(self, lake: Path, sizes: dict[str, set[int]], day: str, pause: float = 0.02) -> None:
        super().__init__(daemon=True)
        self.lake, self.sizes, self.day, self.pause = lake, sizes, day, pause
        self.hold, self.stopped = threading.Lock(), threading.Event()
        self.polls, self.partial = 0, 0

    def run(self) -> None:
        while not self.stopped.wait(self.pause):
            with self.hold:
                self.poll()

    def poll(self) -> None:
        releases = DeltaTable(str(self.lake / "releases")).to_pyarrow_table().sort_by([("released_at", "descending")]).to_pylist()
        served = next(row for row in releases if row["status"] != "backfilled")
        for name in PUBLISHED:
            version = json.loads(served["output_versions"])[name]
            whole = json.loads(served["counts"])[name]["rows"]
            self.partial += self.count(name, str(served["ds"]), version) != whole
            self.partial += self.count(name, self.day, None) not in self.sizes[name]
        self.polls += 1

    def count(self, name: str, day: str, version: int | None) -> int:
        return len(DeltaTable(str(self.lake / name), version=version).to_pyarrow_table(partitions=[("ds", "=", day)], columns=["rank"]))


def start(settings: list[str], command: list[str]) -> subprocess.Popen[str]:
    """The step as a process group of its own; returns once its Spark session is up."""
    arguments = [sys.executable, "-c", UP, " ".join(settings), *command, *(word for each in settings for word in ("--set", each))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("UP"):
            break
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return process


def kill(process: subprocess.Popen[str], target: str) -> None:
    """SIGKILL to the target; what it leaves behind gets a minute to notice, and then the same."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        chosen = [
            child for child in family if (child.name() == "java" if target == "java" else "pyspark" in " ".join(child.cmdline()) and child.name() != "java")
        ]
        if target == "driver":
            os.kill(process.pid, signal.SIGKILL)
        elif target == "all" or not chosen:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            chosen[-1].kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)  # by Popen alone: psutil would reap it, and its exit code would be lost
    process.kill()
    for left in psutil.wait_procs(family, timeout=60)[1]:
        left.kill()


def campaign(
    lake: Path, before: Path, settings: list[str], command: list[str], reference: Rows, seconds: float, reader: Reader, kills: int, seed: int, kept: Path
) -> dict[str, Any]:
    """Kill the command `kills` times within its `seconds` of work, then let it end; a trial killed is the next one's beginning."""
    step = command[0]
    trials = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    mine = [trial for trial in trials if trial["step"] == step]
    done = next((trial for trial in mine if trial["target"] == "none"), None)
    if done:
        return done

    def keep(**trial: Any) -> dict[str, Any]:
        with kept.open("a") as file:
            file.write(json.dumps({"step": step, **trial}) + "\n")
        mine.append(trial)
        return trial

    put_back(before, lake, reader)
    while sum(not trial["ended"] for trial in mine) < kills:
        draw = random.Random(f"{seed} {step} {len(mine)}")
        target, delay = draw.choice(TARGETS), draw.uniform(0, seconds)
        process = start(settings, command)
        time.sleep(delay)
        ended = process.poll() == 0
        kill(process, target)
        code = process.wait(1200)  # as long as a retry may take: the kill may have missed
        keep(target=target, delay=round(delay, 3), ended=ended or code == 0, code=code)
        if mine[-1]["ended"]:
            put_back(before, lake, reader)
    codes: list[int] = []
    while 0 not in codes and len(codes) < 4:  # the first try and three retries, as under Airflow
        process = start(settings, command)
        codes.append(process.wait(1200))
    lost, doubled = compare(reference, rows_of(lake))
    return keep(target="none", ended=True, code=codes[-1], lost=lost, doubled=doubled, kills=kills, polls=reader.polls, partial=reader.partial)


def put_back(before: Path, lake: Path, reader: Reader) -> None:
    with reader.hold:
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(before, lake)
