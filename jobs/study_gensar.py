"""What does each part of gensar bring, on this warehouse? `python -m jobs study gensar --date D`.

Trains, per seed, gensar whole, without each of its parts, with other identifiers, each served task alone, and bridge for the same epochs; all are judged
on the day's test examples over the whole catalogue, paired (Shi et al. 2025, section 4.4: ablations; section 4.5: identifiers; and the trade-off between
the two tasks, which the paper argues with).

Reads what `train` reads. Writes studies and a page. Models and identifiers are the study's own: they lie below `<lake.root>/artifacts/.work/study/`, stand
in no table and are never served; what is there is not made again.
"""

import logging
import math
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from delta import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import evaluate, study_page, train
from jobs.assign_identifiers import assign
from jobs.config import Config
from jobs.errors import BadArgument
from jobs.report import put
from jobs.spark import read, replace, schema, session, versions, written_up_to
from jobs.study_joint import trained
from jobs.tables import ITEM_EMBEDDINGS, STUDIES
from model.recipes import GENSAR, SERVED

log = logging.getLogger("tandem")

Interval = Callable[[Iterable[float]], tuple[float, float, float]]
Gains = dict[tuple[str, str], tuple[float, float, float]]

WHOLE = "model"  # its name in `evaluate.Figures`
SIDE_TASKS = tuple(task for task in GENSAR.tasks if task not in SERVED)
ONE_NAME = {"semantic_only": "content", "collaborative_only": "rec"}


def variants(config: Config, seed: int) -> dict[str, Config]:
    """Name → configuration. The whole model's identifiers are those of the configuration; the sweep keeps as many levels and shares one fewer or one more."""
    whole, names = config.train, config.identifiers
    made: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {WHOLE: ({}, {}), "without_marks": ({"behaviour_tokens": False}, {})}
    for task in SERVED:
        made[f"{task}_alone"] = ({"tasks": (task,)}, {})
    for task in (task for task in SIDE_TASKS if task in whole.tasks):
        made[f"without_{task}"] = ({"tasks": tuple(each for each in whole.tasks if each != task)}, {})
    made |= {name: ({}, {"construction": construction}) for name, construction in ONE_NAME.items()}
    for shared in sorted({0, names.shared_levels - 1, names.shared_levels + 1}):
        if 0 <= shared < names.levels and shared != names.shared_levels:
            made["without_shared" if shared == 0 else f"shared_{shared}_of_{names.levels}"] = ({}, {"shared_levels": shared})
    made["bridge"] = ({"recipe": "bridge", "tasks": SERVED, "mixing": "proportional"}, {"scheme": "atomic"})
    chosen = config.study.variants or tuple(made)
    unknown = [name for name in chosen if name not in made]
    if unknown:
        raise BadArgument(f"study.variants: found {', '.join(unknown)}, allowed are {', '.join(made)}")
    common = {"seed": seed, "warm_start": False, "patience": whole.epochs}
    return {
        name: config.model_copy(update={"train": whole.model_copy(update=changes | common), "identifiers": names.model_copy(update=named)})
        for name, (changes, named) in made.items()
        if name in (WHOLE, *chosen)
    }


def named(spark: SparkSession, config: Config, day: date) -> str:
    """The Delta table of the variant's identifiers, made now or earlier: a naming fitted for it, which no night uses."""
    path = f"{config.lake.root.rstrip('/')}/artifacts/.work/study/identifiers-{day:%Y%m%d}-{config.hash('identifiers', 'embed')}"
    if not DeltaTable.isDeltaTable(spark, path):
        fresh = config.model_copy(update={"identifiers": config.identifiers.model_copy(update={"retrain": True})})
        frame, version, _ = assign(spark, fresh, day, read(spark, config, ITEM_EMBEDDINGS, at=day))
        about = {"scheme": F.lit(config.identifiers.scheme), "version": F.lit(version), "ds": F.lit(day)}
        frame.select("item_id", "view", "codes").withColumns(about).write.format("delta").mode("overwrite").save(path)
    return path


def gains_of(per_seed: list[evaluate.Figures], names: Iterable[str], interval: Interval) -> Gains:
    """(task, variant) → gain of the whole model in NDCG@10 as a share of the variant's, over seeds; of the tasks that the variant was judged on."""
    key, made = ("ndcg", evaluate.GATE_K), {}
    for name in names:
        for task in SERVED:
            held = [(figures[task, "all", WHOLE, *key][0], figures[task, "all", name, *key][0]) for figures in per_seed if (task, "all", name, *key) in figures]
            if held and all(other for _, other in held):
                made[task, name] = interval(own / other - 1 for own, other in held)
    return made


def as_stated(gains: Gains) -> tuple[int, int]:
    """Of the paper's ablations and single identifiers, on each task: how often the whole model is better in the mean, and of how many."""
    stated = [mean > 0 for (_, name), (mean, _, _) in gains.items() if name.startswith("without_") or name.endswith("_alone") or name in ONE_NAME]
    return sum(stated), len(stated)


def run(config: Config, day: date, run_id: str, interval: Interval) -> dict[str, Any]:
    """Returns {"rows", "path", "gains", "as_stated", "seeds"}; `interval` makes mean and 95 % interval of the seeds' values. BadArgument for another recipe."""
    if config.train.recipe != GENSAR.name or config.identifiers.construction != "dual":
        found = f"train.recipe = {config.train.recipe!r} and identifiers.construction = {config.identifiers.construction!r}"
        raise BadArgument(f"study gensar takes gensar apart: found {found}, expected 'gensar' and 'dual'")
    spark = session(config)
    pinned = versions(spark, config, train.INPUTS)
    written = {table.name: written_up_to(spark, config, table, day) for table in train.INPUTS}
    quick = config.evaluate.model_copy(update={"baselines": ()})
    judged = config.model_copy(update={"evaluate": quick, "gate": config.gate.model_copy(update={"beat_popularity": False})})
    per_seed = []
    for seed in config.study.seeds:
        asked, models = variants(judged, seed), {}
        for done, (name, variant) in enumerate(asked.items(), 1):
            log.info("study gensar: seed %d, %s (%d of %d)", seed, name, done, len(asked))
            models[name] = trained(spark, variant, day, pinned, written, named(spark, variant, day))
        figures, _, _ = evaluate.measure(spark, judged, day, models)
        # A model of one task is judged on it alone.
        per_seed.append({key: figure for key, figure in figures.items() if key[2] in asked and key[0] in asked[key[2]].train.tasks})
    names = [name for name in asked if name != WHOLE]
    gains = gains_of(per_seed, names, interval)
    better, of = as_stated(gains)
    rows = [
        (day, GENSAR.name, task, math.inf, seed, f"{method}.{name}.{metric}@{k}", value[0], run_id)
        for seed, figures in zip(config.study.seeds, per_seed, strict=True)
        for (task, name, method, metric, k), value in figures.items()
    ]
    done = replace(spark, config, STUDIES, day, spark.createDataFrame(rows, schema(STUDIES)), run_id, study=GENSAR.name)
    path = f"{config.lake.root.rstrip('/')}/reports/study_gensar.html"
    reached = {
        (task, name): interval(figures[task, "all", name, "ndcg", evaluate.GATE_K][0] for figures in per_seed)
        for name in (WHOLE, *names)
        for task in SERVED
        if (task, "all", name, "ndcg", evaluate.GATE_K) in per_seed[0]
    }
    put(spark, path, study_page.gensar(day, reached, gains, len(per_seed), (better, of)))
    for (task, name), (mean, low, high) in gains.items():
        log.info("study gensar, %s: whole over %s %+.1f %% (%.1f to %.1f)", task, name, 100 * mean, 100 * low, 100 * high)
    log.info("study gensar: %d of %d signs as the paper states them: %s", better, of, path)
    told = {f"{task}.{name}": value for (task, name), value in gains.items()}
    return {"rows": done["rows"], "path": path, "gains": told, "as_stated": [better, of], "seeds": config.study.seeds}
