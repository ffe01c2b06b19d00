"""A large catalogue on its way to names: read, embedded, named; how many rows a second, and the memory of it all.

    python tests/benchmarks/names.py [--items 1000000] [--events 2000000] [--steps log copy ingest]

A simulated log, loaded at once: events by a tenth as many users on items of skewed popularity; items with a title of four and a text of twelve of 20,000
words. Each step is a process of its own; its seconds begin when Spark has started, its memory is that of the whole process tree, Spark's among it. `copy` is
what ingest is held against: Spark copies the same files into Delta tables without a look at a row. `text` and `als` are what embed_items makes, each alone
and written nowhere. Writes tests/benchmarks/results/speed_names.json, where no step is left out. Run it while nothing else runs.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from figures import REPOSITORY, keep, origin

from jobs.config import Config, load

DAY = date(2026, 11, 19)
DAYS, WORDS, SKEW, PER_USER = 30, 20_000, 3, 10
SOURCES = ("interactions", "catalogue")
# step → (settings of its own, of which rows it does how many a second)
STEPS: dict[str, tuple[list[str], str]] = {
    "log": ([], ""),
    "copy": ([], "events and items"),
    "ingest": ([], "events and items"),
    "build_corpora": ([], "events"),
    "text": ([], "items"),
    "als": ([], "events"),
    "embed_items": ([], "items"),
    "assign_identifiers, atomic": ([], "items"),
    "assign_identifiers, semantic": (["identifiers.scheme=semantic"], "items"),
}


def configured(folder: Path, settings: list[str]) -> Config:
    sources = [f"warehouse.{name}={{path='{folder}/{name}', format='parquet'}}" for name in SOURCES]
    return load(None, [f"lake.root={folder / 'lake'}", f"ingest.base_day={DAY}", "warehouse.searches=none", *sources, *settings])


def write_log(spark: Any, folder: Path, items: int, events: int) -> None:
    from pyspark.sql import functions as F

    def drawn(n: int, below: int) -> Any:
        return F.pmod(F.xxhash64("id", F.lit(n)), F.lit(below)).cast("string")

    ended = F.unix_timestamp(F.lit(str(DAY)).cast("timestamp"))
    acts = spark.range(events).select(
        F.concat(F.lit("e"), "id").alias("event_id"),
        F.concat(F.lit("u"), drawn(1, events // PER_USER)).alias("user_id"),
        F.concat(F.lit("i"), F.floor(F.pow(F.rand(0), SKEW) * items).cast("string")).alias("item_id"),
        F.timestamp_seconds(ended - F.floor(F.rand(1) * DAYS * 86_400)).alias("event_ts"),
        F.lit("click").alias("action"),
    )
    acts.write.parquet(str(folder / "interactions"))
    words = [F.concat(F.lit("w"), drawn(n, WORDS)) for n in range(16)]
    named = F.concat(F.lit("i"), "id").alias("item_id")
    spark.range(items).select(named, F.concat_ws(" ", *words[:4]).alias("title"), F.concat_ws(" ", *words[4:]).alias("text")).write.parquet(
        str(folder / "catalogue")
    )


def do(step: str, config: Config, spark: Any, folder: Path, items: int, events: int) -> None:
    from pyspark.sql import functions as F

    from jobs import embed_items
    from jobs.build_corpora import with_split
    from jobs.spark import read
    from jobs.tables import CORPORA, ITEMS

    def nowhere(frame: Any) -> None:
        frame.write.format("noop").mode("overwrite").save()

    if step == "log":
        write_log(spark, folder, items, events)
    elif step == "copy":
        for name in SOURCES:
            rows = spark.read.parquet(str(folder / name)).withColumn("ds", F.lit(DAY))
            rows.write.format("delta").partitionBy("ds").save(str(folder / "copy" / name))
    elif step == "text":
        catalogue = read(spark, config, ITEMS, at=DAY)
        name, encoder = embed_items.text_encoder(spark, config, DAY, catalogue)
        nowhere(embed_items.text_view(catalogue, "text", encoder, name))
    elif step == "als":
        corpora = with_split(read(spark, config, CORPORA, until=DAY), config.corpora, DAY)
        nowhere(embed_items.item_factors(corpora.where(F.col("split") == "train"), config.embed))
    else:
        importlib.import_module(f"jobs.{step.split(',')[0]}").run(config, DAY, "names")


def one(step: str, folder: Path, items: int, events: int) -> dict[str, Any]:
    from jobs.run import PeakMemory
    from jobs.spark import session

    config = configured(folder, STEPS[step][0])
    with PeakMemory() as memory:
        spark = session(config)
        spark.range(1).count()
        begun = time.perf_counter()
        do(step, config, spark, folder, items, events)
        took = time.perf_counter() - begun
    return {"step": step, "seconds": round(took, 1), "peak_mb": memory.peak_mb}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=1_000_000)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--steps", choices=STEPS, nargs="+", default=list(STEPS), help="these alone, of which each needs those before it that write")
    options.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    size = ["--items", str(chosen.items), "--events", str(chosen.events)]
    if chosen.step:
        (chosen.folder / "step.json").write_text(json.dumps(one(chosen.step, chosen.folder, chosen.items, chosen.events)))
        return 0
    counted = {"": 0, "items": chosen.items, "events": chosen.events, "events and items": chosen.items + chosen.events}
    steps = []
    with tempfile.TemporaryDirectory(prefix="names-") as name:
        for step in chosen.steps:
            rows = STEPS[step][1]
            subprocess.run([sys.executable, __file__, "--step", step, "--folder", name, *size], cwd=REPOSITORY, check=True)
            found = json.loads(Path(name, "step.json").read_text()) | {"rows": counted[rows], "of": rows}
            print(found, flush=True)
            steps += [found] if rows else []
    if chosen.steps != list(STEPS):
        return 0
    common = origin(" ".join(["python tests/benchmarks/names.py", *size]), "simulated", [0], "pyspark")
    found = {"items": chosen.items, "events": chosen.events, "steps": steps}
    keep("speed_names", {**found, **common})
    return 0


if __name__ == "__main__":
    sys.exit(main())
