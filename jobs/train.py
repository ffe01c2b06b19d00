"""Launch the trainer where the GPU is, and register what it made.     Reads corpora, items, item_embeddings, item_identifiers. Writes models and an artifact.

The trainer is another process (`train.launcher`: a local one by default, or torchrun, spark-submit, …) and gets one argument: a JSON
file that names tables by path and Delta version, the night's time split and the settings. It knows no Spark, this file no torch.
The same day, configuration and input rows make the same model_version: a model that is there is not trained again.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import Row, SparkSession

from jobs import mirror, registry
from jobs.config import Config
from jobs.errors import BadArgument, BadData, MissingInput, TandemError, Transient
from jobs.spark import CODE_VERSION, path_of, read, session, versions, written_up_to
from jobs.tables import CORPORA, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS, ITEMS, MODELS
from jobs.writes import schema
from model.recipes import RECIPES, SERVED

log = logging.getLogger("tandem")
INPUTS = (CORPORA, ITEMS, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS)
# A thread that waits by spinning takes the core that another process needs: beside one, 2,250 rows/s became 150.
# glibc gives big blocks back after every step and faults them in again: a third of a step's time on a CPU.
PROCESS = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 26)}
VERDICT = "exit"  # file of the work folder in which a trainer that refuses its data leaves its exit code
SHAPING = ("corpora", "identifiers", "embed", "train", "gensr")  # the sections whose change makes another model


def run(config: Config, day: date, run_id: str) -> dict[str, Any]:
    spark = session(config)
    for table in (ITEMS, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS):
        read(spark, config, table, at=day)
    pinned = versions(spark, config, INPUTS)
    if CORPORA.name not in pinned:
        raise MissingInput(f"table corpora not found at {path_of(config, CORPORA)} (lake.root); it is written by: {CORPORA.written_by}")
    # Of an earlier day: a rerun must not start from the model that the day itself has made.
    parent = registry.champion(spark, config, day - timedelta(days=1)) if config.train.warm_start else None
    if parent is not None and not fits(parent, config):
        log.info("%s has another shape: training from scratch", parent["model_version"])
        parent = None
    if parent is not None:
        registry.intact(config, parent)
    written = {table.name: written_up_to(spark, config, table, day) for table in INPUTS}
    first = first_stage(config, day, pinned, written) if RECIPES[config.train.recipe].second_stage else None
    spec = specification(config, day, pinned, written, parent["artifact"] if parent else None, candidates=first)
    there = Path(spec["output"], "manifest.json").exists()
    if there:
        log.info("%s is there already: not trained again", spec["model_version"])
    else:
        launch(config, spec)
    if there and registry.known(spark, config, spec["model_version"]):
        registry.renew(spark, config, day, spec["model_version"])
    else:
        save(spark, config, day, spec, parent["model_version"] if parent else None, run_id)
    mirror.nominate(spark, config, day, run_id, spec["model_version"])
    return {"model_version": spec["model_version"], "trained": not there}


def specification(
    config: Config,
    day: date,
    pinned: dict[str, int],
    written: dict[str, int],
    parent: str | None,
    identifiers: str | None = None,
    candidates: str | None = None,
) -> dict[str, Any]:
    """Everything that shapes the model, with a hash of it.

    pinned: the Delta versions to read. written: those that last wrote what the day reads, so that a day trained again after later ones is
    the same model. parent: an artifact below `Config.files`. identifiers: a table that is read in the place of item_identifiers.
    candidates: folder of gensr's first stage.
    """
    valid_from, test_from = config.corpora.bounds(day)
    root = config.files
    spec: dict[str, Any] = {
        "day": day.isoformat(),
        "tables": {table.name: [path_of(config, table), pinned[table.name]] for table in INPUTS},
        "valid_from": valid_from.isoformat(),
        "test_from": test_from.isoformat(),
        "scheme": config.identifiers.scheme,
        "shared_levels": config.identifiers.shared,
        "history_length": config.corpora.history_length,
        "exclude_seen": config.recommend.exclude_seen,
        "train": config.train.model_dump(mode="json", exclude={"launcher"}),
        "parent": f"{root}/{parent}" if parent else None,
    }
    if candidates:
        spec |= of_gensr(config) | {"candidates": candidates}
    content = spec | {"tables": {table.name: [path_of(config, table), written[table.name]] for table in INPUTS}}
    if identifiers:
        spec["tables"][ITEM_IDENTIFIERS.name] = content["tables"][ITEM_IDENTIFIERS.name] = [identifiers, None]
    spec["spec_hash"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    spec["model_version"] = f"{config.train.recipe}-{day:%Y%m%d}-{spec['spec_hash'][:10]}"
    spec["output"] = f"{root}/artifacts/{spec['model_version']}"
    spec["work"] = f"{root}/artifacts/.work/{spec['model_version']}"
    return spec


def of_gensr(config: Config) -> dict[str, Any]:
    """What `model.train_pairs` reads besides."""
    own = config.gensr
    form = {"views": own.views, "filter": own.filter, "prompts": own.prompts, "answers": own.answers, "weight": own.contrast, "match": own.match}
    pairs = {"form": form, "negatives": own.negatives, "hard": own.hard_share, "pool": own.hard_pool, "item_words": own.item_words}
    pairs |= {"first": own.first_share, "first_pool": own.first_pool, "blend": own.blend}
    train = config.train.model_dump(mode="json", exclude={"launcher"}) | {"batch_size": own.batch_size, "learning_rate": own.learning_rate}
    return {"pairs": pairs, "history_length": min(own.history_length, config.corpora.history_length), "depth": own.candidates, "train": train}


def first_stage(config: Config, day: date, pinned: dict[str, int], written: dict[str, int]) -> str:
    """The artifact of gensr's first stage: trained now, or by an earlier run of the day. It stands in no table, beside the model that goes with it."""
    first = of_first_stage(config)
    spec = specification(first, day, pinned, written, None)
    if not Path(spec["output"], "manifest.json").exists():
        launch(first, spec)
    return str(spec["output"])


def of_first_stage(config: Config) -> Config:
    recipe = RECIPES[config.gensr.candidates_from]
    brought = recipe.settings.get("train", {}).get("tasks", SERVED)
    tasks = tuple(task for task in brought if task in config.train.tasks or task not in SERVED)
    return config.model_copy(update={"train": config.train.model_copy(update={"recipe": recipe.name, "tasks": tasks})})


def fits(parent: Row, config: Config) -> bool:
    """Whether the parent's weights can be taken over: the same backbone, naming and tasks."""
    if RECIPES[config.train.recipe].second_stage:
        return False  # its first stage may name other items: words, slots and views begin anew
    held, new = json.loads(parent["config"]), config.model_dump(mode="json")
    if config.identifiers.scheme == "semantic" and config.identifiers.retrain:
        return False  # a new quantizer's codes mean other items than the parent's
    same_train = all(held["train"].get(key) == new["train"][key] for key in ("recipe", "backbone", "tasks", "tied", "pointers"))
    return same_train and held["identifiers"] == new["identifiers"]


def launch(config: Config, spec: dict[str, Any]) -> None:
    """Run the launcher's command to its end. Raises BadData (65), MissingInput (no such command), or Transient for any other exit."""
    work = Path(spec["work"])
    work.mkdir(parents=True, exist_ok=True)
    path = work / "spec.json"
    path.write_text(json.dumps(spec, indent=1), encoding="utf-8")
    try:
        command = [part.format(python=sys.executable, spec=str(path)) for part in config.train.launcher]
    except (KeyError, IndexError, ValueError) as error:
        raise BadArgument(f"train.launcher = {config.train.launcher}: allowed are {{python}} and {{spec}}; found {error}") from error
    log.info("training %s", spec["model_version"])
    if shutil.which(command[0]) is None:
        raise MissingInput(f"train.launcher = {config.train.launcher}: {command[0]!r} cannot be started: no such command, or not executable")
    if shutil.which("setpriv") is None:
        raise MissingInput("setpriv of util-linux (Linux only) starts the trainer, and is not on the PATH: install util-linux")
    verdict = work / VERDICT
    verdict.unlink(missing_ok=True)
    # Else a trainer whose launcher was killed would train on beside the retry's.
    code = subprocess.run(["setpriv", "--pdeathsig", "KILL", *command], check=False, env=os.environ | PROCESS).returncode
    if code > 0 and verdict.exists():  # torchrun ends in 1, whatever its processes ended in
        code = int(verdict.read_text())
    if code == BadData.exit_code:
        raise BadData(f"the trainer refused the corpora of {spec['day']} (exit 65): its last line tells why")
    if code == Transient.exit_code:
        raise Transient(f"the trainer exited {code}: another training of {spec['model_version']} holds {work}")
    if code < 0:
        raise Transient(f"the trainer was killed by signal {-code}; a retry goes on from its last checkpoint in {work}")
    if code:
        raise TandemError(f"the trainer failed with exit {code} ({' '.join(command)})")
    if not Path(spec["output"], "manifest.json").exists():
        raise MissingInput(f"the trainer ended well but left no artifact at {spec['output']}: must train.launcher share the lake's disk?")


def save(spark: SparkSession, config: Config, day: date, spec: dict[str, Any], parent: str | None, run_id: str) -> None:
    output = Path(spec["output"])
    row = {
        "model_version": spec["model_version"],
        "recipe": config.train.recipe,
        "artifact": f"artifacts/{spec['model_version']}",
        "artifact_hash": hashlib.sha256((output / "manifest.json").read_bytes()).hexdigest(),
        "input_versions": json.dumps({name: version for name, (_, version) in spec["tables"].items()}),
        "config_hash": config.hash(*SHAPING),
        "config": config.model_dump_json(exclude={"spark": {"conf"}, "registry": {"uri"}}),  # which may hold keys and passwords
        "code_version": CODE_VERSION,
        "parent": parent,
        "curve": (output / "curve.json").read_text(encoding="utf-8").strip(),
        "status": "trained",
        "run_id": run_id,
        "trained_at": datetime.now(UTC),
        "ds": day,
    }
    registry.save(spark, config, spark.createDataFrame([tuple(row[name] for name in MODELS.names)], schema(MODELS)))
