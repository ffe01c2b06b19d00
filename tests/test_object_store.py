"""A night in an S3 store, where TANDEM_S3 names a place in one (see the README): it publishes what the same night on a disk does.

The store is a process of its own that speaks S3 over HTTP; nothing of Spark, Delta, delta-rs or tandem is replaced.
"""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from deltalake import DeltaTable

SMALL = [
    *("simulate.users=120", "simulate.items=60", "simulate.clusters=4", "simulate.days=12", "simulate.bad_share=0", "simulate.late_share=0"),
    *("train.epochs=2", "train.text_vocabulary=400", "evaluate.bootstrap=20", "gate.beat_popularity=false", "gate.min_coverage_ratio=0"),
    *("spark.master=local[2]", "spark.shuffle_partitions=2"),
]
STORE = """
[spark.conf]
"spark.jars.packages" = "org.apache.hadoop:hadoop-aws:3.5.0"
"spark.hadoop.fs.s3a.endpoint" = "{endpoint}"
"spark.hadoop.fs.s3a.path.style.access" = "true"
"""


def demo(root: str, files: Path, settings: str) -> None:
    """The day before and a night, by one command."""
    files.mkdir()
    (files / "tandem.toml").write_text(settings)
    chosen = [*SMALL, f"lake.root={root}", f"lake.files={files}"]
    command = [sys.executable, "-m", "jobs", "demo", "--config", str(files / "tandem.toml"), *(word for each in chosen for word in ("--set", each))]
    subprocess.run(command, cwd=files, check=True)  # the warehouse is simulated there


def published(root: str, table: str) -> list[dict]:
    asked = {"recommendations": ["ds", "user_id", "rank", "item_id", "score"], "search_results": ["ds", "query", "user_id", "rank", "item_id", "score"]}[table]
    rows = DeltaTable(f"{root}/{table}").to_pyarrow_table(columns=asked).to_pylist()
    return sorted(rows, key=lambda row: [str(row[name]) for name in asked])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif("TANDEM_S3" not in os.environ, reason="no object store: TANDEM_S3 names none (see the README, An object store)")
def test_a_night_in_an_object_store_publishes_what_one_on_a_disk_does(tmp_path: Path) -> None:
    far, near = f"{os.environ['TANDEM_S3']}/{uuid.uuid4().hex}", str(tmp_path / "lake")
    demo(far, tmp_path / "far", STORE.format(endpoint=os.environ["AWS_ENDPOINT_URL"]))
    demo(near, tmp_path / "near", "")
    for table in ("recommendations", "search_results"):
        assert published(far, table) == published(near, table) != []
    assert {path.name for path in (tmp_path / "far").iterdir()} >= {"artifacts", "mlflow.db"}
