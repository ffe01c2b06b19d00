"""A small simulated warehouse, a whole night on it, and what came out: for a person who sees tandem for the first time.

Writes the warehouse at `simulate.path` and the lake at `lake.root`, both below `.tandem` by default. Two loads: all history up to the day
before, at once, and then the night of the day as any night. Run twice, it finds its work done and shows the same. The day is fixed, so
that two machines show the same.
"""

import importlib
import logging
import time
from datetime import date, timedelta

from jobs.config import Config
from jobs.errors import BadArgument
from jobs.sections import Corpora

DAY = date(2026, 11, 19)

log = logging.getLogger("tandem")


def run(config: Config, day: date | None, run_id: str) -> dict:
    """Returns what `jobs.run` does, and {"report": path, "seconds"}. Raises BadArgument where the configuration names another warehouse."""
    started = time.monotonic()
    day = day or DAY
    if not config.warehouse.interactions.path.startswith(config.simulate.path.rstrip("/")):
        raise BadArgument(
            f"demo simulates its warehouse at simulate.path = {config.simulate.path}, but warehouse.interactions.path = {config.warehouse.interactions.path}; "
            "use `python -m jobs run` on a warehouse of your own"
        )
    night = small(config, day)
    log.info("demo: %d users and %d items, %d days up to %s", night.simulate.users, night.simulate.items, night.simulate.days, day)
    step("simulate", night, day, run_id)
    log.info("demo: the history up to %s, at once", day - timedelta(days=1))
    for verb in ("ingest", "build_corpora"):
        step(verb, night, day - timedelta(days=1), run_id)
    log.info("demo: the night of %s", day)
    done = step("run", night, day, run_id)
    path = next(each["result"]["path"] for each in done["steps"] if each["verb"] == "report")
    show(night, day)
    seconds = round(time.monotonic() - started)
    print(f"\nThe report, for a browser: {path}\nAll of it took {seconds // 60} min {seconds % 60:02d} s.")
    return done | {"report": path, "seconds": seconds}


def step(verb: str, config: Config, day: date, run_id: str) -> dict:
    return importlib.import_module(f"jobs.{verb}").run(config, day, run_id)


def small(config: Config, day: date) -> Config:
    """The configuration of the demo: history loaded at once up to the day before, and two days each to choose and to judge by."""
    corpora = config.corpora if config.corpora != Corpora() else Corpora(valid_days=2, test_days=2)
    # The first night after a base load refuses all that comes late, as the base day is closed: here one event in a hundred.
    ingest = config.ingest.model_copy(update={"base_day": day - timedelta(days=1), "max_quarantine_share": max(config.ingest.max_quarantine_share, 0.03)})
    return config.model_copy(update={"ingest": ingest, "corpora": corpora})


def show(config: Config, day: date) -> None:
    """Print where the tables are, five users', five queries' results, and the quality against the baselines."""
    from jobs.page import K, number
    from jobs.registry import candidate
    from jobs.release import served
    from jobs.report import examples, figures
    from jobs.spark import exists, path_of, session
    from jobs.tables import TABLES

    spark = session(config)
    print("\nDelta tables")
    for table in TABLES.values():
        if exists(spark, config, table):
            print(f"  {path_of(config, table)}")
    found = examples(spark, config, served(spark, config))
    print("\nFive users: did last → recommended")
    for user in found["users"]:
        print(f"  {user['id']}  did   {' · '.join(user['history'])}")
        print(f"            gets  {' · '.join(user['items'])}")
    print("\nFive queries → found")
    for query in found["queries"]:
        print(f"  “{query['query']}”  {' · '.join(query['items'])}")
    quality = figures(spark, config, day, candidate(spark, config, day))
    for task in sorted({key[0] for key in quality}):
        print(f"\n{task:<20}{f'NDCG@{K}':>8}  {'95 % interval':<18}{'Recall':>8}{'MRR':>8}")
        methods = {method for name, method, part, _ in quality if (name, part) == (task, "all")}
        for method in sorted(methods, key=lambda m: -quality[task, m, "all", "ndcg"].value):
            ndcg, recall, mrr = (quality[task, method, "all", metric] for metric in ("ndcg", "recall", "mrr"))
            interval = f"{number(ndcg.ci_low)} to {number(ndcg.ci_high)}"
            print(f"  {method:<18}{number(ndcg.value):>8}  {interval:<18}{number(recall.value):>8}{number(mrr.value):>8}")
