"""Tandem under Airflow: the night (`tandem_nightly`), the weekly full training (`tandem_training`) and the weekly tidying (`tandem_maintenance`).

Every step types the command line a person would type, `python -m jobs VERB --date D [--config FILE] [--set K=V] --run-id R`, as a list of
arguments, never through a shell. Steps hand over nothing but tables; the small result JSON of a step is in its XCom. This file needs
Airflow and the standard library, so that Airflow may live in an environment of its own. It does not know Spark, the tables or the model.

**The day.** `day` decides it once: the parameter `ds`, else the last whole day of the data interval (for the night of 2026-11-20, 2026-11-19).
A run that has neither fails at once. No run id is ever parsed. Backfill: `airflow backfill create --dag-id tandem_nightly --from-date A --to-date B`.

**No collision.** The night runs from 00:00 UTC and is given up after 11 h; the full training runs on Sunday from 12:00 UTC on Saturday's
corpora and is given up after 11 h, so the two never run at once. It writes a model, never results: if `evaluate` passes it, Sunday's night starts
from it. The tidying, on Saturday from 12:00 UTC, changes no row. Should a backfill cross one of them: both write the same rows per day, the
loser of a race exits 75 and its retry finds the work done.

**Settings**, read from the environment of the DAG processor and of the workers: `TANDEM_PYTHON` (interpreter of the job's environment),
`TANDEM_CONFIG` (configuration file), `TANDEM_SET` (further `section.key=value`, separated by blanks), `TANDEM_GPU_POOL` (pool of `train`; it
must exist, or `train` waits for ever), `TANDEM_TRAIN_POD` (image: `train` becomes a Kubernetes pod with `TANDEM_TRAIN_GPUS` GPUs, from the pod
template `TANDEM_POD_TEMPLATE`), `TANDEM_ALERT` (`module:function`, called with the alert's one line).

*Triage*: whatever fails, what was served stays served: the day of the newest row of `releases` that is not `backfilled`. The last lines of the
step's log say what was found, what is allowed and where it was set. Every step may be cleared and run again: it replaces exactly its day.

- `day` failed: a run without data interval; trigger again with `ds`, e.g. `--conf '{"ds": "2026-11-19"}'`.
- exit 64, not retried: a wrong date, key or value. Mend the configuration file, clear the step.
- exit 65, not retried: data refused by a check; table `checks` has the value and the limit. `ingest`: table `quarantine` has the rows and reasons;
  if the day really was empty, run `ingest --allow-empty` by hand, mark the step a success and clear what follows. `evaluate`: the first model of
  all did not pass, so there is none to serve.
- exit 69, not retried: a table, file, tool or interpreter is not there; `doctor` names it. Clear the step once it is.
- exit 75, and 70, a signal (-9 is often memory) or a time limit: retried 3 times, 2, 4 and 8 minutes apart. After the last try: 70 is a bug, report it.
- `train` or `evaluate` failed for good, and the night must go on: mark both a success; the served model makes the day's results.
- `evaluate` is green, but the model was not passed: no alert; the night goes on with the served model, `metrics` and the report page say why.
- nothing runs: is the pool of `train` missing, or a step of an older day still queued (`ingest`, `build_corpora` and `train` run one at a time)?
"""

import contextlib
import importlib
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, CronDataIntervalTimetable, Param, chain, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

PYTHON = os.environ.get("TANDEM_PYTHON", sys.executable)
CONFIG = os.environ.get("TANDEM_CONFIG")
SETTINGS = shlex.split(os.environ.get("TANDEM_SET", ""))
GPU_POOL = os.environ.get("TANDEM_GPU_POOL", "default_pool")
TRAIN_POD = os.environ.get("TANDEM_TRAIN_POD")
ALERT = os.environ.get("TANDEM_ALERT")

REFUSED = {64: "bad argument or configuration", 65: "bad data, refused by a check", 69: "a needed input is missing"}
HOURS = {
    "ingest": 1,
    "build_corpora": 1,
    "embed_items": 1,
    "assign_identifiers": 1,
    "train": 4,
    "evaluate": 1,
    "recommend": 2,
    "search": 2,
    "suggest": 2,
    "maintain": 6,
}
XCOM_BYTES = 48 * 1024
SECRETS = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_")


def data_day(params: Mapping[str, Any], interval_end: datetime | None) -> str:
    """The data day as YYYY-MM-DD: the parameter `ds`, else the last whole day (UTC) of the data interval."""
    given = params.get("ds")
    if given is None:
        if interval_end is None:
            raise AirflowFailException("""no data day: this run has no data interval, so it needs the parameter ds, e.g. --conf '{"ds": "2026-11-19"}'""")
        return (interval_end.astimezone(UTC) - timedelta(days=1)).date().isoformat()
    # fromisoformat alone also reads 20261119 and 2026-W47-4, which `python -m jobs` refuses.
    with contextlib.suppress(ValueError):
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", str(given)):
            return date.fromisoformat(given).isoformat()
    raise AirflowFailException(f"parameter ds = {str(given)[:40]!r}: expected a day as YYYY-MM-DD, e.g. 2026-11-19")


def plain_run_id(run_id: str) -> str:
    """Airflow's run id in the characters that `--run-id` allows; it names the execution and is never read again."""
    return re.sub(r"[^A-Za-z0-9_.:+-]", "-", run_id).lstrip("_.:+-")[:200] or "run"


def command_line(verb: str, ds: Any, run_id: Any, settings: tuple[str, ...] = ()) -> list[Any]:
    """The arguments a person would type; `ds` and `run_id` may be values that Airflow fills in before the step starts."""
    config = ["--config", CONFIG] if CONFIG else []
    overrides = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return [PYTHON, "-m", "jobs", verb, "--date", ds, *config, *overrides, "--run-id", run_id]


def check(verb: str, exit_code: int) -> None:
    """Turns an exit code into Airflow's decision: done, stop, or retry."""
    if exit_code in REFUSED:
        raise AirflowFailException(f"{verb}: exit {exit_code}, {REFUSED[exit_code]}; no retry helps, the lines above say what was found")
    if exit_code != 0:
        raise AirflowException(f"{verb}: exit {exit_code}; retried while tries are left")


def alert(context: Mapping[str, Any]) -> None:
    """One line for the person on duty, after the last try of a step, or when a whole run was given up."""
    step, run = context.get("ti"), context.get("dag_run")
    if context.get("reason") == "task_failure":
        return  # the step itself has alerted
    try:
        ds = data_day(context.get("params") or {}, context.get("data_interval_end") or getattr(run, "data_interval_end", None))
    except AirflowException:
        ds = "none"
    line = (
        f"ALERT dag={getattr(run, 'dag_id', None)} task={getattr(step, 'task_id', None)} ds={ds} try={getattr(step, 'try_number', None)}"
        f" reason={context.get('reason') or 'task failed'} log={getattr(step, 'log_url', None)} served=see releases: newest row, not backfilled"
    )
    logging.getLogger("tandem").error(line)
    if ALERT:
        module, _, function = ALERT.partition(":")
        getattr(importlib.import_module(module), function)(line)


class ReportPage(BaseOperatorLink):
    """The button that opens the page which `report` names in its result."""

    name = "Report page"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        page = (getattr(operator, "result", None) or {}).get("path", "")
        return page if "://" in page or not page else Path(page).absolute().as_uri()


class Step(BaseOperator):
    """One command line as a child process: its output is the log, its exit code the decision, its result JSON the XCom."""

    # An operator and not an @task: only an operator learns through on_kill that Airflow wants it to end.
    template_fields = ("command",)

    def __init__(self, *, command: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.child: subprocess.Popen[str] | None = None
        self.result: dict[str, Any] | None = None

    def execute(self, context: Any) -> dict[str, Any] | None:
        with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
            path = Path(folder, "result.json")
            check(self.task_id, self.stream([*self.command, "--result", str(path)]))
            self.result = self.small_result(path)
        return self.result

    def stream(self, command: list[str]) -> int:
        """Runs the command in a process group of its own and logs each line as it comes; returns the exit code, -N after signal N."""
        self.log.info("$ %s", shlex.join(command))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)} | {"PYTHONUNBUFFERED": "1"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            self.child = subprocess.Popen(command, **pipes, env=environment, encoding="utf-8", errors="replace", start_new_session=True)
        except OSError as error:
            raise AirflowFailException(f"{command[0]!r} cannot be run: {error.strerror}; set TANDEM_PYTHON to the job environment's interpreter") from error
        try:
            for line in self.child.stdout or ():
                self.log.info("%s", line.rstrip())
            return self.child.wait()
        finally:
            self.on_kill()

    def on_kill(self) -> None:
        """Ends the child and all it started (JVM, Spark's workers): asks, waits 3 s, then forces. Airflow itself is killed after 5 s."""
        if self.child is None:
            return
        deadline = time.monotonic() + 3
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGTERM)
            while time.monotonic() < deadline:
                self.child.poll()  # reaps it: a dead child that nobody waits for still counts as one of its group
                os.killpg(self.child.pid, 0)
                time.sleep(0.05)
            os.killpg(self.child.pid, signal.SIGKILL)

    def small_result(self, path: Path) -> dict[str, Any] | None:
        if not path.exists() or path.stat().st_size > XCOM_BYTES:
            self.log.info("no result in XCom: %s", f"larger than {XCOM_BYTES} bytes" if path.exists() else "the step wrote none")
            return None
        # NaN is no JSON: PostgreSQL would refuse the XCom.
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=str)
        return result if isinstance(result, dict) else {"result": result}


def train_pod(image: str, command: list[Any], **kwargs: Any) -> BaseOperator:
    """`train` as a Kubernetes pod with GPUs: waits without a worker slot, finds its pod again after a worker was lost."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import V1ResourceRequirements

    class TrainPod(KubernetesPodOperator):
        def cleanup(self, pod: Any, remote_pod: Any, xcom_result: Any = None, context: Any = None) -> None:
            try:
                super().cleanup(pod, remote_pod, xcom_result, context)
            except AirflowException:
                statuses = (remote_pod.status.container_statuses if remote_pod and remote_pod.status else None) or []
                for status in statuses:
                    if status.name == self.base_container_name and status.state.terminated:
                        check(self.task_id, status.state.terminated.exit_code)
                raise

    gpus = {"nvidia.com/gpu": os.environ.get("TANDEM_TRAIN_GPUS", "1")}
    return TrainPod(
        image=image,
        name="tandem-train",
        cmds=["python"],
        arguments=command[1:],
        container_resources=V1ResourceRequirements(limits=gpus),
        pod_template_file=os.environ.get("TANDEM_POD_TEMPLATE"),
        deferrable=True,
        durable=True,
        on_finish_action="delete_succeeded_pod",
        log_pod_spec_on_failure=False,  # it would print the pod's environment into the log
        **kwargs,
    )


@task(multiple_outputs=True, execution_timeout=timedelta(minutes=1))
def day(**context: Any) -> dict[str, str]:
    """What all steps of this run share."""
    return {"ds": data_day(context["params"], context.get("data_interval_end")), "run_id": plain_run_id(context["dag_run"].run_id)}


def steps(verbs: tuple[str, ...], settings: tuple[str, ...] = ()) -> dict[str, BaseOperator]:
    """One task per verb, each named like its verb, all after `day`."""
    today = day()
    made: dict[str, BaseOperator] = {}
    for verb in verbs:
        command = command_line(verb, today["ds"], today["run_id"], settings)
        limits: dict[str, Any] = {"task_id": verb, "execution_timeout": timedelta(hours=HOURS.get(verb, 0.5))}
        if verb in ("ingest", "build_corpora", "train"):
            # Late events rewrite the days before, and one training fills a machine: days that run side by side take turns.
            limits["max_active_tis_per_dag"] = 1
        if verb == "train":
            limits["pool"] = GPU_POOL
        made[verb] = train_pod(TRAIN_POD, command, **limits) if verb == "train" and TRAIN_POD else Step(command=command, **limits)
    return made


POLICY: dict[str, Any] = {
    "doc_md": __doc__,
    "catchup": False,
    "dagrun_timeout": timedelta(hours=11),
    "on_failure_callback": alert,
    "params": {"ds": Param(None, type=["null", "string"], format="date", description="data day, YYYY-MM-DD, UTC; empty: the data interval's last day")},
    "default_args": {
        "owner": "tandem",
        "retries": 3,
        "retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
        "on_failure_callback": alert,
    },
}


# At 00:00, so that `backfill create --to-date 2026-11-05` means the whole of that day.
@dag(schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), max_active_runs=4, tags=["tandem", "tier-1"], **POLICY)
def tandem_nightly() -> None:
    first = ("doctor", "ingest", "build_corpora", "embed_items", "assign_identifiers", "train", "evaluate")
    made = steps((*first, "recommend", "search", "suggest", "release", "report"))
    *before, recommend, search, suggest, release, report = made.values()
    report.operator_extra_links = (ReportPage(),)
    chain(*before, [recommend, search, suggest], release, report)


# At noon: half a day after the night of the same day began, and half a day before the next one does.
@dag(schedule=CronDataIntervalTimetable("0 12 * * 0", timezone="UTC"), max_active_runs=1, tags=["tandem", "tier-2"], **POLICY)
def tandem_training() -> None:
    chain(*steps(("doctor", "embed_items", "assign_identifiers", "train", "evaluate"), ("train.warm_start=false",)).values())


# The night of Saturday is over by then, and Sunday's has twelve hours to come.
@dag(schedule=CronDataIntervalTimetable("0 12 * * 6", timezone="UTC"), max_active_runs=1, tags=["tandem", "tier-3"], **POLICY)
def tandem_maintenance() -> None:
    chain(*steps(("doctor", "maintain")).values())


tandem_nightly_dag = tandem_nightly()
tandem_training_dag = tandem_training()
tandem_maintenance_dag = tandem_maintenance()
