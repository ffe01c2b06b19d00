"""GenSR's central claim on worlds of known information, as figures: what `python -m jobs study information` finds (arXiv 2504.06714).

    python tests/benchmarks/gensr_information.py [--lake FOLDER] [--set study.points=ends]

A lake that is named is kept, and a study that was cut off there goes on. Writes tests/benchmarks/results/information.json, of which readme.py makes the
README's table, and a file per headline figure: bounds are the mean of both tasks, cosines of all of the encoder's blocks.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import REPOSITORY, keep, origin, write

TASKS = ("recommend", "search")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", type=Path)
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    lake = chosen.lake or Path(tempfile.mkdtemp(prefix="information-"))
    lake.mkdir(parents=True, exist_ok=True)
    settings = [part for each in (f"lake.root={lake}", *chosen.set) for part in ("--set", each)]
    command = [sys.executable, "-m", "jobs", "study", "information", *settings, "--result", str(lake / "information.json")]
    code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
    if code:
        return code
    done = json.loads((lake / "information.json").read_text())
    command = " ".join(["python tests/benchmarks/gensr_information.py", *(f"--set {shlex.quote(each)}" for each in chosen.set)])
    told = origin(command, "simulated: model/pair_worlds.py", done["seeds"])
    arms = {arm: {name: [round(x, 4) if x == x else None for x in value] for name, value in figures.items()} for arm, figures in done["figures"].items()}
    keep("information", {**told, "core_seconds": done["core_seconds"], "verdict": done["verdict"], "arms": arms})
    write([figure(arms, arm, kind) for arm in ("gensr", "twin") for kind in ("mi_bound", "gradient_cosine")], told)
    print(done["verdict"])
    return 0


def figure(arms: dict[str, dict[str, list]], arm: str, kind: str) -> dict:
    other = "twin" if arm == "gensr" else "gensr"
    if kind == "gradient_cosine":
        mean, low, high = arms[arm]["cosine_all"]
        rival, unit = arms[other]["cosine_all"][0], "cosine"
    else:
        mean, low, high = (None if None in values else sum(values) / len(TASKS) for values in zip(*(arms[arm][f"bound.{task}"] for task in TASKS), strict=True))
        rival, unit = sum(arms[other][f"bound.{task}"][0] for task in TASKS) / len(TASKS), "nats"
    return {"figure": f"{arm}_{kind}", "value": mean, "unit": unit, "ci": None if low is None else [low, high], "rival": other, "rival_value": rival}


if __name__ == "__main__":
    sys.exit(main())
