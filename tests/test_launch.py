"""Launching the trainer: any command, its exit decides; the specification names the model."""

from datetime import date
from pathlib import Path

import pytest

from jobs.config import Config, load
from jobs.errors import BadArgument, BadData, MissingInput, TandemError, Transient
from jobs.train import INPUTS, launch, specification

DAY = date(2026, 1, 31)
PINNED = {table.name: 3 for table in INPUTS}


def with_launcher(config: Config, *launcher: str) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"launcher": launcher})})


@pytest.mark.parametrize(
    ("launcher", "error", "told"),
    [
        (("sh", "-c", "exit 65"), BadData, "exit 65"),
        (("sh", "-c", "kill -9 $$"), Transient, "signal 9"),
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
