"""Ways of naming items, compared (arXiv 2508.10478): recall of both tasks, collisions, use of codes.

    TANDEM_DATA=… python tests/benchmarks/identifiers.py            (amazon_toys)
    python tests/benchmarks/identifiers.py --quick                  (a small simulated world: only whether all of it runs)

Ingests and builds the corpora once; then, for each of NAMES, names the items, trains the bridge model and ranks the test examples, in a lake of its own
below --lake. A name that is done is not done again unless its settings changed or --fresh is given. Writes tests/benchmarks/results/identifiers.json, from
which `python tests/benchmarks/readme.py` makes the README's table; --quick writes it below --lake instead. Run it while nothing else runs.
"""

import argparse
import importlib
import json
import logging
import os
import shutil
import sys
import time
from datetime import date
from pathlib import Path

from figures import HERE, REPOSITORY, origin
from nights import DAYS

from jobs.config import Config, load

CONSTRUCTIONS = ("content", "search", "rec", "multi_task", "fused_concat", "fused_svd", "separate", "prefix_share")
NAMES = [("atomic", ""), *((construction, "residual_kmeans") for construction in CONSTRUCTIONS), ("multi_task", "rq_vae"), ("multi_task", "product")]
# Two levels of 256 codes, and the search-tuned vectors beside behaviour, as in the paper; behaviour narrower than text, so that fused_svd has to reduce.
PAPER = ["identifiers.levels=2", "identifiers.shared_levels=1", "identifiers.codes=256", "identifiers.text_side=search", "embed.text_dim=128"]
SMALL = ["identifiers.codes=16", "embed.text_dim=24", "embed.behaviour_dim=16", "train.backbone=micro", "train.epochs=2", "train.text_vocabulary=500"]
WORLD = ["simulate.users=200", "simulate.items=120", "simulate.days=20", "ingest.max_quarantine_share=0.05", "corpora.valid_days=2", "corpora.test_days=2"]
KS = (10, 30)
MEASURED = [f"evaluate.ks={list(KS)}", "evaluate.baselines=[]", "gate.beat_popularity=false", "recommend.beams=50", "search.beams=50", "train.warm_start=false"]

log = logging.getLogger("tandem")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", nargs="?", default="amazon_toys", choices=["amazon_toys", "amazon_toys_known_item"])
    options.add_argument("--lake", default=".tandem/identifiers")
    options.add_argument("--set", action="append", default=[])
    options.add_argument("--quick", action="store_true", help="a simulated world and a model of no use")
    options.add_argument("--fresh", action="store_true", help="forget what was done")
    chosen = options.parse_args()
    if not chosen.quick and "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_toys", file=sys.stderr)
        return 69
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    data = "simulated" if chosen.quick else chosen.name
    lake = Path(chosen.lake) / data
    if chosen.fresh:
        shutil.rmtree(lake, ignore_errors=True)
    day = date.fromisoformat("2026-11-19" if chosen.quick else DAYS[chosen.name])
    rows = compare(lake, day, None if chosen.quick else str(REPOSITORY / "examples" / f"{chosen.name}.toml"), chosen.set)
    command = " ".join(["python tests/benchmarks/identifiers.py", "--quick" if chosen.quick else chosen.name, *(f"--set {each}" for each in chosen.set)])
    told = {**origin(command, data, [7]), "rows": rows}
    target = lake / "identifiers.json" if chosen.quick else HERE / "results" / "identifiers.json"
    target.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{len(rows)} names compared: {target}")
    return 0


def compare(lake: Path, day: date, file: str | None, overrides: list[str]) -> list[dict]:
    """A row per name, in the order of NAMES. file: the configuration; None simulates a world."""
    settings = [*PAPER, *MEASURED]
    if file is None:
        settings += [*SMALL, *WORLD, f"ingest.base_day={day}", f"simulate.path={lake / 'warehouse'}"]
        for source, path in (("interactions", "interactions/ds={ds}"), ("searches", "searches/ds={ds}"), ("catalogue", "catalogue")):
            settings += [f"warehouse.{source}.path={lake / 'warehouse' / path}", f"warehouse.{source}.format=jsonl"]

    def configured(root: Path, *more: str) -> Config:
        return load(file, [*settings, *more, *overrides, f"lake.root={root}"])

    shared = configured(lake / "shared")
    marker = lake / "shared" / f"built-{shared.hash('warehouse', 'ingest', 'corpora', 'simulate')}"
    if not marker.exists():
        for verb in (["simulate"] if file is None else []) + ["ingest", "build_corpora"]:
            step(verb, shared, day)
        marker.touch()
    rows = []
    for construction, quantizer in NAMES:
        named = ["identifiers.scheme=semantic", f"identifiers.construction={construction}", f"identifiers.quantizer={quantizer}"]
        root = lake / f"{construction}-{quantizer}".rstrip("-")
        config = configured(root, *(named if quantizer else ["identifiers.scheme=atomic"]))
        done = root / f"row-{config.hash()}.json"
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)
            for table in ("items", "corpora"):
                shutil.copytree(lake / "shared" / table, root / table, copy_function=os.link)
            log.info("names: %s %s", construction, quantizer)
            done.write_text(json.dumps({"construction": construction, "quantizer": quantizer, **measured(config, day)}, indent=1) + "\n")
        rows.append(json.loads(done.read_text()))
    return rows


def step(verb: str, config: Config, day: date) -> dict:
    return importlib.import_module(f"jobs.{verb}").run(config, day, "identifiers")


def measured(config: Config, day: date) -> dict:
    """One name's figures: {recall: {task: {k: [value, low, high, n]}}, codes: {view: {check: value}}, seconds: {verb: s}}."""
    from jobs.evaluate import measure
    from jobs.registry import candidate
    from jobs.spark import read, session
    from jobs.tables import CHECKS

    seconds = {}
    for verb in ("embed_items", "assign_identifiers", "train"):
        started = time.monotonic()
        step(verb, config, day)
        seconds[verb] = round(time.monotonic() - started, 1)
    spark, started = session(config), time.monotonic()
    figures, _, _ = measure(spark, config, day, {"model": candidate(spark, config, day)})
    seconds["evaluate"] = round(time.monotonic() - started, 1)
    tasks = [task for task in ("search", "recommend") if (task, "all", "model", "recall", KS[0]) in figures]
    recall = {task: {k: figures[task, "all", "model", "recall", k] for k in KS} for task in tasks}
    codes: dict[str, dict[str, float]] = {}
    for row in read(spark, config, CHECKS, at=day).where("step = 'assign_identifiers' AND severity = 'info'").collect():
        view, _, check = row.check.rpartition(".")
        codes.setdefault(view or "joint", {})[check] = row.value
    return {"recall": recall, "codes": codes, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
