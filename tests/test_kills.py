"""`make chaos` in small: a release is killed at random moments while a reader polls; nothing is lost, doubled or half seen."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_release import D1, D2, prepare, stage

from jobs import release
from jobs.config import load

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import kills


def test_rows_lost_and_doubled_are_counted():
    """One row of three is missing, one came twice, one is new."""
    reference = {"a": Counter({"x": 1, "y": 1}), "b": Counter({"z": 1})}
    assert kills.compare(reference, reference) == (0, 0)
    assert kills.compare(reference, {"a": Counter({"x": 2}), "c": Counter({"new": 1})}) == (2, 2)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # three processes with a JVM each, beside the session's
@pytest.mark.fault("R12", "R13")
def test_a_killed_release_is_whole_or_absent(spark, monkeypatch, tmp_path):
    lake, before = tmp_path / "lake", tmp_path / "before"
    config = load(None, [f"lake.root={lake}", "spark.master=local[2]"])
    prepare(spark, config)
    stage(spark, config, D1, {f"u{n}": ["i1", "i2"] for n in range(50)}, {"red ball": ["i3"]})
    release.run(config, D1, "night1")
    stage(spark, config, D2, {f"u{n}": ["i1", "i4", "i2"] for n in range(50)}, {"red ball": ["i4", "i5"]})
    shutil.copytree(lake, before)
    release.run(config, D2, "undisturbed")
    reference = kills.rows_of(lake)
    reader = kills.Reader(lake, {"recommendations": {0, 150}, "search_results": {0, 2}}, str(D2), pause=0.2)  # without a pause it takes a core
    kills.put_back(before, lake, reader)
    reader.start()
    settings = [f"lake.root={lake}", "spark.master=local[1]", "spark.shuffle_partitions=1"]
    settings.append("spark.conf={'spark.sql.codegen.wholeStage'='false','spark.sql.codegen.factoryMode'='NO_CODEGEN'}")  # as in conftest.py
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")  # JVMs that live for seconds
    done = kills.campaign(lake, before, settings, ["release", "--date", str(D2)], reference, 4.0, reader, 2, 7, tmp_path / "trials.jsonl")
    reader.stopped.set()
    reader.join()
    assert (done["code"], done["lost"], done["doubled"], done["partial"]) == (0, 0, 0, 0) and done["polls"] > 20
    assert kills.rows_of(lake)["recommendations"] == reference["recommendations"] and reader.count("recommendations", str(D2), None) == 150
    lake.joinpath("recommendations/_delta_log").rename(lake / "hidden")
    assert kills.compare(reference, kills.rows_of(lake))[0] == 250
