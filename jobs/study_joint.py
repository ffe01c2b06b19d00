"""Should search and recommendation share one model, on this warehouse? `python -m jobs study joint --date D`.

Trains, per seed, the joint model and each task alone twice: for the same epochs, and for as many steps as the joint model takes; with
`study.caps` also joint models whose added task is capped. All are judged on the day's test examples, paired (Penha et al. 2024, sections
5 to 7: which items gain, and how alike the two logs are).

Reads corpora, items and what `train` reads. Writes studies and a page. The models are the study's own: they lie below
`<lake.files>/artifacts/.work/study/`, stand in no table, and are never served; one that is there is not trained again.
"""

import logging
import math
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from jobs import evaluate, study_page, train
from jobs.build_corpora import with_split
from jobs.config import Config
from jobs.errors import MissingInput
from jobs.report import put
from jobs.spark import path_of, read, session, versions, written_up_to
from jobs.sweep import interval
from jobs.tables import CORPORA, ITEMS, STUDIES
from jobs.writes import replace, schema

log = logging.getLogger("tandem")

TASKS = ("recommend", "search")
KS = (10, 30)
PAIRED_ITEMS = 50  # latest items of a user that count as having been used together, so that no user makes a million pairs
ALIKE = 2.0  # an item is known to the other log when its share there is at least this many times its share here

Points = dict[tuple[str, str, str], tuple[float, float, float]]


def likeness(train_rows: DataFrame) -> tuple[DataFrame, dict[str, float]]:
    """(item_id, p_recommend, p_search, paired, redundancy) of every item trained on, and the logs' figures.

    p: share of the task's training targets, one more per item (+1 over the union). redundancy: of the items that were used by the same
    users (`paired` pairs), the share that also answered a query in common. Logs: kl (recommend to search, nats), kl_shared (over items
    of both), overlap both ways, redundancy over all pairs (Penha et al. 2024, section 5; reference: bridge, section 3).
    """
    counted = train_rows.groupBy("target_item_id").pivot("task", list(TASKS)).count().fillna(0).withColumnRenamed("target_item_id", "item_id")
    total = counted.agg(*(F.sum(F.col(task) + 1).alias(f"all_{task}") for task in TASKS))
    shares = counted.crossJoin(F.broadcast(total)).select("item_id", *TASKS, *(((F.col(t) + 1) / F.col(f"all_{t}")).alias(f"p_{t}") for t in TASKS))
    newest_first = Window.partitionBy("user_id").orderBy(F.desc("event_ts"), "target_item_id")
    used = train_rows.where("task = 'recommend'").withColumn("age", F.row_number().over(newest_first)).where(F.col("age") <= PAIRED_ITEMS)
    used = used.select("user_id", F.col("target_item_id").alias("item_id")).distinct()
    pairs = used.join(used.withColumnRenamed("item_id", "other"), "user_id").where("item_id <> other").select("item_id", "other").distinct()
    queries = train_rows.where("task = 'search'").groupBy(F.col("target_item_id").alias("item_id")).agg(F.collect_set("query").alias("queries"))
    both = pairs.join(queries, "item_id", "left").join(queries.toDF("other", "other_queries"), "other", "left")
    common = F.coalesce(F.arrays_overlap("queries", "other_queries"), F.lit(False)).cast("int")
    per_item = both.groupBy("item_id").agg(F.count("*").alias("paired"), F.avg(common).alias("redundancy"))
    items = shares.join(per_item, "item_id", "left").persist()
    in_both = (F.col("recommend") > 0) & (F.col("search") > 0)
    kl = F.col("p_recommend") * F.log(F.col("p_recommend") / F.col("p_search"))
    told = items.agg(
        F.sum(kl).alias("kl"),
        F.sum(F.when(in_both, kl)).alias("kl_shared"),
        F.try_divide(F.count_if(in_both), F.count_if(F.col("search") > 0)).alias("search_items_in_recommend"),
        F.try_divide(F.count_if(in_both), F.count_if(F.col("recommend") > 0)).alias("recommend_items_in_search"),
        F.try_divide(F.sum(F.col("redundancy") * F.col("paired")), F.sum("paired")).alias("redundancy"),
    ).first()
    return items, {name: float(value) for name, value in told.asDict().items() if value is not None}


def kinds(items: DataFrame, redundancy: float) -> DataFrame:
    """(task, item_id, kinds): the slices an item's targets count in besides those of `evaluate`."""
    ratio = {"recommend": F.col("p_search") / F.col("p_recommend"), "search": F.col("p_recommend") / F.col("p_search")}
    pairs = F.when(F.col("redundancy") > redundancy, "pairs:more redundant").otherwise("pairs:less redundant")
    frames = []
    for task in TASKS:
        known = F.when(ratio[task] >= ALIKE, "other log:knows it better").when(ratio[task] <= 1 / ALIKE, "other log:knows it less").otherwise("other log:alike")
        frames.append(items.select(F.lit(task).alias("task"), "item_id", F.array(known, pairs).alias("kinds")))
    return frames[0].unionAll(frames[1])


def weight_of(train_rows: DataFrame, half_life_days: float) -> dict[str, float]:
    """Task → examples that an epoch draws, as `model.data.chances` has it."""
    latest = F.max("event_ts").over(Window.partitionBy())
    age = (F.unix_micros(latest) - F.unix_micros("event_ts")) / 86_400e6 if half_life_days else F.lit(0.0)
    chance = F.pow(F.lit(0.5), age / (half_life_days or 1.0))
    return {row.task: row.n for row in train_rows.select("task", chance.alias("chance")).groupBy("task").agg(F.sum("chance").alias("n")).collect()}


def variants(config: Config, weights: dict[str, float], seed: int) -> dict[str, Config]:
    """Name → the configuration of a training. Same steps: as many more epochs as the joint model's epochs are longer."""
    train_ = config.train
    made = {"joint": {"tasks": TASKS}}
    for task in TASKS:
        other = "search" if task == "recommend" else "recommend"
        longer = sum(weights.values()) / weights[task]
        made[f"{task}_same_epochs"] = {"tasks": (task,)}
        made[f"{task}_same_steps"] = {"tasks": (task,), "epochs": math.ceil(train_.epochs * longer)}
        made |= {f"{task}_joint_cap_{cap}": {"tasks": TASKS, "max_per_item": {other: cap}} for cap in config.study.caps}
    common = {"seed": seed, "warm_start": False}
    patient = {name: {**changes, **common, "patience": changes.get("epochs", train_.epochs)} for name, changes in made.items()}
    return {name: config.model_copy(update={"train": train_.model_copy(update=changes)}) for name, changes in patient.items()}


def trained(
    spark: SparkSession,
    config: Config,
    day: date,
    pinned: dict[str, int],
    written: dict[str, int],
    identifiers: str | None = None,
    candidates: str | None = None,
) -> Row:
    """The variant's model, trained now or earlier, as a row that `evaluate` takes for one of `models`. identifiers: a table of the variant's own;
    candidates: folder of a first stage."""
    spec = train.specification(config, day, pinned, written, None, identifiers, candidates)
    artifact = f"artifacts/.work/study/{spec['model_version']}"
    spec |= {"output": f"{config.files}/{artifact}", "work": f"{config.files}/{artifact}.work"}
    if not Path(spec["output"], "manifest.json").exists():
        train.launch(config, spec)
    return Row(model_version=spec["model_version"], artifact=artifact, config=config.model_dump_json())


def advice(gains: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    """What to do, in words. gains: task → model ("joint", "joint_cap_N") → mean gain in NDCG@10 over the better single-task model and its interval."""

    def verdict(task: str, model: str) -> int:
        _, low, high = gains[task][model]
        return (low > 0) - (high < 0)

    told = {task: verdict(task, "joint") for task in TASKS}
    hurt = [task for task in TASKS if told[task] < 0]
    helped = [task for task in TASKS if told[task] > 0]
    if not hurt:
        why = f"it helps {' and '.join(helped)}" if helped else "no task is measurably better or worse for it, and one model is less to run"
        return f"joint: train one model for both tasks; {why}."
    rescues = {task: [name for name in gains[task] if name != "joint" and verdict(task, name) >= 0] for task in hurt}
    if all(rescues.values()):
        caps = "; ".join(f"for {task}, at most {rescues[task][-1].rpartition('_')[2]} examples per item of the other task" for task in hurt)
        return f"cap the added task: uncapped it costs {' and '.join(hurt)} ({caps}: train.max_per_item)."
    if helped:
        return f"separate: joint training helps {helped[0]} and costs {hurt[0]}; keep a model of its own for {hurt[0]} (train.tasks), or try study.caps."
    return f"separate: joint training costs {' and '.join(hurt)} and helps neither; train each task alone (train.tasks), or try study.caps."


def compared(per_seed: list[evaluate.Figures], names: list[str]) -> tuple[Points, dict[str, dict[str, tuple[float, float, float]]]]:
    """(task, slice, method) → gain of the joint model in NDCG@10 as a share of the method's, over seeds; and what `advice` reads."""
    made: Points = {}
    k = evaluate.GATE_K
    for task, name, method in sorted({(t, s, m) for figures in per_seed for (t, s, m, metric, at) in figures if metric == "ndcg" and m != "model" and at == k}):
        pairs = [(figures.get((task, name, "model", "ndcg", k)), figures.get((task, name, method, "ndcg", k))) for figures in per_seed]
        gains = [own[0] / other[0] - 1 for own, other in pairs if own and other and other[0]]
        if len(gains) == len(per_seed):
            made[task, name, method] = interval(gains)
    advised: dict[str, dict[str, tuple[float, float, float]]] = {}
    for task in TASKS:
        single = [f"{task}_same_epochs", f"{task}_same_steps"]
        value = {name: [figures[task, "all", name, "ndcg", k][0] for figures in per_seed] for name in (*single, "model")}
        better = max(single, key=lambda name: sum(value[name]))
        advised[task] = {"joint": interval(own / other - 1 for own, other in zip(value["model"], value[better], strict=True))}
        for name in names:
            if name.startswith(f"{task}_joint_cap_"):
                capped = [figures[task, "all", name, "ndcg", k][0] for figures in per_seed]
                advised[task][name.removeprefix(f"{task}_")] = interval(own / other - 1 for own, other in zip(capped, value[better], strict=True))
    return made, advised


def run(config: Config, day: date, run_id: str, subject: str) -> dict[str, Any]:
    """Returns {"rows", "path", "advice", "gains", "logs"}; means with 95 % intervals of the seeds' values."""
    spark = session(config)
    pinned = versions(spark, config, train.INPUTS)
    if CORPORA.name not in pinned:
        raise MissingInput(f"table corpora not found at {path_of(config, CORPORA)} (lake.root); it is written by: {CORPORA.written_by}")
    written = {table.name: written_up_to(spark, config, table, day) for table in train.INPUTS}
    corpora = with_split(read(spark, config, CORPORA, until=day), config.corpora, day).where("split = 'train'")
    catalogue = read(spark, config, ITEMS, at=day).select("item_id")
    rows = corpora.join(catalogue.withColumnRenamed("item_id", "target_item_id"), "target_item_id", "left_semi")
    rows = rows.select("task", "user_id", "target_item_id", "query", "event_ts").persist()
    items, logs = likeness(rows)
    weights = weight_of(rows, config.train.half_life_days)
    if set(weights) != set(TASKS):
        raise MissingInput(f"study joint needs training examples of both tasks; corpora up to {day} hold {', '.join(sorted(weights)) or 'none'}")
    log.info("study joint: %s", ", ".join(f"{name} {value:.3f}" for name, value in logs.items()))
    quick = config.evaluate.model_copy(update={"baselines": (), "ks": tuple(sorted({*config.evaluate.ks, *KS}))})
    judged = config.model_copy(update={"evaluate": quick, "gate": config.gate.model_copy(update={"beat_popularity": False})})
    per_seed, names = [], []
    for seed in config.study.seeds:
        asked = variants(judged, weights, seed)
        names, models = list(asked), {}
        for done, (name, variant) in enumerate(asked.items(), 1):
            log.info("study joint: seed %d, %s (%d of %d)", seed, name, done, len(asked))
            models[name] = trained(spark, variant, day, pinned, written)
        models["model"] = models.pop("joint")
        figures, _, _ = evaluate.measure(spark, judged, day, models, kinds(items, logs.get("redundancy", 0.0)))
        # A model of one task is judged on it alone, a capped one on the task that it was capped for.
        per_seed.append({key: figure for key, figure in figures.items() if key[2] == "model" or key[2].startswith(key[0])})
    points, advised = compared(per_seed, names)
    told = advice(advised)
    table_rows = [
        (day, subject, task, math.inf, seed, f"{method}.{name}.{metric}@{k}", value[0], run_id)
        for seed, figures in zip(config.study.seeds, per_seed, strict=True)
        for (task, name, method, metric, k), value in figures.items()
    ]
    table_rows += [(day, subject, task, math.inf, config.study.seeds[0], f"log.{name}", value, run_id) for task in TASKS for name, value in logs.items()]
    done = replace(spark, config, STUDIES, day, spark.createDataFrame(table_rows, schema(STUDIES)), run_id, study=subject)
    path = f"{config.lake.root.rstrip('/')}/reports/study_{subject}.html"
    put(spark, path, study_page.joint(day, points, per_seed, logs, told))
    for frame in (rows, items):
        frame.unpersist()
    for task in TASKS:
        for model, (mean, low, high) in advised[task].items():
            log.info("study joint, %s: %s over the better single-task model %+.1f %% (%.1f to %.1f)", task, model, 100 * mean, 100 * low, 100 * high)
    log.info("study joint: %s", told)
    gains = {f"{task}.{name}.{method}": value for (task, name, method), value in points.items()}
    return {"rows": done["rows"], "path": path, "advice": told, "gains": gains, "logs": logs, "seeds": config.study.seeds}
