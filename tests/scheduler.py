"""Airflow beside the tests: its environment, the DAG file as it reads it, a home whose database stays in a temporary folder, a stub in the jobs' place."""

import importlib.util
import json
import logging
import os
import stat
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


STUB = """
import json, os, pathlib, signal, subprocess, sys, time

home, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
option = dict(zip(arguments, arguments[1:]))
key = f"{option['--date']} {option['jobs']}"
calls = home / "calls.jsonl"
before = [json.loads(line)["key"] for line in calls.read_text().splitlines()] if calls.exists() else []
with calls.open("a") as log:
    secrets = sorted(name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_")))
    log.write(json.dumps({"key": key, "arguments": arguments, "secrets": secrets}) + "\\n")
plan = json.loads((home / "plan.json").read_text()).get(key, [0])
act = plan[min(before.count(key), len(plan) - 1)]
print("stub says", key, act)
if act in ("hang", "term"):
    inner = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"])
    (home / f"{key}.pids").write_text(f"{os.getpid()} {inner.pid}")
    if act == "term":
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(300)
if "--result" in option:
    pathlib.Path(option["--result"]).write_text(json.dumps({"rows": {key: 3}, "path": "reports/day.html", "share": float("nan")}))
sys.exit(act)
"""


def stub_at(folder: Path, plan: dict[str, list[Any]]) -> Path:
    """An executable for TANDEM_PYTHON that does as it is planned, try by try: "DAY VERB" → exit codes, "hang" or "term"; 0 where nothing is. What it was
    asked to do lies beside it in calls.jsonl."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{STUB}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "plan.json").write_text(json.dumps(plan))
    return path


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
