"""Quality as the papers measure it: each user's last action held out, the whole catalogue ranked, what the user had is not answered again.

    TANDEM_DATA=… python tests/benchmarks/quality.py beauty_paper --seeds 0 1 2     (or toys_hem, toys_known_item, beauty_hem, beauty_known_item)

Builds corpora through the verbs in a lake of its own, trains one model for both tasks per seed, and SASRec on the same rows; the other
rivals are those of `jobs evaluate`. What is trained is kept under --lake: the command goes on where it stopped. Writes
tests/benchmarks/results/quality_NAME.json, from which readme.py makes the README's tables; seeds of the same settings that are already there stay, and so do
rivals.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, date, datetime
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from figures import keep, origin
from seeds import SCORE_ALONE, gains, joined, less, of_model, summary

from jobs.config import load

HERE = Path(__file__).parent
DEPTH = 100
SETS = {
    "beauty_paper": ("amazon_beauty_paper", None),
    "toys_hem": ("amazon_toys", "searches_hem"),
    "toys_known_item": ("amazon_toys", "searches_known_item"),
    "beauty_hem": ("amazon_beauty", "searches_hem"),
    "beauty_known_item": ("amazon_beauty", "searches_known_item"),
}
# figure → (set, method, task, metric)
FIGURES = {
    "beauty_rec_recall10": ("beauty_paper", "model", "recommend", "recall@10"),
    "beauty_rec_ndcg10": ("beauty_paper", "model", "recommend", "ndcg@10"),
    "beauty_sasrec_recall10": ("beauty_paper", "sasrec", "recommend", "recall@10"),
    "toys_hem_mrr": ("toys_hem", "model", "search", "mrr"),
    "toys_hem_mrr_bm25pop": ("toys_hem", "bm25_popularity", "search", "mrr"),
    "toys_known_item_mrr": ("toys_known_item", "model", "search", "mrr"),
    "toys_known_item_mrr_bm25": ("toys_known_item", "bm25", "search", "mrr"),
}
CONFIG = """
[warehouse.interactions]
path = "{folder}/interactions.tsv"
format = "tsv"
columns = {{ user_id = "user", item_id = "item", event_ts = "timestamp", sequence = "position" }}
timestamp_unit = "s"
default_action = "purchase"

[warehouse.searches]
path = "{folder}/searches.tsv"
format = "tsv"
columns = {{ user_id = "user", item_id = "item", event_ts = "timestamp", sequence = "position" }}
timestamp_unit = "s"
default_action = "purchase"

[warehouse.catalogue]
path = "{data}/catalogue.jsonl.gz"
format = "jsonl"
columns = {{ item_id = "item" }}

[lake]
root = "{folder}/lake"

[ingest]
base_day = {day}

[corpora]
split = "leave_one_out"

[evaluate]
ks = [1, 5, 10, {depth}]
max_requests = 100000

[gate]
beat_popularity = false
max_drop = 1.0
min_coverage_ratio = 0.0

[train]
warm_start = false
half_life_days = 0
"""
FAST = {"precision": "bf16", "compiled": True}
RECOMMEND = FAST | {"tasks": ["recommend"], "epochs": 24, "learning_rate": 0.002, "dropout": 0.4, "weight_decay": 0.05, "patience": 4}
BOTH = RECOMMEND | {"tasks": ["recommend", "search"], "epochs": 16, "dropout": 0.3, "patience": 3, "history_in_search": 1.0}
# Whoever searches a known item by its name finds it without their history; words made of the items' texts teach the names of those that nobody searched.
NAMED = BOTH | {"history_in_search": 0.0, "tasks": ["recommend", "search", "pseudo_search"], "pseudo_per_item": 20}


def prepare(name: str, folder: Path) -> date:
    """The set's logs as files whose `position` is the published order, which days alone do not tell; returns the log's last day."""
    data, searches = Path(os.environ["TANDEM_DATA"], SETS[name][0]), SETS[name][1]
    folder.mkdir(parents=True, exist_ok=True)
    log = pd.read_csv(data / "interactions.tsv.gz", sep="\t", dtype={"user": str, "item": str})
    if "position" not in log:
        log = log.sort_values("timestamp", kind="stable")
        log["position"] = log.groupby("user").cumcount()
    # Where a set gives the order but not every day, a user's time never runs back.
    log = log.sort_values(["user", "position"], kind="stable")
    log["timestamp"] = log.groupby("user")["timestamp"].ffill().fillna(0).groupby(log["user"]).cummax().astype(np.int64)
    log[["user", "item", "timestamp", "position"]].to_csv(folder / "interactions.tsv", sep="\t", index=False)
    if searches:
        asked = pd.read_csv(data / f"{searches}.tsv.gz", sep="\t", dtype={"user": str, "item": str}).drop_duplicates(["user", "item", "timestamp"])
        # A search and the purchase it led to are one instant: neither is the other's past.
        asked = asked.merge(log.drop_duplicates(["user", "item", "timestamp"]), on=["user", "item", "timestamp"])
        asked.to_csv(folder / "searches.tsv", sep="\t", index=False)
    day = datetime.fromtimestamp(int(log["timestamp"].max()), UTC).date()
    config = CONFIG.format(folder=folder.resolve(), data=data, day=day, depth=DEPTH)
    if not searches:
        head, tail = config.split("[warehouse.searches]")
        config = head + "[warehouse.catalogue]" + tail.split("[warehouse.catalogue]")[1]
    (folder / "config.toml").write_text(config)
    return day


def settings_of(name: str, seed: int, more: list[str]) -> list[str]:
    chosen = {None: RECOMMEND, "searches_hem": BOTH, "searches_known_item": NAMED}[SETS[name][1]]
    return [f"train.{key}={json.dumps(value)}" for key, value in {**chosen, "seed": seed}.items()] + more


def verb(folder: Path, day: date, name: str, settings: list[str]) -> dict:
    result = folder / f"{name}.json"
    nothing = [] if (folder / "searches.tsv").exists() else ["warehouse.searches=none"]
    overrides = [part for each in [*settings, *nothing] for part in ("--set", each)]
    command = [sys.executable, "-m", "jobs", name, "--date", day.isoformat(), "--config", str(folder / "config.toml"), *overrides, "--result", str(result)]
    subprocess.run(command, check=True)
    return json.loads(result.read_text())


def begun(name: str, folder: Path, steps: tuple[str, ...], settings: list[str]) -> date:
    """The set's logs and the lake's first steps, of which those that are done are kept; returns the log's last day."""
    day = prepare(name, folder)
    for step in steps:
        if not (folder / f"{step}.json").exists():
            verb(folder, day, step, settings)
    return day


class Held:
    """The held-out rows of one lake, in one numbering of the items, and the sequences that a sequence model learns from."""

    def __init__(self, lake: Path, item_ids: list[str]):
        self.items = pa.array(item_ids)
        corpora = DeltaTable(str(lake / "corpora")).to_pyarrow_table(columns=["task", "user_id", "history", "query", "target_item_id", "event_ts", "split"])
        self.rows = {}
        for task in ("recommend", "search"):
            for split in ("valid", "test"):
                self.rows[task, split] = corpora.filter((pc.field("task") == task) & (pc.field("split") == split)).sort_by("user_id")
        if len(self.rows["search", "test"]):
            # Searches that led to the user's last purchase: of the others, the history would end before purchases that were held out.
            last = {(row["user_id"], row["target_item_id"]) for row in self.rows["recommend", "test"].select(["user_id", "target_item_id"]).to_pylist()}
            asked = self.rows["search", "test"]
            pairs = zip(asked["user_id"].to_pylist(), asked["target_item_id"].to_pylist(), strict=True)
            self.rows["search", "test"] = asked.filter(pa.array([pair in last for pair in pairs]))

    def bought(self, task: str, split: str) -> tuple[list[np.ndarray], np.ndarray]:
        """Each row's earlier purchases, oldest first, and its target."""
        table = self.rows[task, split]
        numbers = {item: i for i, item in enumerate(self.items.to_pylist())}
        histories = [
            np.array([numbers[act["item_id"]] for act in history if act["surface"] == "recommendation"], np.int64) for history in table["history"].to_pylist()
        ]
        return histories, pc.index_in(table["target_item_id"], value_set=self.items).to_numpy().astype(np.int64)


def model_ranks(artifact: Path, held: Held, task: str, ordered: bool) -> np.ndarray:
    """int64 [rows], 0 where the target is not among the first DEPTH. ordered: the best answers once more, by similarity too, as the model is served."""
    from model.rank import load

    ranker, table = load(str(artifact)), held.rows[task, "test"]
    if not ordered:
        ranker.order = {}
    histories = table["history"].to_pylist()
    hidden = [[act["item_id"] for act in history] for history in histories] if task == "recommend" else None
    answers = ranker.rank(task, histories, table["query"].to_pylist(), DEPTH, exclude=hidden)
    targets = [ranker.rows[item] for item in table["target_item_id"].to_pylist()]
    found = [np.flatnonzero(answer == target) for (answer, _), target in zip(answers, targets, strict=True)]
    return np.array([int(place[0]) + 1 if len(place) else 0 for place in found])


def spark_rivals(lake: Path) -> list[dict]:
    """The figures of `jobs evaluate`'s own rivals, over all held-out rows."""
    rows = DeltaTable(str(lake / "metrics")).to_pyarrow_table().to_pylist()
    names = {("recall", 5): "recall@5", ("recall", 10): "recall@10", ("ndcg", 5): "ndcg@5", ("ndcg", 10): "ndcg@10", ("mrr", DEPTH): "mrr"}
    made: dict[tuple[str, str], dict] = defaultdict(dict)
    for row in rows:
        metric = names.get((row["metric"], row["k"]))
        if row["slice"] == "all" and metric and row["method"] not in ("model", "served"):
            made[row["task"], row["method"]][metric] = {"value": row["value"], "ci": [row["ci_low"], row["ci_high"]] if row["ci_low"] is not None else None}
            made[row["task"], row["method"]]["n"] = row["n"]
    return [{"task": task, "method": method, "n": held.pop("n"), "metrics": held} for (task, method), held in sorted(made.items())]


def kept(path: Path, make) -> np.ndarray:
    if not path.exists():
        np.save(path, make())
    return np.load(path)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=SETS)
    options.add_argument("--lake", default=".tandem/benchmarks/quality")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--set", action="append", default=[])
    options.add_argument(
        "--only", choices=("model", "sasrec"), help="train one of the two: sasrec's figures wait for a model's, a model's join the rivals' of before"
    )
    chosen = options.parse_args()
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds the data sets", file=sys.stderr)
        return 69
    name, folder = chosen.name, Path(chosen.lake).resolve() / chosen.name
    tasks = ("recommend", "search") if SETS[name][1] else ("recommend",)
    day = begun(name, folder, ("ingest", "build_corpora", "embed_items", "assign_identifiers"), settings_of(name, 0, []))
    lake, versions = folder / "lake", {}
    for seed in chosen.seeds if chosen.only != "sasrec" else []:
        versions[seed] = verb(folder, day, "train", settings_of(name, seed, chosen.set))["model_version"]
        if not chosen.only and not (folder / "evaluate.json").exists():
            verb(folder, day, "evaluate", settings_of(name, seed, chosen.set))
    items = sorted(DeltaTable(str(lake / "items")).to_pyarrow_table(columns=["item_id"])["item_id"].to_pylist())
    held = Held(lake, items)
    ranks: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for version in versions.values():
        for method, task in product(("model", SCORE_ALONE), tasks):
            ranks[method, task].append(model_ranks(lake / "artifacts" / version, held, task, method == "model"))  # not kept: another code ranks otherwise
    import category_rival
    import sasrec

    for seed in chosen.seeds if chosen.only != "model" else []:
        path = folder.parent / f"{SETS[name][0]}-sasrec-{seed}.safetensors"  # it knows no searches: one for all of a log's sets
        if not path.exists():
            sequences, valid = held.bought("recommend", "valid")
            model, curve = sasrec.train(sequences, (sequences, valid), len(items), seed)
            path.with_suffix(".json").write_text(json.dumps(curve))
            sasrec.save(model, path)
        model = sasrec.load(path, len(items))
        ranks["sasrec", "recommend"].append(kept(folder / f"sasrec-{seed}.npy", lambda m=model: sasrec.ranks(m, *held.bought("recommend", "test"))))
        if name.endswith("_hem"):
            catalogue, asked = Path(os.environ["TANDEM_DATA"], SETS[name][0], "catalogue.jsonl.gz"), held.rows["search", "test"]
            order = partial(category_rival.ranks, catalogue, held.items, asked, *held.bought("search", "test"), model)
            ranks["category_sasrec", "search"].append(kept(folder / f"category-{seed}.npy", order))
    of_users = {key: [gains(each) for each in found] for key, found in ranks.items()}
    for rival, task in (("sasrec", "recommend"), ("category_sasrec", "search"), *((SCORE_ALONE, task) for task in tasks)):
        if {("model", task), (rival, task)} <= ranks.keys():
            of_users[f"model less {rival}", task] = [less(*pair) for pair in zip(ranks["model", task], ranks[rival, task], strict=True)]
    rows = [
        {"task": task, "method": method, "n": len(found[0]["mrr"]), "seeds": chosen.seeds, "metrics": summary(found)}
        for (method, task), found in sorted(of_users.items())
    ]
    for row in rows:
        metrics = (f"{m} {v['value']:.4f} [{v['ci'][0]:.4f}, {v['ci'][1]:.4f}]" for m, v in row["metrics"].items())
        print(f"{name} {row['task']} {row['method']}: " + ", ".join(metrics), flush=True)
    path = HERE / "results" / f"quality_{name}.json"
    if chosen.only == "sasrec" or (chosen.only and not path.exists()):
        return 0
    shaping = load(str(folder / "config.toml"), settings_of(name, 0, chosen.set)).hash("corpora", "embed", "identifiers", "train")
    written = {**origin("", name, chosen.seeds), "config_hash": shaping, "quality": rows + ([] if chosen.only else spark_rivals(lake))}
    written = joined(json.loads(path.read_text()), written) if path.exists() else written
    seeds, settings = map(str, sorted(written["seeds"])), [f"--set {each}" for each in chosen.set]  # without --only: what makes every row of the table
    written["command"] = " ".join([f"python tests/benchmarks/quality.py {name} --seeds", *seeds, *settings])
    keep(path.stem, written)
    figures(written)
    return 0


def figures(written: dict) -> None:
    """The set's headline figures, a file each (design.md section 9)."""
    common = {key: written[key] for key in ("command", "data", "seeds", "machine", "date", "commit")}
    held = {(row["method"], row["task"]): row["metrics"] for row in written["quality"]}
    for figure, (name, method, task, metric) in FIGURES.items():
        if name != written["data"]:
            continue
        own = held[method, task][metric]
        rivals = {m: metrics[metric]["value"] for (m, t), metrics in held.items() if t == task and not of_model(m) and metric in metrics}
        best = max(rivals, key=rivals.__getitem__)
        row = {"figure": figure, "value": own["value"], "unit": "fraction", "ci": own["ci"], "rival": best, "rival_value": rivals[best]}
        keep(figure, {**row, **common})


if __name__ == "__main__":
    sys.exit(main())
