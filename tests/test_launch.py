"""Launching the trainer: any command, its exit decides; the specification names the model."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.config import Config, load
from jobs.errors import BadArgument, BadData, MissingInput, TandemError, Transient
from jobs.spark import read
from jobs.tables import MODELS
from jobs.train import INPUTS, launch, save, specification

DAY = date(2026, 1, 31)
PINNED = {table.name: 3 for table in INPUTS}


def with_launcher(config: Config, *launcher: str) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"launcher": launcher})})


@pytest.mark.parametrize(
    ("launcher", "error", "told"),
    [
        (("sh", "-c", "exit 65"), BadData, "exit 65"),
        (("sh", "-c", "echo 65 > $(dirname {spec})/exit; exit 1"), BadData, "exit 65"),  # as torchrun tells of a trainer that refused
        (("sh", "-c", "kill -9 $$"), Transient, "signal 9"),
        (("sh", "-c", "exit 75"), Transient, "another training of bridge-20260131-"),
        (("sh", "-c", "exit 3"), TandemError, "exit 3"),
        (("no-such-command-here", "{spec}"), MissingInput, "cannot be started"),
        (("{pyhton}",), BadArgument, r"allowed are \{python\} and \{spec\}"),
        (("true",), MissingInput, "left no artifact"),
    ],
)
def test_an_exit_becomes_the_error_that_a_scheduler_understands(config: Config, launcher: tuple[str, ...], error: type[TandemError], told: str) -> None:
    with pytest.raises(error, match=told) as raised:
        launch(with_launcher(config, *launcher), specification(config, DAY, PINNED, PINNED, None))
    assert type(raised.value) is error


def test_any_command_may_train(config: Config) -> None:
    """The launcher gets the specification's path, and what it leaves at `output` is the model."""
    spec = specification(config, DAY, PINNED, PINNED, None)
    script = "import json, pathlib, sys; out = pathlib.Path(json.load(open(sys.argv[1]))['output']); out.mkdir(parents=True); (out / 'manifest.json').touch()"
    launch(with_launcher(config, "{python}", "-c", script, "{spec}"), spec)
    assert Path(spec["output"], "manifest.json").exists()


@pytest.mark.fault("R27")
def test_no_trainer_outlives_a_killed_launcher(config: Config) -> None:
    """Killed with -9 while its trainer is busy for ten minutes. The trainer holds the output open: it is read to its end only when that ends."""
    spec = specification(config, DAY, PINNED, PINNED, None)
    trainer = ["sh", "-c", "echo busy; kill -9 $PPID; exec sleep 600"]
    code = "import json, sys; from jobs.config import load; from jobs.train import launch; "
    code += f"launch(load(None, ['train.launcher=' + sys.argv[1]]), json.loads({json.dumps(spec)!r}))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(trainer)], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == -9 and done.stdout == "busy\n"


@pytest.mark.fault("R50")
def test_no_key_of_an_object_store_is_stored_with_a_model(spark: SparkSession, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """Keys may stand below `spark.conf`, a password in `registry.uri`; the models table keeps the rest of the configuration, and no log line tells them."""
    key = "s3cr3t-canary-0123"
    mirror = f"registry.uri=postgresql://tandem:{key}@registry/mlflow"
    hiding = load(None, [f"lake.root={config.lake.root}", f"spark.conf={{'fs.s3a.secret.key' = '{key}'}}", mirror])
    spec = specification(hiding, DAY, PINNED, PINNED, None)
    output = Path(spec["output"])
    output.mkdir(parents=True)
    for name in ("manifest.json", "curve.json"):
        (output / name).write_text("{}")
    with caplog.at_level("DEBUG"):
        save(spark, hiding, DAY, spec, None, "r")
    (row,) = read(spark, hiding, MODELS).collect()
    told = str(row) + caplog.text + "".join(path.read_text() for path in Path(hiding.lake.root).rglob("*.json"))
    assert key not in told and json.loads(row.config)["spark"]["driver_memory"] == "2g" and key in hiding.model_dump_json()


@pytest.mark.fault("R27")
def test_one_training_at_a_time_writes_a_work_folder(tmp_path: Path) -> None:
    from model.train import main, take

    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"work": str(tmp_path / "work")}))
    held = take(tmp_path / "work")
    assert main([str(spec)]) == Transient.exit_code
    held.close()
    assert not take(tmp_path / "work").closed


def test_the_same_inputs_are_the_same_model_and_others_are_not(config: Config) -> None:
    version = specification(config, DAY, PINNED, PINNED, None)["model_version"]
    assert version == specification(config, DAY, PINNED, PINNED, None)["model_version"]
    more_epochs = load(None, [f"lake.root={config.lake.root}", "train.epochs=21"])
    elsewhere = with_launcher(config, "torchrun", "{spec}")
    others = [
        specification(more_epochs, DAY, PINNED, PINNED, None),
        specification(config, date(2026, 1, 30), PINNED, PINNED, None),
        specification(config, DAY, PINNED, PINNED | {"corpora": 4}, None),
        specification(config, DAY, PINNED, PINNED, "artifacts/parent"),
    ]
    later = specification(config, DAY, PINNED | {"corpora": 9}, PINNED, None)
    assert later["model_version"] == version, "later days were written since"
    assert len({version, *(spec["model_version"] for spec in others)}) == 5
    assert specification(elsewhere, DAY, PINNED, PINNED, None)["model_version"] == version, "where it is trained does not make another model"
