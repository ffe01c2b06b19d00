"""Do task prompts tell more of the answer than task heads, what does each part tell, and who pulls the encoder apart? `python -m jobs study information`.

The central claim of GenSR (Zhao et al. 2025, sections 3.4 and 4.4), on worlds in which it is known how much a pair tells of its answer. Trains, per seed,
gensr, one prompt for both tasks, a discriminative twin of the same size, and gensr without each of its parts or of one task alone (`model.pair_study`); of
each, the Barber-Agakov bound H(Y) - CE on held-out requests, a second estimate by a critic, and the cosine between the two tasks' gradients along training.
Writes studies and a page.
"""

import logging
import math
from datetime import date
from typing import Any

from jobs import study_page
from jobs.config import Config
from jobs.report import put
from jobs.spark import session
from jobs.sweep import Figures, Interval, Sweep, interval, trained
from jobs.tables import STUDIES
from jobs.writes import replace, schema
from model.recipes import SERVED

log = logging.getLogger("tandem")

CLAIM = tuple(study_page.CURVES)  # the arms that the paper's claim is of
MADE_BY = ("model.pair_study", "model.pair_worlds", "model.pairs", "model.gensr", "model.views", "model.questions", "model.unified", "model.information")


def cells_of(config: Config) -> list[dict[str, Any]]:
    """Keyword arguments of `model.pair_study.Cell`."""
    from model.pair_study import ARMS

    steps = 400 if config.study.points == "all" else 50
    return [{"arm": arm, "seed": seed, "steps": steps} for seed in config.study.seeds for arm in ARMS]


def rows_of(cell: dict[str, Any], figures: Figures) -> list[tuple[str, float, str, float]]:
    """(side, knob, figure, value): what stands in `studies`. NAME@STEP is a point of the curve, NAME.TASK and valid_TASK are of a task."""
    made = []
    for name, value in figures.items():
        if name == "seconds" or math.isnan(value):
            continue
        bare, _, step = name.partition("@")
        side = next((task for task in SERVED if bare.endswith(task)), "both")
        figure = bare.removesuffix(side).rstrip("._") if side != "both" else bare
        made.append((side, float(step) if step else math.inf, f"{cell['arm']}.{figure}", value))
    return made


def summary(cells: list[dict[str, Any]], results: list[Figures]) -> dict[str, dict[str, Interval]]:
    """Arm → figure → mean with its interval over seeds; `lost.TASK` is gensr's bound of the same seed less the arm's."""
    held = {(cell["arm"], cell["seed"]): figures for cell, figures in zip(cells, results, strict=True)}
    seeds = sorted({seed for _, seed in held})
    made: dict[str, dict[str, Interval]] = {}
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        shared = [name for name in held[arm, seeds[0]] if all(name in held[arm, seed] for seed in seeds)]
        made[arm] = {name: interval(held[arm, seed][name] for seed in seeds) for name in shared}
        for task in (task for task in SERVED if arm != "gensr" and f"bound.{task}" in shared):
            made[arm][f"lost.{task}"] = interval(held["gensr", seed][f"bound.{task}"] - held[arm, seed][f"bound.{task}"] for seed in seeds)
    return made


def verdict(found: dict[str, dict[str, Interval]]) -> str:
    """What the bounds say of the paper's claim, in words."""
    told = {}
    for task in SERVED:
        mean, low, high = found["twin"][f"lost.{task}"]
        sign = "more" if low > 0 else "less" if high < 0 else "neither measurably more nor less"
        told[task] = f"{task}: {sign} than the twin ({1000 * mean:+.0f} thousandths of a nat)"
    cosine = {arm: found[arm]["cosine_all"][0] for arm in CLAIM}
    least = "least" if cosine["gensr"] == max(cosine.values()) else "not least"
    return f"Task prompts tell, {'; '.join(told.values())}. Their gradients are {least} at odds of the three."


def run(config: Config, day: date, run_id: str) -> dict[str, Any]:
    """Returns {"rows", "path", "verdict", "figures", "seeds", "core_seconds"}."""
    from model.pair_study import train_cell

    cells = cells_of(config)
    results = trained(config, Sweep("information", train_cell, MADE_BY), cells, line)
    spark = session(config)
    rows = [
        (day, "information", side, knob, c["seed"], figure, value, run_id)
        for c, f in zip(cells, results, strict=True)
        for side, knob, figure, value in rows_of(c, f)
    ]
    done = replace(spark, config, STUDIES, day, spark.createDataFrame(rows, schema(STUDIES)), run_id, study="information")
    found = summary(cells, results)
    said = verdict(found)
    path = f"{config.lake.root.rstrip('/')}/reports/study_information.html"
    put(spark, path, study_page.information(day, found, said, len(config.study.seeds)))
    log.info("study information: %s %s", said, path)
    ends = {arm: {name: value for name, value in figures.items() if "@" not in name} for arm, figures in found.items()}
    core_seconds = round(sum(figures["seconds"] for figures in results))
    return {"rows": done["rows"], "path": path, "verdict": said, "figures": ends, "seeds": config.study.seeds, "core_seconds": core_seconds}


def line(cell: dict[str, Any], figures: Figures) -> str:
    return f"{cell['arm']}, seed {cell['seed']}: " + ", ".join(f"{task} {figures[f'bound.{task}']:.3f} nats" for task in SERVED if f"bound.{task}" in figures)
