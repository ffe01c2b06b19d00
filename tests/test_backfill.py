"""`airflow backfill create` as data engineers type it, under a running scheduler, with a stub in the jobs' place."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from scheduler import NIGHT, airflow_environment, stub_at

DAYS = ["2026-11-02", "2026-11-03", "2026-11-04"]
SERVICES = ("dag-processor", "api-server", "scheduler")


def until(wanted: Callable[[], bool], what: str, logs: Path, seconds: float = 400) -> None:
    """Wait until it is so; fail with what the services said."""
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, what + "".join(f"\n== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(logs.glob("*.log")))
        time.sleep(1)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Airflow's own processes, each as `airflow NAME`; on its second day `build_corpora` refuses its input once."""
    home, stub = tmp_path_factory.mktemp("airflow"), stub_at(tmp_path_factory.mktemp("stub"), {f"{DAYS[1]} build_corpora": [65, 0]})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"AIRFLOW__API__HOST": "127.0.0.1", "AIRFLOW__API__PORT": port, "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}", "AIRFLOW__API__WORKERS": 1}
    address |= {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/", "AIRFLOW__CORE__PARALLELISM": 4}
    # No run of last night beside those of the backfill.
    # SQLite gives up after 5 seconds by default, and a scheduler beside busy tests has held its lock for longer.
    address |= {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60"}
    environment = airflow_environment(home, TANDEM_PYTHON=str(stub), AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE="False", **{k: str(v) for k, v in address.items()})

    def asked(query: str) -> list[tuple]:
        with closing(sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    def no_backfill() -> bool:
        return not asked("SELECT id FROM backfill WHERE completed_at IS NULL")

    def command(*words: str) -> str:
        # A transaction of SQLite's that has read what another has written since is refused at once, whatever the timeout: it is typed again.
        for _ in range(5):
            done = subprocess.run([sys.executable, "-m", "airflow", *words], env=environment, cwd=home, capture_output=True, text=True, timeout=300)
            if "database is locked" not in done.stderr:
                break
            # Airflow keeps a backfill before it makes its runs, one by one, and refuses a second beside it: what was cut short ends first, within two minutes
            # if it has no run. Its days are left alone then, as days with a run are.
            until(no_backfill, "the backfill that was cut short does not end", home)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
        return done.stdout

    command("db", "migrate")
    started = []
    for name in SERVICES:
        with (home / f"{name}.log").open("w") as log:
            words = [sys.executable, "-m", "airflow", name]
            started.append(subprocess.Popen(words, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True))
    try:
        until(lambda: ("tandem_nightly",) in asked("SELECT dag_id FROM dag"), "the DAG processor has not seen the nightly DAG", home)
        command("dags", "unpause", "-y", "tandem_nightly")
        yield SimpleNamespace(home=home, calls=stub.with_name("calls.jsonl"), command=command, asked=asked, no_backfill=no_backfill)
    finally:
        for service in started:
            os.killpg(service.pid, signal.SIGKILL)
            service.wait()


def filled(airflow: SimpleNamespace, first: str, last: str, *options: str) -> tuple[dict[str, str], Counter[str]]:
    """Day → state of its run, once none is under way; and how often each step was asked to run, by this backfill."""
    before = len(airflow.calls.read_text().splitlines()) if airflow.calls.exists() else 0
    airflow.command("backfill", "create", "--dag-id", "tandem_nightly", "--from-date", first, "--to-date", last, *options)
    until(airflow.no_backfill, "the backfill does not end", airflow.home)
    states = dict(airflow.asked("SELECT substr(data_interval_start, 1, 10), state FROM dag_run"))
    return states, Counter(json.loads(line)["key"] for line in airflow.calls.read_text().splitlines()[before:])


def whole(*days: str) -> Counter[str]:
    return Counter(f"{day} {verb}" for day in days for verb in NIGHT)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.fault("R25")
def test_a_range_of_days_then_what_failed_and_then_one_day_again(airflow: SimpleNamespace) -> None:
    would = airflow.command("backfill", "create", "--dag-id", "tandem_nightly", "--from-date", DAYS[0], "--to-date", DAYS[2], "--dry-run")
    assert all(day in would for day in DAYS) and not airflow.calls.exists()
    states, calls = filled(airflow, DAYS[0], DAYS[2], "--max-active-runs", "3")
    assert states == {"2026-11-02": "success", "2026-11-03": "failed", "2026-11-04": "success"}
    assert calls == whole(DAYS[0], DAYS[2]) + Counter(f"{DAYS[1]} {verb}" for verb in ("doctor", "ingest", "build_corpora"))
    # Days that have a run are left alone, unless it is said which are not.
    assert filled(airflow, DAYS[0], DAYS[2]) == (states, Counter())
    states, calls = filled(airflow, DAYS[0], DAYS[2], "--reprocess-behavior", "failed")
    assert (set(states.values()), calls) == ({"success"}, whole(DAYS[1]))
    states, calls = filled(airflow, DAYS[2], DAYS[2], "--reprocess-behavior", "completed")
    assert (set(states.values()), calls) == ({"success"}, whole(DAYS[2]))
