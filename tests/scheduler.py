"""Airflow beside the tests: its environment, the DAG file as it reads it, and a home whose database stays in a temporary folder."""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
BEFORE = ["doctor", "ingest", "build_corpora", "embed_items", "assign_identifiers", "train", "evaluate"]
NIGHT = [*BEFORE, "recommend", "search", "suggest", "release", "report"]
TRAINING = ["doctor", "embed_items", "assign_identifiers", "train", "evaluate"]


def airflow_environment(home: Path, **settings: str) -> dict[str, str]:
    ours = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": False, "AIRFLOW__CORE__DAGS_FOLDER": DAGS, "AIRFLOW__CORE__UNIT_TEST_MODE": False}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "TANDEM"))}
    return kept | {name: str(value) for name, value in ours.items()} | settings


def python(code: str, *arguments: Any, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True, timeout=500)


def load(name: str, environment: dict[str, str]) -> ModuleType:
    """The DAG file as Airflow reads it in this environment; Airflow's logging stays out of the other tests."""
    handlers, level = logging.root.handlers[:], logging.root.level
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("TANDEM")]:
            patch.delenv(key)
        for key, value in environment.items():
            patch.setenv(key, value)
        spec = importlib.util.spec_from_file_location(name, DAGS / "tandem.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    logging.root.handlers[:], logging.root.level = handlers, level
    return module
