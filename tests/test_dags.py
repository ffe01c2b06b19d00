"""The DAG file: policy, the day, the command lines, and whole nights through `dag.test()` with a stub in the jobs' place.

The stub is a real executable at TANDEM_PYTHON: it logs its arguments and ends as its plan says. What the steps do is not tested here.
"""

import ast
import importlib.util
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.__main__ import VERBS
from jobs.config import parse_day, parse_run_id

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "dags"
FILE = DAGS / "tandem.py"
TIERS = {"tier-1", "tier-2", "tier-3"}
NIGHT = ["doctor", "ingest", "build_corpora", "embed_items", "assign_identifiers", "train", "evaluate", "recommend", "search", "release", "report"]
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
        spec = importlib.util.spec_from_file_location(name, FILE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    logging.root.handlers[:], logging.root.level = handlers, level
    return module


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def module(home: Path) -> ModuleType:
    return load("tandem_dags", {key: value for key, value in airflow_environment(home).items() if key.startswith("AIRFLOW")})


@pytest.fixture(scope="module")
def dags(module: ModuleType) -> dict[str, Any]:
    return {dag.dag_id: dag for dag in (module.tandem_nightly_dag, module.tandem_training_dag)}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stub")
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{STUB}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    plan = {f"{day_of(night)} {verb}": acts for night in PLANS.values() for verb, acts in night.get("plan", {}).items()}
    (folder / "plan.json").write_text(json.dumps(plan))
    return path


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


# Policy


def test_parses_alone_and_light(home: Path) -> None:
    code = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print(json.dumps([bag.import_errors, sorted(bag.dag_ids), sorted({name.split(".")[0] for name in sys.modules})]))
"""
    done = python(code, DAGS, environment=airflow_environment(home), cwd=home)
    errors, ids, loaded = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert ids == ["tandem_nightly", "tandem_training"]
    assert set(loaded) & {"pyspark", "delta", "torch", "transformers", "pandas", "jobs", "udfs", "model", "kubernetes"} == set()


def test_imports_only_airflow_and_the_standard_library() -> None:
    imported = set()
    for path in DAGS.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    # The Kubernetes client is the cncf-kubernetes provider's own, and both are imported only where a pod is configured.
    assert foreign == {"airflow.sdk", "airflow.sdk.exceptions", "airflow.providers.cncf.kubernetes.operators.pod", "kubernetes.client"}


def test_policy(dags: dict[str, Any]) -> None:
    from airflow.sdk import CronDataIntervalTimetable

    for dag in dags.values():
        assert isinstance(dag.timetable, CronDataIntervalTimetable)
        assert dag.catchup is False and dag.max_active_runs in range(1, 5)
        assert len(dag.tags & TIERS) == 1
        assert "*Triage*" in dag.doc_md and all(f"exit {code}" in dag.doc_md for code in (64, 65, 69, 75))
        assert dag.on_failure_callback is not None
        assert timedelta(0) < dag.dagrun_timeout < timedelta(hours=12), "the night and the weekly training start 12 h apart"
        for task in dag.tasks:
            assert task.owner not in ("", "airflow")
            assert task.retries == 3 and task.retry_exponential_backoff and task.retry_delay > timedelta(0)
            assert timedelta(0) < task.execution_timeout <= dag.dagrun_timeout
            assert task.on_failure_callback
            assert task.pool == "default_pool", "any other pool has to be made first"


def test_nightly_is_cut_at_midnight(dags: dict[str, Any]) -> None:
    assert dags["tandem_nightly"].timetable.expression == "0 0 * * *"
    assert str(dags["tandem_nightly"].timetable.timezone) == "UTC"


def test_every_task_is_a_verb_in_the_order_of_the_flow(dags: dict[str, Any]) -> None:
    nightly, training = dags["tandem_nightly"], dags["tandem_training"]
    assert [task.task_id for task in nightly.tasks] == ["day", *NIGHT]
    assert [task.task_id for task in training.tasks] == ["day", *TRAINING]
    assert set(NIGHT) <= set(VERBS)
    for dag in dags.values():
        for task in dag.tasks[1:]:
            assert task.command[1:5] == ["-m", "jobs", task.task_id, "--date"]
            assert "--run-id" in task.command
    assert nightly.task_dict["release"].upstream_task_ids == {"day", "recommend", "search"}
    assert nightly.task_dict["search"].upstream_task_ids == {"day", "evaluate"}
    assert all("train.warm_start=false" in task.command for task in training.tasks[1:])


def test_ruff_finds_nothing_of_airflow_2() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--select", "AIR", "--preview", str(DAGS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# The day and the command line


def test_day_of_a_data_interval_is_its_last_whole_day(module: ModuleType) -> None:
    assert module.data_day({"ds": None}, datetime(2026, 11, 20, tzinfo=UTC)) == "2026-11-19"
    assert module.data_day({}, datetime(2026, 11, 22, 12, tzinfo=UTC)) == "2026-11-21"
    assert module.data_day({"ds": "2024-02-29"}, datetime(2026, 11, 20, tzinfo=UTC)) == "2024-02-29"


hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=30),
    st.dates().map(str),
    st.dates().map(lambda day: day.strftime("%Y%m%d")),
    st.from_regex(r"\A\d{4}-\d{2}-\d{2}\Z"),
    st.sampled_from(["2099-01-01' OR '1'='1", "$(reboot)", "2026-11-19; rm -rf /", "--help", "2026-W47-4", "2026-11-19\n", "２０２６-１１-１９", "{{ ds }}"]),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(ds=hostile, run_id=st.text(max_size=300))
def test_any_parameter_is_refused_or_gives_a_safe_command_line(module: ModuleType, ds: Any, run_id: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

    try:
        value = type(module.POLICY["params"]["ds"])(ds, **module.POLICY["params"]["ds"].schema).resolve()
        day = module.data_day({"ds": value}, None)
    except (ParamValidationError, AirflowFailException) as error:
        assert "ds" in str(error) or isinstance(error, ParamValidationError)
        return
    arguments = module.command_line("ingest", day, module.plain_run_id(run_id))
    assert arguments[:6] == [module.PYTHON, "-m", "jobs", "ingest", "--date", day] and arguments[6] == "--run-id" and len(arguments) == 8
    assert parse_day(arguments[5]).isoformat() == ds
    assert parse_run_id(arguments[7])


def test_check_never_passes_a_wrong_parameter_by_itself(module: ModuleType) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    for ds in ("20261119", "2026-W47-4", "2026-02-30", "2026-11-19 ", "x' OR 1=1", 5):
        with pytest.raises(AirflowFailException, match=r"parameter ds = .*expected a day as YYYY-MM-DD"):
            module.data_day({"ds": ds}, datetime(2026, 11, 20, tzinfo=UTC))


# Whole nights


def test_good_night_types_the_verbs_in_order(nights: SimpleNamespace) -> None:
    run = nights.runs["good"]
    assert run["state"] == "success"
    ran = verbs(nights, "good")
    assert sorted(ran) == sorted(NIGHT) and ran[:7] == NIGHT[:7] and set(ran[7:9]) == {"recommend", "search"} and ran[9:] == NIGHT[9:]
    call = next(call["arguments"] for call in nights.calls if call["key"] == "2026-11-01 ingest")
    expected = ["-m", "jobs", "ingest", "--date", "2026-11-01", "--config", "night.toml", "--set", "train.epochs=1", "--run-id", run["run_id"], "--result"]
    assert call[:-1] == expected
    assert all(call["secrets"] == [] for call in nights.calls), "Airflow's own settings hold its database password"


def test_output_is_the_log_and_the_result_is_the_xcom(nights: SimpleNamespace) -> None:
    assert "stub says 2026-11-01 ingest 0" in nights.log
    xcoms = nights.runs["good"]["xcoms"]
    assert xcoms["ingest.return_value"] == {"rows": {"2026-11-01 ingest": 3}, "path": "reports/day.html", "share": "NaN"}
    assert xcoms["report._link_ReportPage"].startswith("file:///") and xcoms["report._link_ReportPage"].endswith("reports/day.html")


@pytest.mark.parametrize(("night", "step", "code"), [("refused", "ingest", 65), ("misconfigured", "doctor", 64), ("missing", "doctor", 69)])
def test_refusal_is_tried_once_and_stops_the_night(nights: SimpleNamespace, night: str, step: str, code: int) -> None:
    run = nights.runs[night]
    assert run["state"] == "failed"
    assert run["tasks"][step] == ["failed", 1]
    assert verbs(nights, night) == NIGHT[: NIGHT.index(step) + 1]
    assert run["tasks"]["release"][0] == "upstream_failed"
    assert f"{step}: exit {code}, " in nights.log


def test_transient_failure_and_bug_are_retried(nights: SimpleNamespace) -> None:
    run = nights.runs["transient"]
    assert run["state"] == "success"
    assert run["tasks"]["embed_items"] == ["success", 3] and run["tasks"]["train"] == ["success", 2]
    assert verbs(nights, "transient") == ["doctor", *["embed_items"] * 3, "assign_identifiers", *["train"] * 2, "evaluate"]


def test_retries_end(nights: SimpleNamespace) -> None:
    assert nights.runs["exhausted"]["tasks"]["doctor"] == ["failed", 4]
    assert verbs(nights, "exhausted") == ["doctor"] * 4


@pytest.mark.parametrize("night", ["hanging", "killed"])
def test_time_limit_and_kill_end_the_whole_process_group(nights: SimpleNamespace, stub: Path, night: str) -> None:
    assert nights.runs[night]["tasks"]["doctor"] == ["failed", 1]
    for pid in (stub.parent / f"{day_of(PLANS[night])} doctor.pids").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z", f"process {pid} outlived its task"


def test_run_without_day_fails_at_once_and_names_the_parameter(nights: SimpleNamespace) -> None:
    run = nights.runs["dateless"]
    assert run["state"] == "failed" and run["tasks"]["day"] == ["failed", 1]
    assert {state for name, (state, _) in run["tasks"].items() if name != "day"} == {"upstream_failed"}
    assert "it needs the parameter ds" in nights.log


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


def test_run_that_was_given_up_alerts_but_a_failed_step_only_once(module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    run = SimpleNamespace(dag_id="tandem_nightly", data_interval_end=datetime(2026, 11, 20, tzinfo=UTC))
    with caplog.at_level(logging.ERROR, logger="tandem"):
        module.alert({"dag_run": run, "reason": "task_failure"})
        assert caplog.messages == []
        module.alert({"dag_run": run, "reason": "timed_out"})
    assert len(caplog.messages) == 1 and "ds=2026-11-19 try=None reason=timed_out" in caplog.messages[0]


# One step by itself


def step(module: ModuleType, *command: str) -> Any:
    return module.Step(task_id="ingest", command=list(command))


def test_missing_interpreter_is_named_and_not_retried(module: ModuleType) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match=r"no-such-python.*cannot be run: No such file.*TANDEM_PYTHON"):
        step(module, "no-such-python", "-m", "jobs").stream(["no-such-python", "-m", "jobs"])


def test_large_result_stays_out_of_the_xcom(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert step(module, "true").small_result(path) is None
    path.write_text(json.dumps({"x": "y" * 40_000}))
    assert step(module, "true").small_result(path) == {"x": "y" * 40_000}
    path.write_text(json.dumps({"x": "y" * 50_000}))
    assert step(module, "true").small_result(path) is None


def test_shell_syntax_stays_text(module: ModuleType, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = f"import sys, pathlib; pathlib.Path({str(seen)!r}).write_text(sys.argv[1])"
    assert step(module).stream([sys.executable, "-c", code, "$(touch planted); `id` | x"]) == 0
    assert seen.read_text() == "$(touch planted); `id` | x"


# The pod


@pytest.fixture(scope="module")
def pod_training(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cluster = tmp_path_factory.mktemp("cluster") / "config"
    cluster.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "none",
                "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "none", "user": {}}],
                "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none", "namespace": "tandem"}}],
            }
        )
    )
    environment = {key: value for key, value in airflow_environment(home).items() if key.startswith("AIRFLOW")}
    environment |= {"TANDEM_TRAIN_POD": "tandem:night", "TANDEM_TRAIN_GPUS": "2", "TANDEM_CONFIG": "/etc/tandem.toml", "TANDEM_GPU_POOL": "gpu"}
    train = load("tandem_dags_pod", environment).tandem_nightly_dag.task_dict["train"]
    train.config_file, train.kubernetes_conn_id, train.in_cluster = str(cluster), None, False
    return train


def test_pod_runs_the_same_command_line_on_gpus(pod_training: Any) -> None:
    train = pod_training
    values = {"ds": "2026-11-19", "run_id": "night"}
    run = SimpleNamespace(run_id="night", dag_id="tandem_nightly", logical_date=None)
    instance = SimpleNamespace(
        dag_id="tandem_nightly", task_id="train", run_id="night", try_number=1, map_index=-1, xcom_pull=lambda *_, key, **__: values[key], dag_run=run
    )
    context = {"ti": instance, "task_instance": instance, "dag_run": run, "run_id": "night", "params": {}, "dag": train.dag}
    train.render_template_fields(context)
    container = train.build_pod_request_obj(context).spec.containers[0]
    assert container.command == ["python"] and container.image == "tandem:night"
    assert container.args == ["-m", "jobs", "train", "--date", "2026-11-19", "--config", "/etc/tandem.toml", "--run-id", "night"]
    assert container.resources.limits == {"nvidia.com/gpu": "2"}
    assert train.deferrable and train.durable and train.pool == "gpu"
    assert train.upstream_task_ids == {"day", "assign_identifiers"} and train.downstream_task_ids == {"evaluate"}


@pytest.mark.parametrize(("code", "permanent"), [(65, True), (75, False), (137, False)])
def test_pod_exit_code_decides_like_a_child_process(pod_training: Any, monkeypatch: pytest.MonkeyPatch, code: int, permanent: bool) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
    from kubernetes.client import V1ContainerState, V1ContainerStateTerminated, V1ContainerStatus, V1ObjectMeta, V1Pod, V1PodStatus

    ended = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=code))
    status = V1ContainerStatus(name="base", image="tandem:night", image_id="", ready=False, restart_count=0, state=ended)
    pod = V1Pod(metadata=V1ObjectMeta(name="train", namespace="tandem"), status=V1PodStatus(phase="Failed", container_statuses=[status]))
    for deleted in ("process_pod_deletion", "patch_already_checked"):
        monkeypatch.setattr(pod_training, deleted, lambda *_, **__: None)
    monkeypatch.setattr(pod_training, "is_istio_enabled", lambda *_: False)
    with pytest.raises(AirflowException, match=f"train: exit {code}") as raised:
        pod_training.cleanup(pod, pod)
    assert isinstance(raised.value, AirflowFailException) is permanent
