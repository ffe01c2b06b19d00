"""What each part of gensar or gensr brings on a log, and how the whole stands beside bridge or its own first stage.

    TANDEM_DATA=… python tests/benchmarks/parts.py gensar --seeds 0 --set 'study.variants=["bridge", "semantic_only"]'
    python tests/benchmarks/parts.py gensar --log simulated

Runs `python -m jobs study gensar|gensr` on the log of examples/amazon_toys.toml, of amazon_beauty.toml, or on a simulated one (parts_simulated.toml), in a
lake at --lake, and asks every model that it trained again among 1 + 99 candidates (`sampled`; on real logs alone). Writes
tests/benchmarks/results/parts_RECIPE.json, or of other names what log and settings say: parts_gensr_over_gensar.json; parts_RECIPE_ENCODER.json;
parts_RECIPE_beauty.json; parts_RECIPE_simulated.json. From these readme.py makes the README's tables, and the headline figures. Seeds and variants that are
there already stay: trainings of hours can be spread over machines. Settings other than of the study must be those of before.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import sampled
from deltalake import DeltaTable
from figures import HERE, REPOSITORY, keep, origin, write

from jobs.config import load
from jobs.study_parts import FIRST, WHOLE, as_stated
from jobs.sweep import interval
from model.recipes import SERVED

FIRST_STEPS = ("ingest", "build_corpora", "embed_items", "assign_identifiers")


class Log(NamedTuple):
    config: Path
    day: date
    steps: tuple[str, ...]
    suffix: str  # of the file of results, and of the lake


LOGS = {
    "amazon_toys": Log(REPOSITORY / "examples" / "amazon_toys.toml", date(2014, 7, 23), FIRST_STEPS, ""),
    "amazon_beauty": Log(REPOSITORY / "examples" / "amazon_beauty.toml", date(2014, 7, 23), FIRST_STEPS, "_beauty"),
    "simulated": Log(HERE / "parts_simulated.toml", date(2026, 11, 19), ("simulate", *FIRST_STEPS), "_simulated"),
}
REQUESTS = 2000  # of each task among 1 + 99: a beam for every candidate is slow
# figure → variant, its rival, task, metric
HEADLINES = {
    "gensar": {
        f"{recipe}_toys_{name}": (variant, rival, task, metric)
        for recipe, variant, rival in (("gensar", WHOLE, "bridge"), ("bridge", "bridge", WHOLE))
        for name, task, metric in (("rec_ndcg10", "recommend", "ndcg@10"), ("hem_mrr", "search", "mrr@20"))
    },
    "gensr": {
        f"{stage}_{name}_ndcg10": (variant, rival, task, "ndcg@10")
        for stage, variant, rival in (("two_stage", WHOLE, FIRST), ("one_stage", FIRST, WHOLE))
        for name, task in (("rec", "recommend"), ("search", "search"))
    },
}

Held = dict[str, dict[str, dict[str, float]]]  # seed → variant → "TASK.METRIC@K" → value


def verb(log: Log, lake: Path, settings: list[str], *words: str) -> None:
    options = [part for each in (f"lake.root={lake}", *settings) for part in ("--set", each)]
    subprocess.run([sys.executable, "-m", "jobs", *words, "--date", str(log.day), "--config", str(log.config), *options], check=True, cwd=REPOSITORY)


def whole_catalogue(lake: Path, day: date, recipe: str, seed: int) -> dict[str, dict[str, float]]:
    """Variant → figure → value, of one seed's rows in `studies`: over all test examples, none of its slices."""
    table = DeltaTable(str(lake / "studies")).to_pyarrow_table(filters=[("ds", "=", day), ("study", "=", recipe)])
    made: dict[str, dict[str, float]] = {}
    for row in table.to_pylist():
        variant, _, figure = row["figure"].partition(".")
        if row["seed"] == seed and figure.startswith("all."):
            made.setdefault(variant, {})[f"{row['side']}.{figure.removeprefix('all.')}"] = row["value"]
    return made


def among_candidates(log: Log, lake: Path, models: dict[str, str], measured: dict[str, dict[str, float]], seed: int) -> dict[str, dict[str, float]]:
    """The same of 1 + 99 candidates, for the tasks that a variant was judged on; popularity and words beside them."""
    bounds = load(str(log.config), []).corpora.bounds(log.day)
    made: dict[str, dict[str, float]] = {}
    for task in SERVED:
        requests = sampled.Requests(lake, log.day, bounds, task, REQUESTS, seed)
        asked = {name: sampled.by_model(lake / folder) for name, folder in models.items() if f"{task}.ndcg@10" in measured[name]}
        asked |= {"popularity": sampled.by_popularity} | ({"bm25": sampled.by_words} if task == "search" else {})
        for name, scores in asked.items():
            made.setdefault(name, {}).update({f"{task}.{figure}": value for figure, value in sampled.figures(scores(requests)).items()})
            print(f"1 + 99, {task}, {name}: NDCG@10 {made[name][f'{task}.ndcg@10']:.4f}", flush=True)
    return made


def over_gensar(settings: list[str]) -> bool:
    """Whether gensr, under these settings, orders what gensar answers."""
    return load(None, ["train.recipe=gensr", *settings]).gensr.candidates_from == "gensar"


def of_text(settings: list[str]) -> str:
    """What names a text encoder other than the default's."""
    encoder = load(None, settings).embed.text
    return "" if encoder == "tfidf" else f"_{Path(encoder).name}"


def comparable(before: dict[str, Any], settings: list[str]) -> None:
    """Raises ValueError where the results were made under other settings."""
    if before["settings"] != settings:
        raise ValueError(f"settings are {settings}, those of the results {before['settings']} (--set): keep to these, or move the file of results away")


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What was measured now, and seeds and variants that were measured only before. Raises ValueError where the settings are others."""
    comparable(before, now["settings"])
    for kind in ("catalogue", "candidates"):
        for seed, variants in before[kind].items():
            now[kind][seed] = variants | now[kind].get(seed, {})
    return now | {"seeds": sorted(map(int, now["catalogue"])), "commit": ", ".join(dict.fromkeys([*before["commit"].split(", "), now["commit"]]))}


def over_seeds(held: Held, variant: str, figure: str) -> tuple[float, float, float] | None:
    """Mean and 95 % interval over the seeds that have it."""
    values = [variants[variant][figure] for variants in held.values() if figure in variants.get(variant, {})]
    return interval(values) if values else None


def gains(held: Held) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(task, variant) → gain of the whole model in NDCG@10 as a share of the variant's, over the seeds that have both."""
    made = {}
    for task in SERVED:
        for name in dict.fromkeys(name for variants in held.values() for name in variants if name != WHOLE):
            figure = f"{task}.ndcg@10"
            pairs = [(variants[WHOLE][figure], variants[name][figure]) for variants in held.values() if variants.get(name, {}).get(figure)]
            if pairs:
                made[task, name] = interval(own / other - 1 for own, other in pairs)
    return made


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipe", choices=HEADLINES)
    options.add_argument("--log", choices=LOGS, default="amazon_toys")
    options.add_argument("--lake", help=".tandem/benchmarks/parts, parts_over_bridge, parts_ENCODER, parts_beauty …, if not told")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--set", action="append", default=[])
    chosen = options.parse_args()
    shaping = [each for each in chosen.set if each.startswith("study.own") or not each.startswith(("study.", "spark."))]
    text = of_text(shaping)
    log, real = LOGS[chosen.log], chosen.log != "simulated"
    over = "_over_gensar" if chosen.recipe == "gensr" and over_gensar(shaping) else ""
    named = "" if chosen.recipe == "gensar" or over else "_over_bridge"  # whose items have names of another scheme
    lake = Path(chosen.lake or f".tandem/benchmarks/parts{named}{text}{log.suffix}").resolve()
    if not real:
        os.environ["TANDEM_DATA"] = str(lake)  # where its warehouse is written
    elif "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds the data", file=sys.stderr)
        return 69
    path = HERE / "results" / f"parts_{chosen.recipe}{over}{text}{log.suffix}.json"
    before = json.loads(path.read_text()) if path.exists() else None
    if before:
        comparable(before, shaping)  # now, not after hours of training
    lake.mkdir(parents=True, exist_ok=True)
    settings = [f"train.recipe={chosen.recipe}", "train.pointers=0", *chosen.set]  # the papers have none
    for step in log.steps:
        if not (lake / f"{step}.json").exists():
            verb(log, lake, settings, step, "--result", str(lake / f"{step}.json"))
    catalogue, candidates = {}, {}
    for seed in chosen.seeds:
        result = lake / f"study-{chosen.recipe}-{seed}.json"
        verb(log, lake, [*settings, f"study.seeds=[{seed}]"], "study", chosen.recipe, "--result", str(result))
        catalogue[str(seed)] = whole_catalogue(lake, log.day, chosen.recipe, seed)
        models = json.loads(result.read_text())["models"][str(seed)]
        candidates[str(seed)] = among_candidates(log, lake, models, catalogue[str(seed)], seed) if real else {}
    written = {**origin("", chosen.log, chosen.seeds), "settings": shaping, "requests": REQUESTS, "catalogue": catalogue, "candidates": candidates}
    written = joined(before, written) if before else written
    written["command"] = command(chosen.recipe, written)
    keep(path.stem, written)
    headlines(chosen.recipe, written)
    return 0


def command(recipe: str, written: dict[str, Any]) -> str:
    """The one that makes all of it, on one machine."""
    variants = sorted({name for of_seed in written["catalogue"].values() for name in of_seed} - {WHOLE, FIRST}) or [WHOLE]  # none named would be all
    settings = (f"--set {shlex.quote(each)}" for each in [*written["settings"], f"study.variants={json.dumps(variants)}"])
    log = "" if written["data"] == "amazon_toys" else f" --log {written['data']}"
    return " ".join([f"python tests/benchmarks/parts.py {recipe}{log} --seeds", *map(str, written["seeds"]), *settings])


def headlines(recipe: str, written: dict[str, Any]) -> None:
    common, held, rows = {key: written[key] for key in ("command", "data", "seeds", "machine", "date", "commit")}, written["catalogue"], []
    usual = common["data"] == "amazon_toys" and not of_text(written["settings"])
    wanted = usual and (recipe != "gensr" or over_gensar(written["settings"]))  # gensar → gensr are the two stages of the figures
    for figure, (variant, rival, task, metric) in (HEADLINES[recipe] if wanted else {}).items():
        own, other = (over_seeds(held, name, f"{task}.{metric}") for name in (variant, rival))
        if own and other:
            known = None if math.isnan(own[1]) else list(own[1:])
            rows.append({"figure": figure, "value": own[0], "unit": "fraction", "ci": known, "rival": rival, "rival_value": other[0]})
    found = gains(held)
    if recipe == "gensar" and any(name.startswith("without_") for _, name in found):
        better, of = as_stated(found)
        rows.append({"figure": "gensar_ablations_as_stated", "value": better, "unit": "signs", "ci": None, "rival": "all signs", "rival_value": of})
    write(rows, common)


if __name__ == "__main__":
    sys.exit(main())
