"""Does one task help the other? The studies' headline figures: gain of joint training in R@30, on worlds whose answer is known.

    python tests/benchmarks/studies.py                     (h1, h2 and cap; or name some of them)
    python tests/benchmarks/studies.py h1 --lake FOLDER --set study.points=ends --set 'study.seeds=[0]'

Runs `python -m jobs study` for each, in a lake at --lake (one that is named is kept, and a study that was cut off there goes on; the default
is a temporary folder). From the lake's table `studies` it writes tests/benchmarks/results/study_SUBJECT.json, of which
`python tests/benchmarks/readme.py` makes the README's table, and a file per headline figure.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from figures import REPOSITORY, keep, origin, write

from jobs import study

SUBJECTS = ("h1", "h2", "cap")
SAID = ("side", "knob", "kl", "redundancy", "added", "gain", "gain_same_steps", "above_floor", "recall", "purity")


def points(lake: Path, subject: str, day: date) -> list[dict[str, Any]]:
    """The study's points, as its page shows them, from its rows in `studies`; in the order of the sides and the knob."""
    table = DeltaTable(str(lake / "studies")).to_pyarrow_table(partitions=[("ds", "=", str(day)), ("study", "=", subject)])
    figures: dict[tuple[str, float, int], dict[str, float]] = {}
    for row in table.to_pylist():
        of = figures.setdefault((row["side"], row["knob"], row["seed"]), {"kl": math.nan, "redundancy": math.nan})
        of[row["figure"]] = row["value"]
    keys = sorted(figures)
    settings = [{"knob": knob, "cell": {"read": side, "seed": seed}} for side, knob, seed in keys]
    return study.points(settings, [figures[key] for key in keys])


def bare(value: Any) -> Any:
    """The value for JSON, which has neither nan nor infinity; an interval of one seed is its mean alone."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items()}
    return [bare(each) for each in value] if isinstance(value, tuple) else value


def headlines(subject: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data-poor recommendation's gain at both ends of the knob; beside it the gain over the single-task model of as many steps."""
    named = {"h1": ("h1_gain_at_kl0", "h1_gain_at_max_kl"), "h2": ("h2_gain_low", "h2_gain_high")}.get(subject, ())
    poor = [point for point in found if point["side"] == "recommend"]
    rows = []
    for name, point in zip(named, (poor[0], poor[-1]) if named else (), strict=True):
        mean, low, high = bare(point["gain"])
        figure = {"figure": name, "value": mean, "unit": "fraction", "ci": None if low is None else [low, high]}
        rows.append({**figure, "rival": "gain over the single-task model of as many steps", "rival_value": bare(point["gain_same_steps"])[0]})
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("subjects", nargs="*", default=SUBJECTS, metavar="SUBJECT")
    options.add_argument("--lake", type=Path)
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    lake = chosen.lake or Path(tempfile.mkdtemp(prefix="studies-"))
    day = datetime.now(UTC).date()
    for subject in chosen.subjects:
        settings = [part for each in (f"lake.root={lake}", *chosen.set) for part in ("--set", each)]
        result = lake / f"{subject}.json"
        lake.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "jobs", "study", subject, "--date", str(day), *settings, "--result", str(result)]
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        if code:
            return code
        found, done = points(lake.absolute(), subject, day), json.loads(result.read_text())
        command = " ".join(["python tests/benchmarks/studies.py", subject, *(f"--set '{each}'" for each in chosen.set)])
        common = origin(command, "simulated: model/worlds.py", done["seeds"])
        written = {**common, "study": subject, "core_seconds": done["core_seconds"], "points": [{name: bare(point[name]) for name in SAID} for point in found]}
        keep(f"study_{subject}", written)
        write(headlines(subject, found), common)
        print(f"the page: {done['path']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
