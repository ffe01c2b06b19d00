"""The whole night on real data: time and memory of every step, and quality against every baseline.

    TANDEM_DATA=… python tests/benchmarks/nights.py amazon_toys          (or amazon_toys_known_item, movielens_small)

Runs `python -m jobs run` in a lake of its own (under --lake, emptied first) and writes tests/benchmarks/results/night_NAME.json, from
which `python tests/benchmarks/readme.py` makes the README's tables. Run it while nothing else runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from deltalake import DeltaTable
from figures import REPOSITORY, keep, origin, write

DAYS = {"amazon_toys": "2014-07-23", "amazon_toys_known_item": "2014-07-23", "movielens_small": None}


def quality(lake: Path, day: str) -> list[dict]:
    """Every method's figures over all test examples, from the lake's `metrics`."""
    table = DeltaTable(str(lake / "metrics")).to_pyarrow_table()
    rows = [row for row in table.to_pylist() if row["slice"] == "all" and str(row["ds"]) == day]
    return [{key: row[key] for key in ("method", "task", "metric", "k", "value", "ci_low", "ci_high", "n")} for row in rows]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=sorted(DAYS))
    options.add_argument("--lake", default=".tandem/benchmarks")
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_toys and movielens_small", file=sys.stderr)
        return 69
    config = REPOSITORY / "examples" / f"{chosen.name}.toml"
    day = DAYS[chosen.name] or next(line.split("=")[1].split("#")[0].strip() for line in config.read_text().splitlines() if line.startswith("base_day"))
    lake = Path(chosen.lake) / chosen.name
    shutil.rmtree(lake, ignore_errors=True)
    lake.mkdir(parents=True)
    result = lake / "result.json"
    settings = [f"lake.root={lake}", *chosen.set]
    command = [sys.executable, "-m", "jobs", "run", "--date", day, "--config", str(config), *(part for each in settings for part in ("--set", each))]
    started = time.monotonic()
    code = subprocess.run([*command, "--result", str(result)], check=False).returncode
    if code:
        return code
    seconds = time.monotonic() - started
    steps = [{key: step[key] for key in ("verb", "seconds", "peak_mb")} for step in json.loads(result.read_text())["steps"]]
    written = {
        **origin(f"python tests/benchmarks/nights.py {chosen.name}" + "".join(f" --set {each}" for each in chosen.set), chosen.name, [7]),
        "day": day,
        "seconds": round(seconds, 1),
        "steps": steps,
        "quality": quality(lake, day),
    }
    keep(f"night_{chosen.name}", written)
    figures(written)
    return 0


def figures(night: dict) -> None:
    """The night's headline figures, a file each (design.md section 9)."""
    of = {step["verb"]: step for step in night["steps"]}
    common = {key: night[key] for key in ("command", "data", "seeds", "machine", "date", "commit")}
    named = [
        ("night_seconds", night["seconds"], "s", None, 3600.0),
        ("ingest_and_corpora_seconds", of["ingest"]["seconds"] + of["build_corpora"]["seconds"], "s", None, 90.0),
        ("inference_seconds", of["recommend"]["seconds"] + of["search"]["seconds"], "s", None, 600.0),
        ("peak_mb", max(step["peak_mb"] for step in night["steps"]), "MB", None, 6000.0),
    ]
    rows = [
        {"figure": f"{night['data']}_{name}", "value": value, "unit": unit, "ci": ci, "rival": "the issue's limit", "rival_value": rival}
        for name, value, unit, ci, rival in named
    ]
    for task in ("recommend", "search"):
        held = {row["method"]: row for row in night["quality"] if row["task"] == task and row["metric"] == "ndcg" and row["k"] == 10}
        rivals = {method: row["value"] for method, row in held.items() if method not in ("model", "served")}
        if "model" in held and rivals:
            best, own = max(rivals, key=rivals.__getitem__), held["model"]
            figure = {"figure": f"{night['data']}_{task}_ndcg10", "value": own["value"], "unit": "fraction", "ci": [own["ci_low"], own["ci_high"]]}
            rows.append({**figure, "rival": best, "rival_value": rivals[best]})
    write(rows, common)


if __name__ == "__main__":
    sys.exit(main())
