"""The fences: dags → jobs → udfs → model, and what each room may load. A planted breach shows that each fence stands."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("jobs", "udfs", "model")
HEAVY = {"pyspark", "delta", "torch", "transformers", "airflow", "pandas"}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the rooms below `root`, whatever is installed."""
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in memory after the statement, in a fresh interpreter away from the checkout."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def module_level_imports(path: Path) -> set[str]:
    """Top-level names imported when the file is imported: everything outside functions."""
    found, waiting = set(), list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def test_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "breach", "contract"),
    [
        ("udfs", "from jobs import tables", "one way"),
        ("model", "import udfs", "one way"),
        ("model", "import pyspark.sql", "neither Spark nor Airflow"),
        ("jobs", "from airflow.sdk import dag", "do not know Airflow"),
    ],
)
def test_planted_breach_is_found(copy: Path, room: str, breach: str, contract: str) -> None:
    planted = copy / room / "planted.py"
    planted.write_text(f"def late():\n    {breach}\n    return locals()\n")
    done = lint(copy)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if "BROKEN" in line]
    assert len(broken) == 1 and contract in broken[0]
    assert f"{room}.planted" in done.stdout


@pytest.mark.parametrize("module", ["jobs.__main__", "jobs.config", "jobs.sections", "jobs.tables", "jobs.errors", "jobs.served", "jobs.views"])
def test_light_modules_stay_light(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_planted_heavy_import_is_seen() -> None:
    assert "pandas" in loaded_by("import jobs.config, pandas")


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by("from jobs.__main__ import main; main([])") & HEAVY == set()


def test_udfs_import_heavy_libraries_only_inside_functions() -> None:
    breaches = {path.name: module_level_imports(path) & {"torch", "transformers", "model", "jobs", "airflow"} for path in (ROOT / "udfs").glob("*.py")}
    assert {name: names for name, names in breaches.items() if names} == {}


def test_module_level_imports_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("try:\n    import torch\nexcept ImportError:\n    pass\nclass A:\n    from transformers import T5Config\ndef f():\n    import model\n")
    assert module_level_imports(path) == {"torch", "transformers"}


def test_linter_bans_a_heavy_import_in_a_light_file(tmp_path: Path) -> None:
    planted = "import torch\n\nprint(torch)\n"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--stdin-filename", str(ROOT / "jobs" / "tables.py"), "-"],
        input=planted,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "TID253" in done.stdout
