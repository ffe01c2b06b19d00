"""The main job, whole: a simulated warehouse, a night on it, the night after, and each again."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import assign_identifiers, build_corpora, embed_items, evaluate, ingest, recommend, registry, release, run, search, simulate, train
from jobs.config import Config, load
from jobs.release import served
from jobs.spark import versions
from jobs.tables import RECOMMENDATIONS, RELEASES, SEARCH_RESULTS, TABLES

SECOND_NIGHT = (ingest, build_corpora, embed_items, assign_identifiers, train, evaluate)
RESULTS = (RECOMMENDATIONS, SEARCH_RESULTS, RELEASES)
FIRST, SECOND = date(2026, 11, 18), date(2026, 11, 19)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # 25 steps, each with a Spark plan or more of its own
def test_a_rerun_of_a_night_finds_its_work_done(spark: SparkSession, config: Config, tmp_path: Path) -> None:
    """Two nights and both again: the same models, no published row rewritten. The tables lie below a URI, as in an object store, and the models in a folder.

    The second night starts from the model of the first; run again, it must not start from its own.
    """
    small = ["simulate.users=120", "simulate.items=60", "simulate.clusters=4", "simulate.days=12", "simulate.bad_share=0", "simulate.late_share=0"]
    fast = ["train.epochs=2", "train.warm_epochs=1", "train.text_vocabulary=400", "evaluate.bootstrap=20", "gate.beat_popularity=false", "gate.max_drop=1"]
    places = [f"lake.root=file://{config.lake.root}", f"lake.files={tmp_path / 'files'}", f"simulate.path={config.simulate.path}"]
    kept = [*places, "spark.shuffle_partitions=2", "spark.master=local[2]"]
    logs = {"interactions": "interactions/ds={ds}", "searches": "searches/ds={ds}", "catalogue": "catalogue"}
    logs = [f"warehouse.{name}={{path='{config.simulate.path}/{path}', format='jsonl'}}" for name, path in logs.items()]
    night = load(None, [*kept, *logs, *small, *fast, "gate.min_coverage_ratio=0", f"ingest.base_day={FIRST - timedelta(days=1)}"])
    simulate.run(night, SECOND, "test")
    for verb in (ingest, build_corpora):
        verb.run(night, FIRST - timedelta(days=1), "test")

    done = run.run(night, FIRST, "first")
    for verb in SECOND_NIGHT:
        verb.run(night, SECOND, "second")
    models = {day: registry.candidate(spark, night, day) for day in (FIRST, SECOND)}
    assert [step["verb"] for step in done["steps"]] == list(run.STEPS)
    assert (models[FIRST].parent, models[SECOND].parent) == (None, models[FIRST].model_version)
    assert served(spark, night).ds == FIRST
    before = versions(spark, night, RESULTS)

    for day in (SECOND, FIRST):
        assert train.run(night, day, "again") == {"model_version": models[day].model_version, "trained": False}
    for verb in (recommend, search, release):
        verb.run(night, FIRST, "again")
    assert versions(spark, night, RESULTS) == before
    assert {path.name for path in Path(config.lake.root).iterdir()} == {"reports", *(name for name in TABLES if (Path(config.lake.root) / name).exists())}
    assert {path.name for path in (tmp_path / "files").iterdir()} >= {"artifacts"} and not [path for path in Path.cwd().iterdir() if path.name == "file:"]
