"""Per-user sequences from an event log: tandem's, the usual Spark recipe, DuckDB and Polars, in turns on the same Parquet files.

    python tests/benchmarks/corpora.py [--events 20000000] [--rounds 3]

A log of `--events` events by a twentieth as many users (lognormal activity), 50,000 items, eight zstd files in the order of time; each engine
writes (user_id, the latest 50 actions, oldest first) as Parquet, on all cores. The usual recipe is `sort_array(collect_list(struct))`, cut afterwards.
All four outputs must have the same rows, by a hash that knows no order. Beside them, as a guide to what Spark's exchange costs: the events brought together
by user and written as they are, no histories made. Then tandem alone at a tenth and at a third of the events (its slope), and once more with a user of a
million events. Spark is warm: a first round does not count. Writes tests/benchmarks/results/speed_corpora.json and a file per figure.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from figures import keep, origin, ratio, write
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.build_corpora import ORDER, as_action, last, latest_histories
from jobs.config import load
from jobs.sections import Corpora
from jobs.spark import session

DEPTH, ITEMS, FILES, PER_USER = 50, 50_000, 8, 20
MOVED = "Spark, events moved and written"
SLOPE = (0.1, 0.3, 1.0)
HEAVY = 1_000_000


def log_of(events: int, folder: Path, heavy: int = 0) -> Path:
    """The log's folder; every event of it is by the right user at the right time in any order of reading."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    weights = rng.lognormal(0, 1, max(1, events // PER_USER))
    users = rng.choice(len(weights), events, p=weights / weights.sum())
    users = rng.permutation(np.concatenate([users, np.full(heavy, len(weights))]))
    times = np.sort(rng.integers(0, 90 * 86_400, len(users))) + 1_790_000_000
    for number, rows in enumerate(np.array_split(np.arange(len(users)), FILES)):
        items, searched = rng.integers(0, ITEMS, len(rows)), rng.random(len(rows)) < 0.3
        queries = np.where(searched, np.char.add("query ", (items % 5000).astype(str)), None)
        table = pa.table(
            {
                "event_id": pa.array(np.char.add("e", rows.astype(str))),
                "user_id": pa.array(np.char.add("u", users[rows].astype(str))),
                "item_id": pa.array(np.char.add("i", items.astype(str))),
                "surface": pa.array(np.where(searched, "search", "recommendation")),
                "action": pa.array(np.full(len(rows), "click")),
                "query": pa.array(queries, pa.string()),
                "event_ts": pa.array(times[rows] * 1_000_000, pa.timestamp("us", "UTC")),
                "sequence": pa.array(np.zeros(len(rows), np.int64)),
            }
        )
        pq.write_table(table, folder / f"part-{number}.parquet", compression="zstd")
    return folder


def usual(events: DataFrame) -> DataFrame:
    entry = F.struct(*ORDER, "item_id", "surface", "action", "query")
    gathered = events.groupBy("user_id").agg(F.sort_array(F.collect_list(entry)).alias("history"))
    return gathered.withColumn("history", F.transform(last("history", DEPTH), lambda event: as_action(event, event.event_ts)))


def by_spark(spark: SparkSession, log: Path, out: Path, sequences: Callable[[DataFrame], DataFrame]) -> None:
    sequences(spark.read.parquet(str(log))).write.option("compression", "zstd").parquet(str(out))


def by_duckdb(log: Path, out: Path) -> None:
    out.mkdir()
    entry = "{'item_id': item_id, 'surface': surface, 'action': action, 'query': query, 'event_ts': event_ts}"
    ordered = f"list({entry} ORDER BY event_ts, sequence, event_id)"
    statement = f"SELECT user_id, {ordered}[-{DEPTH}:] AS history FROM read_parquet($log) GROUP BY user_id"
    with duckdb.connect() as connection:
        relation = connection.sql(statement, params={"log": str(log / "*.parquet")})
        relation.write_parquet(str(out / "part.parquet"), compression="zstd")


def by_polars(log: Path, out: Path) -> None:
    out.mkdir()
    entry = pl.struct("item_id", "surface", "action", "query", "event_ts").tail(DEPTH).alias("history")
    frame = pl.scan_parquet(log / "*.parquet").sort(*ORDER).group_by("user_id", maintain_order=False).agg(entry)
    frame.collect().write_parquet(out / "part.parquet", compression="zstd")


def content(spark: SparkSession, out: Path) -> tuple[int, int, int]:
    """Users, actions, and a sum of row hashes."""
    frame = spark.read.parquet(str(out)).withColumn("at", F.transform("history", lambda action: F.unix_micros(action.event_ts)))
    told = F.transform("history", lambda action: F.struct(*(action[name].alias(name) for name in ("item_id", "surface", "action", "query"))))
    row = frame.agg(F.count("*"), F.sum(F.size("history")), F.sum(F.xxhash64("user_id", told, "at") % 1_000_000_007)).first()
    return row[0], row[1], row[2]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=20_000_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="corpora-"))
    spark = session(load(None, ["spark.driver_memory=8g"]))
    settings = Corpora(history_length=DEPTH)
    engines: dict[str, Callable[[Path, Path], None]] = {
        "tandem": lambda log, out: by_spark(spark, log, out, lambda events: latest_histories(events, settings)),
        "usual recipe": lambda log, out: by_spark(spark, log, out, usual),
        "DuckDB": by_duckdb,
        "Polars": by_polars,
        MOVED: lambda log, out: by_spark(spark, log, out, lambda events: events.repartition("user_id")),
    }

    def timed(engine: str, log: Path) -> float:
        shutil.rmtree(folder / engine, ignore_errors=True)
        begun = time.perf_counter()
        engines[engine](log, folder / engine)
        took = time.perf_counter() - begun
        print(f"{engine}, {log.name}: {took:.1f} s", flush=True)
        return took

    log = log_of(chosen.events, folder / "all")
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(-1, chosen.rounds):
        for engine in engines:
            took = timed(engine, log)
            if turn >= 0:
                seconds[engine].append(round(took, 2))
    written = {engine: content(spark, folder / engine) for engine in engines if engine != MOVED}
    if len(set(written.values())) > 1:
        print(f"the engines wrote different rows: {written}", file=sys.stderr)
        return 1
    slope = {}
    for share in SLOPE[:-1]:
        part = log_of(round(chosen.events * share), folder / f"share-{share}")
        slope[round(chosen.events * share)] = round(min(timed("tandem", part) for _ in range(2)), 2)
    slope[chosen.events] = min(seconds["tandem"])
    exponent = float(np.polyfit(np.log(list(slope)), np.log(list(slope.values())), 1)[0])
    heavy = round(timed("tandem", log_of(chosen.events // 10, folder / "heavy", HEAVY)), 2)
    command = f"python tests/benchmarks/corpora.py --events {chosen.events} --rounds {chosen.rounds}"
    common = origin(command, f"{chosen.events:,} simulated events", [0], "pyspark", "duckdb", "polars")
    found: dict[str, Any] = {"users": written["tandem"][0], "actions": written["tandem"][1], "seconds": seconds, "slope": slope, "exponent": round(exponent, 3)}
    found |= {"heavy_events": HEAVY, "heavy_seconds": heavy}
    keep("speed_corpora", {**found, **common})
    theirs = seconds["usual recipe"]
    write([ratio("corpora_vs_collect_list", theirs, seconds["tandem"], "sort_array(collect_list(struct)), seconds", float(np.median(theirs)))], common)
    print(json.dumps(found, indent=1))
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
