"""What the README says of tables and numbers is what the code and the result files say."""

import importlib.util
import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "tests" / "benchmarks" / "results"
FIGURE = {"figure", "value", "unit", "ci", "rival", "rival_value", "command", "data", "seeds", "machine", "date", "commit"}


def test_generated_parts_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("readme", REPOSITORY / "tests" / "benchmarks" / "readme.py")
    assert spec and spec.loader
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert readme.main(["--check"]) == 0


@pytest.mark.parametrize("path", sorted(p for p in RESULTS.glob("*.json") if not p.stem.startswith(("night_", "study_"))), ids=lambda path: path.stem)
def test_a_figure_says_all_that_it_must(path: Path) -> None:
    held = json.loads(path.read_text())
    assert set(held) == FIGURE and held["figure"] == path.stem and isinstance(held["value"], (int, float)) and len(held["seeds"]) >= 1
