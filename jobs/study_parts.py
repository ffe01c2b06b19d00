"""What does each part of a recipe bring, on this warehouse? `python -m jobs study gensar|gensr --date D`.

    gensar    whole, without each of its parts, with other identifiers, each served task alone, and bridge for the same epochs (Shi et al. 2025, section
              4.4: ablations; section 4.5: identifiers; and the trade-off between the two tasks, which the paper argues with)
    gensr     whole, without each of its parts, with one prompt for both tasks, as a discriminative twin, each task alone; and its first stage without
              it, whose candidates all of them order (Zhao et al. 2025, section 4.3)

Trains each, per seed; all are judged on the day's test examples over the whole catalogue, paired.

Reads what `train` reads. Writes studies and a page. Models and identifiers are the study's own: they lie below `<lake.files>/artifacts/.work/study/`, stand
in no table and are never served; what is there is not made again.
"""

import logging
import math
from collections.abc import Iterable
from datetime import date
from typing import Any

from delta import DeltaTable
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import evaluate, study_page, train
from jobs.assign_identifiers import assign
from jobs.config import Config
from jobs.errors import BadArgument
from jobs.report import put
from jobs.spark import read, session, versions, written_up_to
from jobs.study_joint import trained
from jobs.sweep import interval
from jobs.tables import ITEM_EMBEDDINGS, STUDIES
from jobs.writes import replace, schema
from model.recipes import GENSAR, GENSR, RECIPES, SERVED

log = logging.getLogger("tandem")

Changes = dict[str, dict[str, Any]]  # section → key → value
Gains = dict[tuple[str, str], tuple[float, float, float]]

WHOLE = "model"  # its name in `evaluate.Figures`
FIRST = "first_stage"
SIDE_TASKS = tuple(task for task in GENSAR.tasks if task not in SERVED)
ONE_NAME = {"semantic_only": "content", "collaborative_only": "rec"}


def of_gensar(config: Config) -> dict[str, Changes]:
    """Identifiers are those of the configuration; the sweep keeps as many levels and shares one fewer or one more."""
    whole, names = config.train, config.identifiers
    made: dict[str, Changes] = {"without_marks": {"train": {"behaviour_tokens": False}}}
    made |= {f"{task}_alone": {"train": {"tasks": (task,)}} for task in SERVED}
    for task in (task for task in SIDE_TASKS if task in whole.tasks):
        made[f"without_{task}"] = {"train": {"tasks": tuple(each for each in whole.tasks if each != task)}}
    made |= {name: {"identifiers": {"construction": construction}} for name, construction in ONE_NAME.items()}
    for shared in sorted({0, names.shared_levels - 1, names.shared_levels + 1}):
        if 0 <= shared < names.levels and shared != names.shared_levels:
            made["without_shared" if shared == 0 else f"shared_{shared}_of_{names.levels}"] = {"identifiers": {"shared_levels": shared}}
    if whole.softmax == "valid":
        made["softmax_of_all"] = {"train": {"softmax": "all"}}
    made["bridge"] = {"train": {"recipe": "bridge", "tasks": SERVED, "mixing": "proportional"}, "identifiers": {"scheme": "atomic"}}
    return made


def of_gensr(config: Config) -> dict[str, Changes]:
    views = config.gensr.views
    parts: dict[str, dict[str, Any]] = {f"without_{view}": {"views": tuple(other for other in views if other != view)} for view in views if len(views) > 1}
    parts |= {"without_filter": {"filter": "mean"}, "without_contrast": {"contrast": 0.0}, "unmatched": {"match": False}}
    parts |= {"one_prompt": {"prompts": "shared"}, "twin": {"prompts": "shared", "answers": "per_task"}}
    made: dict[str, Changes] = {name: {"gensr": changes} for name, changes in parts.items()}
    made |= {f"{task}_alone": {"train": {"tasks": (task,)}} for task in SERVED}
    return made


PARTS = {GENSAR.name: of_gensar, GENSR.name: of_gensr}


def variants(config: Config, seed: int) -> dict[str, Config]:
    """Name → configuration, the whole model first, of the recipe's parts those that study.variants asks for."""
    made = {WHOLE: {}, **PARTS[config.train.recipe](config)}
    chosen = config.study.variants or tuple(made)
    for key, names in (("variants", chosen), ("own", config.study.own)):
        unknown = [name for name in names if name not in made]
        if unknown:
            raise BadArgument(f"study.{key}: found {', '.join(unknown)}, allowed are {', '.join(made)}")
    common = {"seed": seed, "warm_start": False, "patience": config.train.epochs}
    wanted = {name: {**changes, "train": changes.get("train", {}) | common} for name, changes in made.items() if name in (WHOLE, *chosen)}
    return {name: with_own(changed(config, changes), name) for name, changes in wanted.items()}


def with_own(config: Config, name: str) -> Config:
    """With what study.own says of the variant. Raises BadArgument for a setting that train does not have, or may not."""
    own = config.study.own.get(name, {})
    try:
        return config.model_copy(update={"train": type(config.train).model_validate(config.train.model_dump() | own)})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))} = {each['input']!r}: {each['msg']}" for each in error.errors())
        raise BadArgument(f"study.own.{name}: {told}; allowed are train's settings") from error


def changed(config: Config, changes: Changes) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()})


def named(spark: SparkSession, config: Config, day: date) -> str:
    """The Delta table of the variant's identifiers, made now or earlier: a naming fitted for it, which no night uses."""
    path = f"{config.files}/artifacts/.work/study/identifiers-{day:%Y%m%d}-{config.hash('identifiers', 'embed')}"
    if not DeltaTable.isDeltaTable(spark, path):
        fresh = config.model_copy(update={"identifiers": config.identifiers.model_copy(update={"retrain": True})})
        frame, version, _ = assign(spark, fresh, day, read(spark, config, ITEM_EMBEDDINGS, at=day))
        about = {"scheme": F.lit(config.identifiers.scheme), "version": F.lit(version), "ds": F.lit(day)}
        frame.select("item_id", "view", "codes").withColumns(about).write.format("delta").mode("overwrite").save(path)
    return path


def gains_of(per_seed: list[evaluate.Figures], names: Iterable[str]) -> Gains:
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
    known = {*ONE_NAME, "one_prompt", "twin"}
    stated = [mean > 0 for (_, name), (mean, _, _) in gains.items() if name.startswith("without_") or name.endswith("_alone") or name in known]
    return sum(stated), len(stated)


def models(spark: SparkSession, day: date, asked: dict[str, Config]) -> dict[str, Row]:
    """Name → the variant's model, trained now or earlier; of gensr also the first stage, which is the same for all."""
    whole = asked[WHOLE]
    pinned = versions(spark, whole, train.INPUTS)
    written = {table.name: written_up_to(spark, whole, table, day) for table in train.INPUTS}
    made, candidates = {}, None
    if RECIPES[whole.train.recipe].second_stage:
        log.info("study %s: seed %d, the first stage", whole.train.recipe, whole.train.seed)
        first = train.of_first_stage(whole)
        own = named(spark, first, day) if first.train.recipe == GENSAR.name else None  # the same model as the whole of gensar's own study
        made[FIRST] = trained(spark, first, day, pinned, written, own)
        candidates = f"{whole.files}/{made[FIRST].artifact}"
    for done, (name, variant) in enumerate(asked.items(), 1):
        log.info("study %s: seed %d, %s (%d of %d)", whole.train.recipe, variant.train.seed, name, done, len(asked))
        own = named(spark, variant, day) if whole.train.recipe == GENSAR.name else None
        made[name] = trained(spark, variant, day, pinned, written, own, candidates)
    return made


def run(config: Config, day: date, run_id: str, subject: str) -> dict[str, Any]:
    """Returns {"rows", "path", "gains", "ndcg@10", "as_stated", "seeds", "models"}, the last seed → variant → folder of its model, below `Config.files`.

    Raises BadArgument for another recipe than the subject.
    """
    if config.train.recipe != subject or (subject == GENSAR.name and config.identifiers.construction != "dual"):
        found = f"train.recipe = {config.train.recipe!r} and identifiers.construction = {config.identifiers.construction!r}"
        expected = f"{subject!r}" + (" and 'dual'" if subject == GENSAR.name else "")
        raise BadArgument(f"study {subject} takes {subject} apart: found {found}, expected {expected}")
    spark = session(config)
    quick = config.evaluate.model_copy(update={"baselines": ()})
    judged = config.model_copy(update={"evaluate": quick, "gate": config.gate.model_copy(update={"beat_popularity": False})})
    per_seed, names, folders = [], [], {}
    for seed in config.study.seeds:
        asked = variants(judged, seed)
        rows = models(spark, day, asked)
        folders[seed] = {name: row.artifact for name, row in rows.items()}
        figures, _, _ = evaluate.measure(spark, judged, day, rows)
        tasks = {name: asked[name].train.tasks if name in asked else SERVED for name in rows}
        # A model of one task is judged on it alone.
        per_seed.append({key: figure for key, figure in figures.items() if key[2] in tasks and key[0] in tasks[key[2]]})
        names = [name for name in rows if name != WHOLE]
    gains = gains_of(per_seed, names)
    better, of = as_stated(gains)
    table = [
        (day, subject, task, math.inf, seed, f"{method}.{name}.{metric}@{k}", value[0], run_id)
        for seed, figures in zip(config.study.seeds, per_seed, strict=True)
        for (task, name, method, metric, k), value in figures.items()
    ]
    done = replace(spark, config, STUDIES, day, spark.createDataFrame(table, schema(STUDIES)), run_id, study=subject)
    path = f"{config.lake.root.rstrip('/')}/reports/study_{subject}.html"
    reached = {
        (task, name): interval(figures[task, "all", name, "ndcg", evaluate.GATE_K][0] for figures in per_seed)
        for name in (WHOLE, *names)
        for task in SERVED
        if (task, "all", name, "ndcg", evaluate.GATE_K) in per_seed[0]
    }
    put(spark, path, study_page.parts(day, subject, reached, gains, len(per_seed), (better, of), config.study.own))
    for (task, name), (mean, low, high) in gains.items():
        log.info("study %s, %s: whole over %s %+.1f %% (%.1f to %.1f)", subject, task, name, 100 * mean, 100 * low, 100 * high)
    log.info("study %s: %d of %d signs as the paper states them: %s", subject, better, of, path)
    told = {f"{task}.{name}": value for (task, name), value in gains.items()}
    shown = {f"{task}.{name}": value for (task, name), value in reached.items()}
    return {"rows": done["rows"], "path": path, "gains": told, "ndcg@10": shown, "as_stated": [better, of], "seeds": config.study.seeds, "models": folders}
