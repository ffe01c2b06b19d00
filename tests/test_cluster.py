"""Off one machine: a standalone Spark master and two workers, spark-submit with the wheel, no checkout and no tandem on the executors.

One of the two workers is killed with -9 while a verb runs, and a Python worker while another does. The rows are those of one machine.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyspark
import pytest
import tiny
from deltalake import DeltaTable
from test_packaging import build_wheel
from test_recommend import DAY as ASKED
from test_recommend import NAMES, TEXTS, event, write_world

from jobs import build_corpora, ingest, recommend, simulate
from jobs.config import load
from jobs.spark import delta_jars
from jobs.tables import TABLES

D = date(2026, 1, 20)
HOME = Path(pyspark.__path__[0])
FAST = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.timezone=UTC -Xss8m"
# What `python -m jobs` does, for several verbs in one Spark application.
VERBS = """import sys, json
from jobs.__main__ import main
for arguments in json.loads(sys.argv[1]):
    if code := main(arguments):
        sys.exit(code)
"""

# Where the one task of an application computes.
WHERE = """from pyspark.sql import SparkSession

def where(frames):
    from udfs.device import device

    for frame in frames:
        yield frame.assign(device=device())

spark = SparkSession.builder.getOrCreate()
(row,) = spark.range(1).mapInPandas(where, "id long, device string").collect()
print("computes on", row.device)
"""


def awaited(what: Callable[[], Any], seconds: float = 300) -> Any:
    """The first true answer; the test fails where there is none in time."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python with every package of this one, tandem excepted."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    (inside,) = (tmp_path / "bare/lib").glob("python*/site-packages")
    (packages,) = {Path(pyspark.__path__[0]).parent}
    for entry in packages.iterdir():
        if not re.match(r"(__editable__|tandem|jobs$|udfs$|model$)", entry.name):
            (inside / entry.name).symlink_to(entry)
    alone = subprocess.run([python, "-c", "import pyspark, jobs"], cwd=tmp_path, env=environment(python), capture_output=True, text=True)
    assert "No module named 'jobs'" in alone.stderr
    return python


def environment(python: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK", "SPARK", "TANDEM"))}
    ours = {"SPARK_HOME": HOME, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": python, "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": FAST}
    return kept | {name: str(value) for name, value in ours.items()}


@pytest.fixture
def cluster(tmp_path: Path, bare: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The master's address and the processes of two workers of one core each, which say that they have a GPU of number 3."""
    started: list[subprocess.Popen] = []
    gpus = tmp_path / "gpus.sh"
    gpus.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3"]}'\n""")
    gpus.chmod(0o755)
    theirs = {"SPARK_WORKER_OPTS": f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={gpus}"}

    def start(name: str, kind: str, *options: str) -> Callable[[str], Any]:
        log = tmp_path / f"{name}.log"
        command = [str(HOME / "bin/spark-class"), f"org.apache.spark.deploy.{kind}", "--host", "127.0.0.1", "--webui-port", "0", *options]
        with log.open("w") as out:
            started.append(subprocess.Popen(command, env=environment(bare) | theirs, cwd=tmp_path, stdout=out, stderr=out))
        return lambda pattern: re.search(pattern, log.read_text())

    try:
        told = start("master", "master.Master", "--port", "0")
        url = awaited(lambda: told(r"Starting Spark master at (spark://\S+)"))[1]
        own = ("--cores", "1", "--memory", "1g", "--work-dir", str(tmp_path / "work"))
        for registered in [start(f"worker{n}", "worker.Worker", *own, url) for n in range(2)]:
            awaited(lambda registered=registered: registered("Successfully registered"))
        yield url, started[1:]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def below(worker: subprocess.Popen, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The processes that the worker started, its executor's Python among them, of which something is true."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            found += [process] if wanted(process) else []
    return found


def executors(worker: subprocess.Popen) -> list[psutil.Process]:
    return below(worker, lambda process: "CoarseGrainedExecutorBackend" in " ".join(process.cmdline()))


def answering(worker: subprocess.Popen) -> list[psutil.Process]:
    """Python workers in the middle of a request to the model: those that have, or are just loading, torch."""
    return below(worker, lambda process: any("libtorch" in part.path for part in process.memory_maps()))


def content(lake: Path, name: str) -> list[dict[str, Any]]:
    """The table's rows in one order, without what differs from run to run."""
    table = DeltaTable(str(lake / name)).to_pyarrow_table()
    stable = table.select([column for column in TABLES[name].names if column not in TABLES[name].volatile])
    return sorted(stable.to_pylist(), key=lambda row: json.dumps(row, default=str))


@pytest.mark.slow
@pytest.mark.timeout(1500)  # seven JVMs on two cores
@pytest.mark.fault("R43", "R50")
def test_a_cluster_answers_as_one_machine_does_and_survives_what_dies_on_it(spark, tmp_path, bare, cluster) -> None:
    url, workers = cluster
    packages = build_wheel(tmp_path / "wheel").rename(tmp_path / "tandem.zip")  # executors' Python looks into .zip, .egg and .jar alone

    def on(lake: str) -> list[str]:
        """The same small shop for each lake, and logs of its own."""
        sources = {name: f"{tmp_path}/{lake}-logs/{path}" for name, path in simulated.items()}
        settings = [f"warehouse.{name}={{path = '{path}', format = 'jsonl'}}" for name, path in sources.items()]
        small = ["corpora.k_core=2", "simulate.users=40", "simulate.items=40", "simulate.days=4", f"ingest.base_day={D}", "recommend.k=5", "registry.uri=none"]
        return [f"lake.root={tmp_path / lake}", f"simulate.path={tmp_path}/{lake}-logs", "spark.shuffle_partitions=2", *small, *settings]

    simulated = {"interactions": "interactions/ds={ds}", "searches": "searches/ds={ds}", "catalogue": "catalogue"}
    alone = load(None, on("alone"))
    for lake in ("alone", "far"):  # what recommend reads is there already: a model, a catalogue, a log of another month
        asked = load(None, on(f"{lake}-asked"))
        write_world(spark, asked, [event(f"u{n}", NAMES[(n + step) % 25], step) for n in range(8) for step in range(3)])
        tiny.artifact(Path(asked.lake.root, "artifacts/m1"), NAMES[:25], TEXTS)
        tiny.register(spark, asked, "m1", ASKED, "passed")

    secret = "s3cr3t-canary-0123"  # of an object store: below spark.conf of the configuration file, and in the environment of the driver
    (tmp_path / "night.toml").write_text(f'[spark.conf]\n"spark.hadoop.fs.s3a.secret.key" = "{secret}"\n')

    def command(verb: str, lake: str, day: date) -> list[str]:
        places = [part for setting in on(lake) for part in ("--set", setting)]
        return [verb, "--date", str(day), "--run-id", verb, "--config", str(tmp_path / "night.toml"), *places]

    night = [command(verb, "far", D) for verb in ("simulate", "ingest", "build_corpora")] + [command("recommend", "far-asked", ASKED)]
    (tmp_path / "tandem.py").write_text(VERBS)
    (tmp_path / "told").mkdir()
    conf = {"executor.memory": "512m", "executor.extraJavaOptions": FAST, "eventLog.enabled": "true", "eventLog.dir": (tmp_path / "told").as_uri()}
    conf |= {"eventLog.rolling.enabled": "false", "eventLog.compress": "false"}
    submit = [str(HOME / "bin/spark-submit"), "--master", url, "--jars", ",".join(delta_jars()), "--py-files", str(packages), "--driver-java-options", FAST]
    submit += [part for name, value in conf.items() for part in ("--conf", f"spark.{name}={value}")]
    out = tmp_path / "driver.log"
    with out.open("w") as log:
        known = environment(bare) | {"AWS_SECRET_ACCESS_KEY": secret}
        driver = subprocess.Popen([*submit, str(tmp_path / "tandem.py"), json.dumps(night)], cwd=tmp_path, env=known, stdout=log, stderr=log)

    def settled() -> bool:
        """Whether rows whose plan is forgotten are held by executors alone."""
        (log,) = (tmp_path / "told").iterdir()
        stages = (json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"Event":"SparkListenerStageCompleted"'))
        return any("localCheckpoint" in stage["Stage Info"]["Stage Name"] for stage in stages)

    def done(verb: str) -> bool:
        assert driver.poll() in (None, 0), out.read_text()[-3000:]
        return f"tandem: {verb} done" in out.read_text()

    try:
        awaited(lambda: done("ingest") and settled())
        (executor,) = executors(workers[0])
        workers[0].kill()  # with -9, while build_corpora counts the pairs of its core
        executor.kill()
        awaited(lambda: done("build_corpora"))
        awaited(lambda: answering(workers[1]))[0].kill()
        assert driver.wait(300) == 0, out.read_text()[-3000:]
    finally:
        driver.kill()

    (log,) = (tmp_path / "told").iterdir()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = [told["Event"] for told in events]
    after = kinds[kinds.index("SparkListenerExecutorRemoved") :]
    assert after.count("SparkListenerJobEnd") > 10, "it was lost in the middle"
    ended = [told for told in events if told["Event"] == "SparkListenerTaskEnd"]
    assert {told["Task Info"]["Executor ID"] for told in ended} == {"0", "1"}
    reasons = [str(told["Task End Reason"]) for told in ended if told["Task End Reason"]["Reason"] != "Success"]
    assert any("Python worker exited unexpectedly" in reason for reason in reasons), reasons

    told_of = [out, *(tmp_path / "told").iterdir(), *(path for lake in ("far", "far-asked") for path in (tmp_path / lake).rglob("*") if path.is_file())]
    assert not [path for path in told_of if secret.encode() in path.read_bytes()], "a key is nobody's to read"

    for verb in (simulate, ingest, build_corpora):
        verb.run(alone, D, "here")
    recommend.run(load(None, on("alone-asked")), ASKED, "here")
    for lake, name in (("", "events"), ("", "items"), ("", "quarantine"), ("", "corpora"), ("-asked", "staged_recommendations")):
        far, here = (content(tmp_path / f"{place}{lake}", name) for place in ("far", "alone"))
        assert far == here and (here or name == "quarantine"), name
    assert pc.sum(DeltaTable(str(tmp_path / "far/checks")).to_pyarrow_table()["passed"]).as_py() > 0


@pytest.mark.slow
def test_a_task_computes_on_the_gpu_that_spark_gave_it(tmp_path, cluster) -> None:
    url, _ = cluster
    (tmp_path / "where.py").write_text(WHERE)
    submit = [str(HOME / "bin/spark-submit"), "--master", url, "--driver-java-options", FAST, "--conf", "spark.executor.memory=512m"]
    asking = [part for who in ("executor", "task") for part in ("--conf", f"spark.{who}.resource.gpu.amount=1")]
    known = environment(Path(sys.executable))

    told = subprocess.run([*submit, *asking, str(tmp_path / "where.py")], env=known, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == "computes on cuda:3\n"
