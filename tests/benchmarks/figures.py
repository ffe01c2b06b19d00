"""What every benchmark says of its figures (design.md section 9), and the folder they are kept in."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def origin(command: str, data: str, seeds: Sequence[int], *packages: str, more: str = "") -> dict[str, Any]:
    """Where figures come from; the packages' versions, and what more there is to say, stand beside the machine."""
    told = ", ".join([machine(), *(f"{package} {version(package)}" for package in packages), *([more] if more else [])])
    return {"command": command, "data": data, "seeds": list(seeds), "machine": told, "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit()}


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**9
    return f"{os.cpu_count()}-core {model}, {memory} GB, {'a GPU' if Path('/dev/nvidia0').exists() else 'no GPU'}"


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def ratio(figure: str, above: Sequence[float], below: Sequence[float], rival: str, rival_value: float) -> dict[str, Any]:
    """The ratio of two medians of rounds that took turns, with the least and the largest ratio of any round."""
    turns = [a / b for a, b in zip(above, below, strict=True)]
    held = {"figure": figure, "value": median(above) / median(below), "unit": "ratio", "ci": [min(turns), max(turns)]}
    return {**held, "rival": rival, "rival_value": rival_value}


def keep(name: str, table: dict[str, Any]) -> None:
    """As results/NAME.json, which `readme.py` and the next run of the benchmark read."""
    (HERE / "results" / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n")


def write(figures: list[dict[str, Any]], common: dict[str, Any]) -> None:
    """A file per headline figure."""
    for figure in figures:
        keep(figure["figure"], {**figure, **common})
