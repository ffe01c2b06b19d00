"""One Spark session for all tests; a lake of its own for each."""

import os
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from jobs.config import Config, load

# Tiny models on few cores: threads of theirs would only wait for each other, and for Spark's.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, a test of minutes would keep one worker waiting for the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A row of the fault table finds its tests: `pytest -k R12`; `pytest -m fault` is all of them, and a JUnit report names each one's rows."""
    for mark in item.iter_markers("fault"):
        item.extra_keyword_matches.update(mark.args)
        item.user_properties.extend(("fault", row) for row in mark.args)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator["pyspark.sql.SparkSession"]:  # noqa: F821
    from jobs.spark import session

    root = tmp_path_factory.mktemp("spark")
    ZipFile(root / "own.jar", "w").close()
    settings = {
        "spark.jars": str(root / "own.jar"),
        "spark.sql.warehouse.dir": str(root / "warehouse"),
        # Compiling a plan costs more than running it on a handful of rows: three of these files took 156 s with it, 108 s without. Nights of their own compile.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    config = load(None, [f"lake.root={root}", "spark.shuffle_partitions=2", "spark.master=local[2]"])
    running = session(config.model_copy(update={"spark": config.spark.model_copy(update={"conf": settings})}))
    yield running
    running.stop()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Without the registry's mirror: its database takes seconds to make, and the tests of it ask for one."""
    places = [f"lake.root={tmp_path / 'lake'}", f"simulate.path={tmp_path / 'warehouse'}", "registry.uri=none"]
    return load(None, [*places, "spark.shuffle_partitions=2", "spark.master=local[2]"])
