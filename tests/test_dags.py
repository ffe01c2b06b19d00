"""The DAG file: policy, the day, the command lines, one step, the pod.     Whole nights are in test_nights.py."""

import ast
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler import DAGS, NIGHT, TRAINING, airflow_environment, load, python

from jobs.__main__ import VERBS
from jobs.config import parse_day, parse_run_id

TIERS = {"tier-1", "tier-2", "tier-3"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def module(home: Path) -> ModuleType:
    return load("tandem_dags", {key: value for key, value in airflow_environment(home).items() if key.startswith("AIRFLOW")})


@pytest.fixture(scope="module")
def dags(module: ModuleType) -> dict[str, Any]:
    return {dag.dag_id: dag for dag in (module.tandem_nightly_dag, module.tandem_training_dag, module.tandem_maintenance_dag)}


# Policy


@pytest.mark.fault("R30")
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
    assert ids == ["tandem_maintenance", "tandem_nightly", "tandem_training"]
    assert set(loaded) & {"pyspark", "delta", "torch", "transformers", "pandas", "jobs", "udfs", "model", "kubernetes"} == set()


@pytest.mark.fault("R30")
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


@pytest.mark.fault("R24")
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


@pytest.mark.fault("R24")
def test_nightly_is_cut_at_midnight(dags: dict[str, Any]) -> None:
    assert dags["tandem_nightly"].timetable.expression == "0 0 * * *"
    assert str(dags["tandem_nightly"].timetable.timezone) == "UTC"


def test_every_task_is_a_verb_in_the_order_of_the_flow(dags: dict[str, Any]) -> None:
    nightly, training = dags["tandem_nightly"], dags["tandem_training"]
    assert [task.task_id for task in nightly.tasks] == ["day", *NIGHT]
    assert [task.task_id for task in training.tasks] == ["day", *TRAINING]
    assert [task.task_id for task in dags["tandem_maintenance"].tasks] == ["day", "doctor", "maintain"]
    assert set(NIGHT) <= set(VERBS)
    for dag in dags.values():
        for task in dag.tasks[1:]:
            assert task.command[1:5] == ["-m", "jobs", task.task_id, "--date"]
            assert "--run-id" in task.command
    assert nightly.task_dict["release"].upstream_task_ids == {"day", "recommend", "search", "suggest"}
    assert nightly.task_dict["search"].upstream_task_ids == {"day", "evaluate"}
    assert all("train.warm_start=false" in task.command for task in training.tasks[1:])


@pytest.mark.fault("R30")
def test_ruff_finds_nothing_of_airflow_2() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--select", "AIR", "--preview", str(DAGS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# The day and the command line


@pytest.mark.fault("R25")
def test_a_backfill_has_a_run_for_each_of_its_days(home: Path) -> None:
    """As `airflow backfill create --from-date 2026-11-02 --to-date 2026-11-04` asks the timetable: three runs, whose days are the three."""
    code = """
import json, sys
from datetime import datetime, UTC
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
dag = DagBag(sys.argv[1]).dags["tandem_nightly"]
dag = DagSerialization.from_dict(DagSerialization.to_dict(dag))
infos = dag.iter_dagrun_infos_between(datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC))
print(json.dumps([info.data_interval.end.isoformat() for info in infos]))
"""
    done = python(code, DAGS, environment=airflow_environment(home), cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [datetime.fromisoformat(end) for end in json.loads(done.stdout.splitlines()[-1])]
    module = load("tandem_dags_backfill", {key: value for key, value in airflow_environment(home).items() if key.startswith("AIRFLOW")})
    assert [module.data_day({}, end) for end in ends] == ["2026-11-02", "2026-11-03", "2026-11-04"]


@pytest.mark.fault("R26")
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


@pytest.mark.fault("R26", "R31")
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


@pytest.mark.fault("R29")
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


@pytest.mark.fault("R31")
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
