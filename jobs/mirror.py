"""The models, mirrored into an MLflow registry: what people's tools read. The tables stay the truth; nothing here decides what is served.

Reads the row of a model. Writes, at `registry.uri`, a version of the registered model `registry.name` per artifact, its aliases `candidate`
(trained last) and `champion` (served), and the check `mirror` of step registry. Knows not how a model is trained or released.

MLflow sets an alias whatever it named before. Here an alias moves only while it names what it named when its mover first looked, under a
lock in the folder of files (`lake.files`) that every verb takes: two of them cannot both have looked before and moved after. A registry that cannot be
reached stops no night: the check says so (severity warn), and the next model registered there finds its place again.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs.checks import Check, record
from jobs.config import Config
from jobs.errors import TandemError, Transient
from jobs.spark import read
from jobs.tables import MODELS

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Set before MLflow is imported: no word to its makers, and a server that is away is given up after seconds, not after minutes.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}

log = logging.getLogger("tandem")


def address(config: Config) -> str | None:
    """`registry.uri` with the folder of files in it; None where there is no mirror."""
    uri = config.registry.uri
    return uri and uri.replace("{root}", os.path.abspath(config.files))


@contextmanager
def client(config: Config) -> Iterator["MlflowClient"]:
    """A client of the registry, which has the registered model; no other verb on this lake's disk has one meanwhile."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = address(config)
    with open(Path(config.files) / ".registry.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            made.get_registered_model(config.registry.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            made.create_registered_model(config.registry.name, description="Mirror of tandem's table models; the table `releases` decides what is served.")
        yield made


@contextmanager
def told(spark: SparkSession, config: Config, day: date, run_id: str) -> Iterator[None]:
    """Run the block and write the check of it. A conflict (Transient) passes through; any other error is the mirror's, and only told."""
    error: Exception | None = None
    try:
        yield
    except TandemError:
        raise
    except Exception as raised:  # of MLflow, its database, its server or its absence: many classes, one meaning
        error = raised
        log.warning("registry: the mirror at registry.uri cannot be reached or refuses (%s); nothing else depends on it", type(error).__name__)
    record(spark, config, "registry", day, [Check("mirror", "warn", float(error is not None), 0.0, error is None)], run_id)


def aliases(config: Config) -> dict[str, str] | None:
    """Alias → MLflow version, as they are now: what `promote` wants to have been seen. None where the registry cannot be reached, or is none."""
    if address(config) is None:
        return None
    try:
        with client(config) as registry:
            return named(registry, config)
    except Exception:  # `promote` tells
        return None


def named(registry: "MlflowClient", config: Config) -> dict[str, str]:
    """Alias → MLflow version, which some stores give as a number."""
    return {alias: str(version) for alias, version in registry.get_registered_model(config.registry.name).aliases.items()}


def version_of(registry: "MlflowClient", config: Config, model: Row) -> Any:
    """The MLflow version of the model's artifact, made where there is none: an artifact of another hash is another version."""
    name = config.registry.name
    same = f"name='{name}' and tags.model_version='{model.model_version}' and tags.artifact_hash='{model.artifact_hash}'"
    found = registry.search_model_versions(same)
    if found:
        return min(found, key=lambda version: int(version.version))
    tags = {key: str(model[key]) for key in ("model_version", "recipe", "artifact", "artifact_hash", "ds", "run_id", "code_version", "config_hash")}
    return registry.create_model_version(name, source(config, model), tags=tags)


def source(config: Config, model: Row) -> str:
    """Where the artifact lies. An MLflow server refuses the paths of another machine's disk: there it is a name below the folder of files."""
    path = Path(os.path.abspath(f"{config.files}/{model.artifact}"))
    return f"tandem:/{model.artifact}" if (config.registry.uri or "").startswith("http") else path.as_uri()


def nominate(spark: SparkSession, config: Config, day: date, run_id: str, model_version: str) -> None:
    """Register the model, and point `candidate` at it unless that names one of a later day."""
    if address(config) is None:
        return
    with told(spark, config, day, run_id), client(config) as registry:
        name = config.registry.name
        model = row_of(spark, config, model_version)
        mine = version_of(registry, config, model)
        held = named(registry, config).get("candidate")
        if held == str(mine.version):
            return
        if held is None or registry.get_model_version(name, held).tags.get("ds", "") <= str(model.ds):
            registry.set_registered_model_alias(name, "candidate", mine.version)


def promote(spark: SparkSession, config: Config, day: date, run_id: str, model_version: str, seen: dict[str, str] | None) -> None:
    """Point `champion` at the model, if it still names what it did in `seen`. Raises Transient where somebody moved it since."""
    if address(config) is None:
        return
    with told(spark, config, day, run_id), client(config) as registry:
        if seen is None:
            raise ConnectionError("the registry could not be reached when the step began")
        name = config.registry.name
        mine = version_of(registry, config, row_of(spark, config, model_version))
        now = named(registry, config).get("champion")
        if now == str(mine.version):
            return
        if now != seen.get("champion"):
            raise Transient(f"registry: champion names version {now} and not {seen.get('champion')} any more: not moved to {model_version}; retry")
        registry.set_registered_model_alias(name, "champion", mine.version)


def row_of(spark: SparkSession, config: Config, model_version: str) -> Row:
    return read(spark, config, MODELS).where(F.col("model_version") == F.lit(model_version)).first()
