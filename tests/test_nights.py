"""Whole nights through Airflow's `dag.test()`, against a real metadata database, with a stub in the jobs' place.

The stub is a real executable at TANDEM_PYTHON: it logs its arguments and ends as its plan says. What the steps do is not tested here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scheduler import DAGS, NIGHT, TRAINING, airflow_environment, python, stub_at

DRIVER = """
import json, pathlib, sys, time
from datetime import UTC, datetime, timedelta
from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session

wanted, answer = json.loads(pathlib.Path(sys.argv[1]).read_text()), {}
for name, night in wanted.items():
    # Parsed anew: dag.test() leaves a run's conf in the parameters of the DAG it was given.
    dag = DagBag(sys.argv[2]).dags[night.get("dag", "tandem_nightly")]
    for task in dag.tasks:
        task.retry_delay, task.retry_exponential_backoff = timedelta(0), 0
        task.retries, task.execution_timeout = night.get("retries", 3), timedelta(seconds=night.get("seconds", 60))
    logical_date = datetime.fromisoformat(night["at"]).replace(tzinfo=UTC) if night.get("at") else None
    try:
        run = dag.test(logical_date=logical_date, run_conf=night.get("conf"))
    except Exception as error:
        answer[name] = {"raised": type(error).__name__, "message": str(error)}
        continue
    with create_session() as session:
        pulled = session.query(XComModel).filter(XComModel.run_id == run.run_id, XComModel.dag_id == dag.dag_id)
        xcoms = {f"{x.task_id}.{x.key}": XComModel.deserialize_value(x) for x in pulled}
    states = {ti.task_id: [ti.state and str(ti.state), ti.try_number] for ti in run.get_task_instances()}
    answer[name] = {"state": str(run.state), "tasks": states, "run_id": run.run_id, "xcoms": xcoms}
pathlib.Path(sys.argv[3]).write_text(json.dumps(answer))
"""

# Each night: when, and how its steps end, try by try. `at` is the logical date of a manual run, so the data day is the day before.
PLANS: dict[str, dict[str, Any]] = {
    "good": {"at": "2026-11-02"},
    "refused": {"at": "2026-11-03", "plan": {"ingest": [65]}},
    "misconfigured": {"at": "2026-11-04", "plan": {"doctor": [64]}},
    "missing": {"at": "2026-11-05", "plan": {"doctor": [69]}},
    "transient": {"dag": "tandem_training", "at": "2026-11-17", "plan": {"embed_items": [75, 75, 0], "train": [70, 0]}},
    "exhausted": {"at": "2026-11-07", "plan": {"doctor": [75]}},
    "hanging": {"at": "2026-11-08", "plan": {"doctor": ["hang"]}, "seconds": 3, "retries": 0},
    "killed": {"at": "2026-11-09", "plan": {"doctor": ["term"]}, "retries": 0},
    "dateless": {},
    "by_parameter": {"dag": "tandem_training", "conf": {"ds": "2026-10-05"}},
    "wrong_parameter": {"conf": {"ds": "2026-13-45"}},
}


def day_of(night: dict[str, Any]) -> str:
    if night.get("conf"):
        return night["conf"]["ds"]
    if night.get("dag"):
        return "2026-11-14"  # the Saturday before Sunday noon, 2026-11-15
    return (date.fromisoformat(night["at"]) - timedelta(days=1)).isoformat() if night.get("at") else "none"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = {f"{day_of(night)} {verb}": acts for night in PLANS.values() for verb, acts in night.get("plan", {}).items()}
    return stub_at(tmp_path_factory.mktemp("stub"), plan)


@pytest.fixture(scope="module")
def nights(home: Path, stub: Path) -> Iterator[SimpleNamespace]:
    """All nights of PLANS, run once by Airflow against a real metadata database."""
    pager = stub.parent / "pager.py"
    pager.write_text("import pathlib\ndef page(line):\n    with pathlib.Path(__file__).with_suffix('.log').open('a') as log: log.write(line + '\\n')\n")
    environment = airflow_environment(
        home, TANDEM_PYTHON=str(stub), TANDEM_CONFIG="night.toml", TANDEM_SET="train.epochs=1", TANDEM_ALERT="pager:page", PYTHONPATH=str(stub.parent)
    )
    migrated = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, cwd=home, capture_output=True, text=True)
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    (home / "wanted.json").write_text(json.dumps(PLANS))
    done = python(DRIVER, home / "wanted.json", DAGS, home / "answer.json", environment=environment, cwd=home)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    calls = [json.loads(line) for line in (stub.parent / "calls.jsonl").read_text().splitlines()]
    yield SimpleNamespace(runs=json.loads((home / "answer.json").read_text()), calls=calls, log=done.stdout + done.stderr, alerts=pager.with_suffix(".log"))


def verbs(nights: SimpleNamespace, name: str) -> list[str]:
    """What the stub was asked to do on a night, in order."""
    return [call["key"].split()[1] for call in nights.calls if call["key"].split()[0] == day_of(PLANS[name])]


@pytest.mark.fault("R50")
def test_good_night_types_the_verbs_in_order(nights: SimpleNamespace) -> None:
    run = nights.runs["good"]
    assert run["state"] == "success"
    ran = verbs(nights, "good")
    assert sorted(ran) == sorted(NIGHT) and ran[:7] == NIGHT[:7] and set(ran[7:10]) == set(NIGHT[7:10]) and ran[10:] == NIGHT[10:]
    call = next(call["arguments"] for call in nights.calls if call["key"] == "2026-11-01 ingest")
    expected = ["-m", "jobs", "ingest", "--date", "2026-11-01", "--config", "night.toml", "--set", "train.epochs=1", "--run-id", run["run_id"], "--result"]
    assert call[:-1] == expected
    assert all(call["secrets"] == [] for call in nights.calls), "Airflow's own settings hold its database password"


def test_output_is_the_log_and_the_result_is_the_xcom(nights: SimpleNamespace) -> None:
    assert "stub says 2026-11-01 ingest 0" in nights.log
    xcoms = nights.runs["good"]["xcoms"]
    assert xcoms["ingest.return_value"] == {"rows": {"2026-11-01 ingest": 3}, "path": "reports/day.html", "share": "NaN"}
    assert xcoms["report._link_ReportPage"].startswith("file:///") and xcoms["report._link_ReportPage"].endswith("reports/day.html")


@pytest.mark.fault("R28")
@pytest.mark.parametrize(("night", "step", "code"), [("refused", "ingest", 65), ("misconfigured", "doctor", 64), ("missing", "doctor", 69)])
def test_refusal_is_tried_once_and_stops_the_night(nights: SimpleNamespace, night: str, step: str, code: int) -> None:
    run = nights.runs[night]
    assert run["state"] == "failed"
    assert run["tasks"][step] == ["failed", 1]
    assert verbs(nights, night) == NIGHT[: NIGHT.index(step) + 1]
    assert run["tasks"]["release"][0] == "upstream_failed"
    assert f"{step}: exit {code}, " in nights.log


@pytest.mark.fault("R28")
def test_transient_failure_and_bug_are_retried(nights: SimpleNamespace) -> None:
    run = nights.runs["transient"]
    assert run["state"] == "success"
    assert run["tasks"]["embed_items"] == ["success", 3] and run["tasks"]["train"] == ["success", 2]
    assert verbs(nights, "transient") == ["doctor", *["embed_items"] * 3, "assign_identifiers", *["train"] * 2, "evaluate"]


@pytest.mark.fault("R28")
def test_retries_end(nights: SimpleNamespace) -> None:
    assert nights.runs["exhausted"]["tasks"]["doctor"] == ["failed", 4]
    assert verbs(nights, "exhausted") == ["doctor"] * 4


@pytest.mark.fault("R44")
@pytest.mark.parametrize("night", ["hanging", "killed"])
def test_time_limit_and_kill_end_the_whole_process_group(nights: SimpleNamespace, stub: Path, night: str) -> None:
    assert nights.runs[night]["tasks"]["doctor"] == ["failed", 1]
    for pid in (stub.parent / f"{day_of(PLANS[night])} doctor.pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z", f"process {pid} outlived its task"


@pytest.mark.fault("R23")
def test_run_without_day_fails_at_once_and_names_the_parameter(nights: SimpleNamespace) -> None:
    run = nights.runs["dateless"]
    assert run["state"] == "failed" and run["tasks"]["day"] == ["failed", 1]
    assert {state for name, (state, _) in run["tasks"].items() if name != "day"} == {"upstream_failed"}
    assert "it needs the parameter ds" in nights.log


@pytest.mark.fault("R23", "R26")
def test_parameter_gives_the_day(nights: SimpleNamespace) -> None:
    assert nights.runs["by_parameter"]["state"] == "success"
    assert verbs(nights, "by_parameter") == TRAINING
    assert nights.runs["wrong_parameter"]["raised"] == "ParamValidationError"
    assert verbs(nights, "wrong_parameter") == []


def test_training_is_a_full_one_of_saturday(nights: SimpleNamespace) -> None:
    calls = [call["arguments"] for call in nights.calls if call["key"].startswith("2026-11-14")]
    assert date(2026, 11, 14).strftime("%A") == "Saturday"
    assert {call[2] for call in calls} == set(TRAINING)
    assert all(call[call.index("train.epochs=1") + 1 :][:2] == ["--set", "train.warm_start=false"] for call in calls)


def test_one_alert_per_failed_night(nights: SimpleNamespace) -> None:
    alerts = nights.alerts.read_text().splitlines()
    failed = ["refused", "misconfigured", "missing", "exhausted", "hanging", "killed", "dateless"]
    assert [re.search(r" ds=(\S+)", line).group(1) for line in alerts] == [day_of(PLANS[name]) for name in failed]
    assert re.match(r"ALERT dag=tandem_nightly task=ingest ds=2026-11-02 try=1 reason=task failed log=http\S+ served=see releases: .*$", alerts[0])
    assert "ALERT dag=tandem_nightly task=ingest" in nights.log
