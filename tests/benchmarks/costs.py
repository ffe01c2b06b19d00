"""What a night costs, step by step, and how that grows with users, with what they do, and with items.

    python tests/benchmarks/costs.py [--quick]

Nights on simulated warehouses: one to begin with, then four and sixteen times its users, four and sixteen times its items, four times its events a user.
History is loaded at once; the night of the day after is measured: wall seconds, CPU seconds of the whole process tree, peak memory, and bytes shuffled (from
Spark's own event log). A step's growth is the exponent that fits its CPU seconds best; an estimate for 100 million users and 10 million items follows from the
largest nights and the exponents, training being one epoch and in proportion. Each night is a process of its own. Writes
tests/benchmarks/results/speed_costs.json. Run it while nothing else runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from figures import REPOSITORY, keep, origin

DAY = date(2026, 11, 19)
BEGIN = {"users": 1000, "items": 500, "events_per_user": 12}
NIGHTS = [("users", 1), ("users", 4), ("users", 16), ("items", 4), ("items", 16), ("events_per_user", 4)]
WANTED = {"users": 100_000_000, "items": 10_000_000, "events_per_user": 12}
SEEN = 0.3  # of a step's CPU seconds: build_corpora took 8.3, 5.9 and 6.6 s of three logs of one size
SETTINGS = ["simulate.days=30", "simulate.bad_share=0", "simulate.late_share=0", "train.epochs=1", "train.warm_start=false", "gate.beat_popularity=false"]
SETTINGS += ["gate.max_drop=1", "gate.min_coverage_ratio=0", f"ingest.base_day={DAY - timedelta(days=1)}", "corpora.valid_days=2", "corpora.test_days=2"]


def cpu_seconds() -> float:
    """Of this process and its children, those that have ended among them."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def night(world: dict[str, int], folder: Path) -> list[dict[str, Any]]:
    """Per step: verb, seconds, cpu_seconds, peak_mb, shuffled_mb."""
    import importlib

    from jobs.config import load
    from jobs.run import STEPS, PeakMemory
    from jobs.spark import session

    places = [f"lake.root={folder / 'lake'}", f"simulate.path={folder / 'warehouse'}"]
    logs = {"interactions": "interactions/ds={ds}", "searches": "searches/ds={ds}", "catalogue": "catalogue"}
    places += [f"warehouse.{name}={{path='{folder}/warehouse/{path}', format='jsonl'}}" for name, path in logs.items()]
    events = folder / "events"
    events.mkdir()
    told = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": str(events), "spark.eventLog.compress": "false", "spark.eventLog.rolling.enabled": "false"}
    config = load(None, [*places, *SETTINGS, *(f"simulate.{key}={value}" for key, value in world.items()), "spark.driver_memory=8g"])
    config = config.model_copy(update={"spark": config.spark.model_copy(update={"conf": told})})
    importlib.import_module("jobs.simulate").run(config, DAY, "costs")
    for verb in ("ingest", "build_corpora"):
        importlib.import_module(f"jobs.{verb}").run(config, DAY - timedelta(days=1), "costs")
    steps = []
    for verb in STEPS:
        begun, used = time.time(), cpu_seconds()
        with PeakMemory() as memory:
            importlib.import_module(f"jobs.{verb}").run(config, DAY, "costs")
        ended = time.time()
        steps.append({"verb": verb, "begun": begun, "ended": ended, "cpu_seconds": round(cpu_seconds() - used, 1), "peak_mb": memory.peak_mb})
    session(config).stop()
    shuffled = [(event["Task Info"]["Finish Time"] / 1000, bytes_shuffled(event)) for event in tasks(events)]
    for step in steps:
        begun, ended = step.pop("begun"), step.pop("ended")
        step |= {"seconds": round(ended - begun, 1), "shuffled_mb": round(sum(size for at, size in shuffled if begun <= at <= ended) / 1e6, 1)}
    return steps


def tasks(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in folder.iterdir() for line in path.read_text(encoding="utf-8").splitlines() if '"SparkListenerTaskEnd"' in line]
    return [json.loads(line) for line in lines]


def bytes_shuffled(event: dict[str, Any]) -> int:
    return (event.get("Task Metrics") or {}).get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)


def growth(nights: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Step → of each of users, items and events_per_user: by what power its CPU seconds grow over all sizes, start of the step included, and how many
    of them each further one costs between the two largest sizes, where the start weighs least; None where these differ by less than SEEN."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for knob in BEGIN:
        of_knob = [each for each in nights if all(each["world"][other] == BEGIN[other] for other in BEGIN if other != knob)]
        for n, step in enumerate(of_knob[0]["steps"]):
            sizes, used = np.array([(each["world"][knob], each["steps"][n]["cpu_seconds"]) for each in of_knob]).T
            power = float(np.polyfit(np.log(sizes), np.log(np.maximum(used, 0.1)), 1)[0])
            seen = used[-1] - used[-2] > SEEN * used[-1]
            each = float((used[-1] - used[-2]) / (sizes[-1] - sizes[-2])) if seen else None
            found.setdefault(step["verb"], {})[knob] = {"power": round(power, 2), "each": each}
    return found


def estimate(growing: dict[str, dict[str, dict[str, float | None]]]) -> dict[str, float | None]:
    """Step → core-hours at WANTED, each user and item in proportion; None where neither was seen to cost anything."""
    more = {verb: [WANTED[knob] * each for knob in ("users", "items") if (each := of[knob]["each"]) is not None] for verb, of in growing.items()}
    return {verb: sum(seconds) / 3600 if seconds else None for verb, seconds in more.items()}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="the first two nights alone, and nothing is written: that it runs")
    options.add_argument("--world", type=json.loads, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.world:
        (chosen.folder / "steps.json").write_text(json.dumps(night(chosen.world, chosen.folder)))
        return 0
    nights = []
    for knob, times in NIGHTS[:2] if chosen.quick else NIGHTS:
        world = {**BEGIN, knob: BEGIN[knob] * times}
        with tempfile.TemporaryDirectory(prefix="costs-") as name:
            subprocess.run([sys.executable, __file__, "--world", json.dumps(world), "--folder", name], cwd=REPOSITORY, check=True)
            steps = json.loads(Path(name, "steps.json").read_text())
        nights.append({"world": world, "steps": steps})
        print(world, {step["verb"]: (step["seconds"], step["cpu_seconds"]) for step in steps}, flush=True)
    if chosen.quick:
        return 0
    growing = growth(nights)
    common = origin("python tests/benchmarks/costs.py", "simulated", [7])
    found = {"nights": nights, "growth": growing, "wanted": WANTED, "core_hours": estimate(growing)}
    keep("speed_costs", {**found, **common})
    return 0


if __name__ == "__main__":
    sys.exit(main())
