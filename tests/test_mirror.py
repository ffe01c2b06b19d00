"""The registry that people's tools read: every model with its hash, `champion` is what is served, moved by one at a time; and no night needs it."""

import hashlib
import os
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
from mlflow import MlflowClient, artifacts
from test_release import D1, D2, D3, NOW, stage, write

from jobs import mirror, release
from jobs.config import load
from jobs.errors import BadArgument, BadData, TandemError, Transient
from jobs.recommend import serving
from jobs.registry import champion, intact
from jobs.spark import read
from jobs.tables import CHECKS, ITEMS, MODELS
from model.artifact import read_manifest

NAMES = [f"i{n}" for n in range(10)]


@pytest.fixture(params=["file", *(["server"] if "TANDEM_MLFLOW" in os.environ else [])])
def mirrored(config, request):
    """The default mirror, an sqlite file in the lake; and a running MLflow server, where TANDEM_MLFLOW names one (see the README)."""
    Path(config.lake.root).mkdir()
    if request.param == "file":
        return load(None, [f"lake.root={config.lake.root}", "spark.master=local[2]"])
    server = [f"registry.uri={os.environ['TANDEM_MLFLOW']}", f"registry.name=tandem-{uuid.uuid4().hex}"]
    return load(None, [f"lake.root={config.lake.root}", "spark.master=local[2]", *server])


def train(spark, config, version, day):
    """What `train` and `evaluate` leave: an artifact, its row, passed, and its nomination."""
    tiny.artifact(Path(config.lake.root, "artifacts", version), NAMES, NAMES, seed=len(version))
    tiny.register(spark, config, version, day, "passed")
    mirror.nominate(spark, config, day, "r", version)


def found(config):
    """Alias → model_version, as any MLflow client reads them."""
    client, name = MlflowClient(mirror.address(config)), config.registry.name
    return {alias: client.get_model_version_by_alias(name, alias).tags["model_version"] for alias in client.get_registered_model(name).aliases}


def told(spark, config, day):
    return [(row.severity, row.passed) for row in read(spark, config, CHECKS, at=day).where("step = 'registry'").collect()]


def test_every_artifact_is_a_version_with_its_hash(spark, mirrored):
    for version, day in (("m1", D1), ("m22", D3), ("m333", D2), ("m1", D1)):
        train(spark, mirrored, version, day)
    assert found(mirrored) == {"candidate": "m22"}, "a model trained for an older day is no candidate"
    assert told(spark, mirrored, D1) == [("warn", True)]
    client, ours = MlflowClient(mirror.address(mirrored)), f"name='{mirrored.registry.name}'"
    versions = {held.tags["model_version"]: held for held in client.search_model_versions(ours)}
    assert len(versions) == len(client.search_model_versions(ours)) == 3, "the same again is no further version"

    # What the registry says of a version is enough to load it, and to know it for what was trained.
    held = versions["m333"]
    if held.source.startswith("file:"):
        folder = Path(artifacts.download_artifacts(held.source, tracking_uri=mirror.address(mirrored)))
    else:
        folder = Path(mirrored.lake.root, held.source.removeprefix("tandem:/"))  # a server is told where below the lake's root
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == held.tags["artifact_hash"]
    assert read_manifest(folder)["model_version"] == "m333"

    # Trained again to other weights under the same name: another version.
    tiny.artifact(Path(mirrored.lake.root, "artifacts", "m22"), NAMES, NAMES, seed=99)
    tiny.register(spark, mirrored, "m22", D3, "passed")
    mirror.nominate(spark, mirrored, D3, "r", "m22")
    assert len(client.search_model_versions(ours)) == 4 and found(mirrored) == {"candidate": "m22"}
    assert client.get_model_version_by_alias(mirrored.registry.name, "candidate").version != versions["m22"].version


@pytest.mark.fault("R37")
def test_a_champion_that_changed_since_it_was_seen_is_not_overwritten(spark, mirrored, monkeypatch):
    """Two promotions that saw the same champion, at the same time: MLflow would let the later one win; here one wins, one is told to retry."""
    for version, day in (("m1", D1), ("m22", D2), ("m333", D3)):
        train(spark, mirrored, version, day)
    mirror.promote(spark, mirrored, D1, "r", "m1", mirror.aliases(mirrored))
    seen = mirror.aliases(mirrored)
    assert set(seen) == {"candidate", "champion"}
    move = MlflowClient.set_registered_model_alias

    def slow(client, *arguments):
        time.sleep(1)  # longer than the way from the comparison to here: unlocked, both would have compared by now
        move(client, *arguments)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", slow)

    def attempt(version, day):
        try:
            return mirror.promote(spark, mirrored, day, "r", version, seen) or version
        except TandemError as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = set(pool.map(attempt, ("m22", "m333"), (D2, D3)))
    (won,) = outcomes - {Transient}
    assert Transient in outcomes and found(mirrored)["champion"] == won
    with pytest.raises(Transient, match=r"champion names version . and not 1 any more: not moved to m1; retry"):
        mirror.promote(spark, mirrored, D1, "r", "m1", seen)
    mirror.promote(spark, mirrored, D1, "r", "m1", mirror.aliases(mirrored))  # the retry looks anew
    assert found(mirrored)["champion"] == "m1"


def test_a_night_needs_no_mirror(spark, mirrored, monkeypatch):
    """A registry that is away, one that is no database, and no MLflow at all: nothing is raised, and the check says so; released all the same."""
    write(spark, mirrored, ITEMS, [(name, name, name, ["all"], True, D1) for name in NAMES])
    write(spark, mirrored, MODELS, [("m1", "bridge", "artifacts/m1", "h", "{}", "h", "{}", "0", None, "[]", "passed", "r", NOW, D1)])
    stage(spark, mirrored, D1, {"u": ["i1"]})

    def at(uri):
        return mirrored.model_copy(update={"registry": mirrored.registry.model_copy(update={"uri": uri})})

    assert release.run(at("http://127.0.0.1:9"), D1, "night")["status"] == "released"
    assert told(spark, mirrored, D1) == [("warn", False)]
    broken = Path(mirrored.lake.root, "broken.db")
    broken.write_text("no database")
    assert mirror.aliases(at(f"sqlite:///{broken}")) is None
    mirror.nominate(spark, at(f"sqlite:///{broken}"), D2, "r", "m1")
    assert told(spark, mirrored, D2) == [("warn", False)]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "mlflow", None)  # what makes `import mlflow` raise
        seen = mirror.aliases(mirrored)
        mirror.promote(spark, mirrored, D3, "r", "m1", seen)
    assert seen is None and told(spark, mirrored, D3) == [("warn", False)]

    # Mended, the step's next run finds the model's place by itself.
    mirror.promote(spark, mirrored, D3, "r", "m1", mirror.aliases(mirrored))
    assert found(mirrored) == {"champion": "m1"} and told(spark, mirrored, D3) == [("warn", True)]


def test_where_the_mirror_is_and_what_it_says_of_the_artifact():
    local = load(None, ["lake.root=lake"])
    assert mirror.address(local) == f"sqlite:///{Path.cwd()}/lake/mlflow.db"
    assert mirror.address(load(None, ["registry.uri=none"])) is None
    far = ["lake.root=s3a://bucket/lake", "lake.files=shared"]
    assert mirror.address(load(None, far)) == f"sqlite:///{Path.cwd()}/shared/mlflow.db"
    assert mirror.address(load(None, [*far, "registry.uri=https://mlflow.example"])) == "https://mlflow.example"
    model = type("Model", (), {"artifact": "artifacts/m1"})
    assert mirror.source(local, model) == f"file://{Path.cwd()}/lake/artifacts/m1"
    assert mirror.source(load(None, ["registry.uri=https://mlflow.example"]), model) == "tandem:/artifacts/m1"
    assert mirror.source(load(None, far), model) == f"file://{Path.cwd()}/shared/artifacts/m1"
    with pytest.raises(BadArgument, match=r"lake\.files: found none, and lake\.root = 's3a://bucket/lake' is a URI; expected a folder"):
        mirror.source(load(None, far[:1]), model)


def test_an_artifact_that_is_not_the_registered_one_is_not_loaded(spark, config):
    """A whole other artifact in its place, with a manifest that fits it: only the hash in the table knows."""
    folder = Path(config.lake.root, "artifacts", "m1")
    tiny.artifact(folder, NAMES, NAMES, seed=1)
    tiny.register(spark, config, "m1", D1, "passed")
    assert serving(spark, config, D1, "search").model_version == "m1"
    tiny.artifact(folder, NAMES, NAMES, seed=2)
    assert read_manifest(folder)["model_version"] == "m1"
    with pytest.raises(BadData, match=r"models says .*: the artifact of m1 is damaged or was changed"):
        serving(spark, config, D1, "search")
    (folder / "manifest.json").unlink()
    with pytest.raises(BadData, match="has hash no file"):
        intact(config, champion(spark, config, D1))
