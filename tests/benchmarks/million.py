"""Answering users inside Spark: users a second at two sizes, what Spark adds to the bare decoder, what workers hold, and Hugging Face in the same place.

    python tests/benchmarks/million.py [--users 100000]

50,000 items of 4 random codes of 256 and a TIGER-sized T5 with random weights (d 128, 4 + 4 layers); every user has 16 of them behind him, 64 tokens, and
gets 20. `recommend.answer` as the night runs it, one Python worker per core, answers written as Parquet, at a tenth of `--users` and at all of them, in fp32
and in bf16; the minutes of a million are those of `--users`, in proportion, with the rates of both sizes beside them. Bare: as many processes as cores that do
nothing but rank. The rival runs `generate` with `prefix_allowed_tokens_fn` in `mapInPandas`, its model loaded once per worker, batches of 8.

Workers' memory is the largest sum of their resident sets, read twice a second. Writes tests/benchmarks/results/speed_million.json and two figures; with
--elsewhere a speed_million_elsewhere.json alone.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from decode import CODES, ITEMS, LEVELS, SHAPES, world
from figures import HERE, keep, origin, write
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.config import load
from jobs.recommend import answer, spread
from jobs.spark import session

K, HISTORY, BARE, THEIRS = 20, 16, 1600, 800
NAMES = [f"i{item:05d}" for item in range(ITEMS)]


def artifact(folder: Path, precision: str) -> str:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from model.artifact import save, weights_of
    from model.unified import UnifiedModel
    from model.vocabulary import EOS, PAD, Vocabulary, train_tokenizer

    tokenizer = train_tokenizer(["one word"], 300)
    vocabulary = Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), {"joint": world()[0]}, 0, [CODES] * LEVELS)
    numbers = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD, "dropout_rate": 0.0}
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary.size, feed_forward_proj="relu", **numbers, **SHAPES["tiger"][0]))
    t5.config.scale_decoder_outputs = False
    model = UnifiedModel(t5, vocabulary.text_size, vocabulary.level_sizes)
    prompts = {"history_length": HISTORY, "max_query_tokens": 16, "history_in_search": 0.0, "history_per_behaviour": 5, "behaviour_tokens": True}
    held = {key: value for key, value in t5.config.to_dict().items() if isinstance(value, int | float | str | bool)}
    config = {"t5": held, "recipe": "bridge", "tasks": ["recommend"], "softmax": "all", "answer_precision": precision} | prompts
    save(folder, weights_of(model), vocabulary, NAMES, config, [], {})
    return str(folder)


def requests(spark: SparkSession, users: int) -> DataFrame:
    """Users who have each acted on HISTORY items, drawn evenly."""
    item = F.concat(F.lit("i"), F.lpad((F.abs(F.xxhash64("id", "n")) % ITEMS).cast("string"), 5, "0"))
    act = F.struct(item.alias("item_id"), F.lit("recommendation").alias("surface"), F.lit("click").alias("action"), F.lit(None).cast("string").alias("query"))
    acts = spark.range(users).select("id", F.explode(F.sequence(F.lit(1), F.lit(HISTORY))).alias("n")).withColumn("act", act)
    gathered = acts.groupBy("id").agg(F.collect_list("act").alias("history"))
    user = F.concat(F.lit("u"), F.col("id").cast("string"))
    return gathered.select(user.alias("user_id"), F.lit(None).cast("string").alias("query"), "history", F.lit(None).cast("array<string>").alias("exclude"))


class Watch:
    """The largest sum of the Python workers' resident sets, MB, while the block runs."""

    def __enter__(self) -> "Watch":
        self.largest, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self) -> None:
        while not self.over.wait(0.5):
            held = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark" in " ".join(process.cmdline()) and process.name().startswith("python"):
                        held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.largest = max(self.largest, held / 1e6)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def served(spark: SparkSession, path: Path, users: int, model: str, out: Path) -> dict[str, Any]:
    """Seconds and workers' memory of answering the users at `path`, model loading and writing among them."""
    shelf = spark.sparkContext.broadcast((NAMES, np.log(np.full(ITEMS, 1 / ITEMS))))
    begun = time.perf_counter()
    with Watch() as watch:
        asked = spread(spark, spark.read.parquet(str(path)), users)
        answer(asked, model, "recommend", K, K, 256, shelf).write.mode("overwrite").parquet(str(out))
    seconds = time.perf_counter() - begun
    rows = spark.read.parquet(str(out)).where("source = 'model'").count()
    if rows != users * K:
        raise RuntimeError(f"{rows} rows of the model for {users} users: expected {users * K}")
    found = {"users": users, "seconds": round(seconds, 1), "users_per_second": round(users / seconds, 1), "workers_mb": round(watch.largest)}
    print(Path(model).name, found, flush=True)
    return found


def bare(model: str, ready: Any, took: Any) -> None:
    """A process that ranks BARE users, once every other is ready."""
    from model.products import one_worker
    from model.rank import load as load_model

    one_worker()
    ranker, rng = load_model(model), np.random.default_rng(os.getpid())
    histories = [[{"item_id": NAMES[item]} for item in rng.integers(0, ITEMS, HISTORY)] for _ in range(BARE)]
    ranker.rank("recommend", histories[:64], [None] * 64, K, K)
    ready.wait()
    begun = time.perf_counter()
    for first in range(0, BARE, 256):
        part = histories[first : first + 256]
        ranker.rank("recommend", part, [None] * len(part), K, K)
    took.put(time.perf_counter() - begun)


def bare_rate(model: str, cores: int) -> float:
    context = multiprocessing.get_context("spawn")
    ready, took = context.Barrier(cores), context.Queue()
    processes = [context.Process(target=bare, args=(model, ready, took)) for _ in range(cores)]
    for process in processes:
        process.start()
    seconds = [took.get() for _ in processes]
    for process in processes:
        process.join()
    return round(BARE * cores / max(seconds), 1)


def hugging_face(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    import torch
    from decode import hf

    torch.set_num_threads(1)
    generate, codes = hf("tiger", "float32"), world()[0] + 2 + CODES * np.arange(LEVELS)
    for frame in frames:
        for first in range(0, len(frame), 8):
            part = frame.iloc[first : first + 8]
            source = np.stack([np.concatenate([codes[int(act["item_id"][1:])] for act in history]) for history in part["history"]])
            rows, scores = generate(source)
            users = np.repeat(part["user_id"].to_numpy(), rows.shape[1])
            yield pd.DataFrame({"user_id": users, "item_id": [NAMES[row] for row in rows.ravel()], "score": scores.ravel()})


def rival(spark: SparkSession, path: Path, out: Path) -> float:
    asked = spark.read.parquet(str(path)).limit(THEIRS).repartition(spark.sparkContext.defaultParallelism, "user_id")
    begun = time.perf_counter()
    asked.mapInPandas(hugging_face, "user_id string, item_id string, score double").write.mode("overwrite").parquet(str(out))
    return round(THEIRS / (time.perf_counter() - begun), 1)


def fresh() -> SparkSession:
    """A session whose Python workers have done nothing yet: what earlier ones loaded does not count."""
    if running := SparkSession.getActiveSession():
        running.stop()
    return session(load(None, ["spark.driver_memory=4g"]))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--users", type=int, default=100_000)
    options.add_argument("--elsewhere", action="store_true", help="this is not the machine that the figures are of: a table of its own, and no figure")
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="million-"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])  # the workers import `decode` and this checkout
    sizes = (chosen.users // 10, chosen.users)
    spark = fresh()
    cores = spark.sparkContext.defaultParallelism
    for users in sizes:
        requests(spark, users).write.parquet(str(folder / f"users-{users}"))
    theirs = rival(spark, folder / f"users-{sizes[0]}", folder / "theirs")
    print(f"Hugging Face in Spark: {theirs} users/s", flush=True)
    found: dict[str, Any] = {"hf_users": THEIRS, "hf_users_per_second": theirs}
    for precision in ("fp32", "bf16"):
        model = artifact(folder / precision, precision)
        alone = bare_rate(model, cores)
        spark = fresh()
        runs = [served(spark, folder / f"users-{users}", users, model, folder / "answers") for users in sizes]
        found[precision] = {"bare_users_per_second": alone, "runs": runs, "minutes_per_million": round(1e6 / runs[-1]["users_per_second"] / 60, 1)}
    data = f"{chosen.users:,} simulated users of {HISTORY} items, {ITEMS:,} items of {LEVELS} random codes, random weights"
    common = origin(f"python tests/benchmarks/million.py --users {chosen.users}{' --elsewhere' * chosen.elsewhere}", data, [0], "torch", "pyspark")
    keep(f"speed_million{'_elsewhere' * chosen.elsewhere}", {**found, **common})
    small, large = found["fp32"]["runs"]
    minutes = {"figure": "spark_million_users_minutes", "value": found["fp32"]["minutes_per_million"], "unit": "minutes", "ci": None}
    growth = {"figure": "rss_growth_10x", "value": large["workers_mb"] / small["workers_mb"], "unit": "ratio", "ci": None}
    headline = [
        {**minutes, "rival": "Hugging Face in Spark, minutes", "rival_value": round(1e6 / theirs / 60, 1)},
        {**growth, "rival": "workers at a tenth of the users, MB", "rival_value": small["workers_mb"]},
    ]
    write([] if chosen.elsewhere else headline, common)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
