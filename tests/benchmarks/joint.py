"""Does one model for both tasks pay on a real log? Joint training against each task alone, for the same epochs and for as many steps.

    TANDEM_DATA=… python tests/benchmarks/joint.py amazon_toys --seeds 0 1 2          (or amazon_toys_known_item, movielens_small)

Runs `python -m jobs study joint` on the log of examples/NAME.toml, as the night is configured there, in a lake below --lake: what is trained
there already is not trained again. Writes tests/benchmarks/results/joint_NAME.json, from which `python tests/benchmarks/readme.py` makes the
README's tables.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from figures import REPOSITORY, keep, origin
from nights import DAYS
from studies import bare

from jobs.config import load

FIRST_STEPS = ("ingest", "build_corpora", "embed_items", "assign_identifiers")


def reached(lake: Path, day: date) -> dict[str, dict[str, list[float]]]:
    """Task → "MODEL.METRIC@K" → its value of each seed, over all test examples; from the lake's `studies`."""
    rows = DeltaTable(str(lake / "studies")).to_pyarrow_table(filters=[("ds", "=", day), ("study", "=", "joint")]).sort_by("seed").to_pylist()
    made: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        model, _, figure = row["figure"].partition(".all.")
        if figure:
            made.setdefault(row["side"], {}).setdefault(f"{model}.{figure}", []).append(round(row["value"], 5))
    return made


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=sorted(DAYS))
    options.add_argument("--lake", type=Path, default=Path(".tandem/benchmarks/joint"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_toys and movielens_small", file=sys.stderr)
        return 69
    config, lake = REPOSITORY / "examples" / f"{chosen.name}.toml", chosen.lake.resolve() / chosen.name
    day = load(str(config), []).ingest.base_day
    lake.mkdir(parents=True, exist_ok=True)
    settings = [f"lake.root={lake}", f"study.seeds={chosen.seeds}", *chosen.set]
    overrides = [part for each in settings for part in ("--set", each)]

    def verb(*words: str, result: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "jobs", *words, "--date", str(day), "--config", str(config), *overrides, "--result", str(result)]
        subprocess.run(command, check=True, cwd=REPOSITORY)
        return json.loads(result.read_text())

    for step in FIRST_STEPS:
        if not (lake / f"{step}.json").exists():
            verb(step, result=lake / f"{step}.json")
    done = verb("study", "joint", result=lake / "study.json")
    said = " ".join([f"python tests/benchmarks/joint.py {chosen.name} --seeds", *map(str, chosen.seeds), *(f"--set '{each}'" for each in chosen.set)])
    written = {
        **origin(said, chosen.name, chosen.seeds),
        "advice": done["advice"],
        "logs": bare(done["logs"]),
        "reached": reached(lake, day),
        "gains": {name: bare(tuple(value)) for name, value in done["gains"].items()},
    }
    keep(f"joint_{chosen.name}", written)
    print(f"the page: {done['path']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
