"""What becomes of a step when a Python worker crashes or hangs, and what a worker may take: one thread, one model, memory of one batch."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from test_recommend import DAY, NAMES, TEXTS, event, write_model, write_world

from jobs import recommend
from jobs.spark import exists, session
from jobs.tables import STAGED_RECOMMENDATIONS
from udfs.rank import ranker


def test_jars_of_the_configuration_stand_beside_deltas(spark):
    names = {path.rpartition("/")[2] for path in spark.conf.get("spark.jars").split(",")}
    assert "own.jar" in names and any("delta-spark" in name for name in names)


def test_a_thread_takes_the_running_session_as_it_is(spark, config):
    before = spark.conf.getAll
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(session, config.model_copy(update={"spark": config.spark.model_copy(update={"shuffle_partitions": 7})})).result()
    assert theirs.sparkContext is spark.sparkContext and spark.conf.getAll == before


@pytest.mark.fault("R43", "R44")
def test_a_crashed_or_hanging_worker_stages_nothing(spark, config, monkeypatch):
    """A segmentation fault and a worker that waits for ever end the step; nothing is staged, and the same session answers the day after that."""

    def crash(frames):
        import os
        import signal

        for frame in frames:
            os.kill(os.getpid(), signal.SIGSEGV)
            yield frame

    def hang(frames):
        import time

        for frame in frames:
            time.sleep(600)
            yield frame

    write_world(spark, config, [event("u1", "i01"), event("u2", "i02")])
    write_model(spark, config)
    idle = "spark.sql.execution.pyspark.udf.idleTimeoutSeconds"
    patience = spark.conf.get(idle)
    for udf, seconds, told in ((crash, patience, "crashed"), (hang, "2", "idle timeout")):
        spark.conf.set(idle, seconds)
        monkeypatch.setattr(recommend, "ranker", lambda *_, udf=udf: udf)
        try:
            with pytest.raises(Exception, match=told):
                recommend.run(config, DAY, "broken")
        finally:
            spark.conf.set(idle, patience)
        assert not exists(spark, config, STAGED_RECOMMENDATIONS)
    monkeypatch.undo()
    assert patience == "1800" and recommend.run(config, DAY, "mended")["rows"] == {"staged_recommendations": 40}


@pytest.mark.fault("R45", "R47")
def test_a_worker_takes_one_thread_one_model_and_one_batch(tmp_path):
    """Ten times the users take no more memory (10 % of the first), the model is read once, and torch computes on one thread."""
    import torch

    from model import rank

    path = tiny.artifact(tmp_path / "m", NAMES[:25], TEXTS)
    catalogue = SimpleNamespace(value=(NAMES, np.log(np.arange(len(NAMES), 0, -1) / 1000)))
    act = {"item_id": NAMES[3], "surface": "recommendation", "action": "click", "query": None}
    answer = ranker(path, "recommend", 8, 8, 64, catalogue)
    torch.set_num_threads(2)

    def frames(count):
        for n in range(count):
            gc.collect()  # garbage that waits for its collection is no growth: forty batches leave as much of it as sixty
            users = [f"u{n}-{i}" for i in range(128)]
            yield pd.DataFrame({"user_id": users, "query": None, "history": [[act] * (i % 20 + 1) for i in range(128)], "exclude": None})

    def peak(count):
        tracemalloc.start()
        answered = sum(len(rows) for rows in answer(frames(count)))
        assert answered == count * 128 * 8
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    peak(2)  # loads the model
    gc.freeze()  # or each collection looks through all of Spark and torch, for half a second
    assert peak(20) < 1.1 * peak(2)  # not of one batch: from the second on, the answers of the batch before still stand
    gc.unfreeze()
    assert torch.get_num_threads() == 1 and rank.load(path) is rank.load(path)
