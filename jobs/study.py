"""Does one task help the other? Sweeps over worlds where the answer is known: `python -m jobs study h1|h2|cap`, and studies of others.

    h1    joint training corrects how popular the model takes an item to be: gain against KL(p_rec || p_search), either task data-poor
    h2    joint training places items better: gain against pair redundancy, either task data-poor
    cap   how many search examples per item it takes to help recommendation
    joint the same question on one's own logs: `study_joint`
    gensar, gensr    what each part of the recipe brings, on one's own logs: `study_parts`
    information      whether task prompts tell more than task heads, on worlds of known information: `study_information`

(Penha et al. 2024.) Writes studies, and a page `<lake.root>/reports/study_SUBJECT.html`. Knows which settings are asked for and what their figures mean;
how they are trained, kept and resumed is in `jobs.sweep`, how a world is made and a model trained in `model`.
"""

import logging
import math
import time
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from jobs import study_information, study_joint, study_page, study_parts
from jobs.config import Config
from jobs.errors import BadArgument
from jobs.report import put
from jobs.spark import session
from jobs.sweep import Figures, Sweep, interval, trained
from jobs.tables import STUDIES
from jobs.writes import replace, schema

log = logging.getLogger("tandem")

# side → training examples of (recommend, search): the side is the poor one
SIZES = {
    "h1": {"recommend": (500, 5000), "search": (5000, 500)},
    "h2": {"recommend": (2000, 10_000), "search": (10_000, 500)},
    "cap": {"recommend": (2000, 20_000)},
}
KNOBS = {"h1": (0.0, 0.1, 0.25, 0.5, 1.0, math.inf), "h2": (0.0, 0.25, 0.5, 0.75, 1.0), "cap": (1.0, 2.0, 5.0, 10.0, math.inf)}
CAP_ALIGNMENT = 0.75

ON_LOGS = {"joint": study_joint.run, "gensar": study_parts.run, "gensr": study_parts.run}


def settings_of(subject: str, config: Config) -> list[dict[str, Any]]:
    """The study's settings, as keyword arguments of `model.study.Cell` and the knob's value."""
    knobs = KNOBS[subject] if config.study.points == "all" else (KNOBS[subject][0], KNOBS[subject][-1])
    made = []
    for side, (n_rec, n_search) in SIZES[subject].items():
        for knob in knobs:
            cap = None if subject != "cap" or math.isinf(knob) else int(knob)
            asked = {"study": subject, "knob": CAP_ALIGNMENT if subject == "cap" else knob, "read": side, "n_rec": n_rec, "n_search": n_search, "added": cap}
            made += [{"knob": knob, "cell": asked | {"seed": seed}} for seed in config.study.seeds]
    return made


def sweep(subject: str) -> Sweep:
    from model.study import train_cell

    return Sweep(subject, train_cell, ("model.worlds", "model.study", "model.unified"))


def gain(figures: Figures, side: str, over: str = "single") -> float:
    """What the joint model has over the single-task model, as a share of it."""
    return figures[f"joint.{side}"] / figures[f"{over}.{side}"] - 1


def line(cell: dict[str, Any], figures: Figures) -> str:
    added = "" if cell["added"] is None else f", {cell['added']} searches an item"
    return f"{cell['read']} poor, knob {cell['knob']:g}{added}, seed {cell['seed']}: gain {100 * gain(figures, cell['read']):+.0f} %"


def points(settings: list[dict[str, Any]], results: list[Figures]) -> list[dict[str, Any]]:
    """One row per side and knob: what the knob came to, the gains with intervals, the mean recalls and purities.

    above_floor (h1): the gain less that of the same seed at the highest KL, where popularity is shared no more.
    """
    made = []
    furthest = max(setting["knob"] for setting in settings)
    floors = {(s["cell"]["read"], s["cell"]["seed"]): gain(f, s["cell"]["read"]) for s, f in zip(settings, results, strict=True) if s["knob"] == furthest}
    for side, knob in dict.fromkeys((setting["cell"]["read"], setting["knob"]) for setting in settings):
        of_seed = {s["cell"]["seed"]: f for s, f in zip(settings, results, strict=True) if (s["cell"]["read"], s["knob"]) == (side, knob)}
        held = list(of_seed.values())
        names = [name for name in held[0] if name.endswith(side) and all(name in figures for figures in held)]
        made.append(
            {
                "side": side,
                "knob": knob,
                "kl": float(np.mean([f["kl"] for f in held])),
                "redundancy": float(np.mean([f["redundancy"] for f in held])),
                "added": float(np.mean([f["examples_search"] for f in held])),
                "gain": interval(gain(f, side) for f in held),
                "gain_same_steps": interval(gain(f, side, "same_steps") for f in held),
                "above_floor": interval(gain(f, side) - floors[side, seed] for seed, f in of_seed.items()),
                "recall": {name.split(".")[0]: float(np.mean([f[name] for f in held])) for name in names if not name.startswith("steps")},
                "purity": {name.removeprefix("purity_"): float(np.mean([f[name] for f in held])) for name in held[0] if name.startswith("purity_")},
                "seeds": len(held),
            }
        )
    return made


def run(config: Config, day: date | None, run_id: str, subject: str) -> dict[str, Any]:
    """Returns {"rows": rows of studies, "path": the page, "seeds", "seconds", "core_seconds" (of all settings, also those done earlier)},
    and what a study on logs adds. Raises BadArgument for one of these without a day.
    """
    started = time.monotonic()
    if subject in ON_LOGS:
        if day is None:
            raise BadArgument(f"study {subject} needs --date YYYY-MM-DD, the day whose corpora it reads")
        return ON_LOGS[subject](config, day, run_id, subject) | {"seconds": round(time.monotonic() - started)}
    day = day or datetime.now(UTC).date()
    if subject == "information":
        return study_information.run(config, day, run_id) | {"seconds": round(time.monotonic() - started)}
    settings = settings_of(subject, config)
    results = trained(config, sweep(subject), [setting["cell"] for setting in settings], line)
    spark = session(config)
    rows = [
        (day, subject, s["cell"]["read"], s["knob"], s["cell"]["seed"], name, value, run_id)
        for s, figures in zip(settings, results, strict=True)
        for name, value in figures.items()
        if name != "seconds" and not math.isnan(value)
    ]
    done = replace(spark, config, STUDIES, day, spark.createDataFrame(rows, schema(STUDIES)), run_id, study=subject)
    found = points(settings, results)
    path = f"{config.lake.root.rstrip('/')}/reports/study_{subject}.html"
    put(spark, path, study_page.study(subject, day, found))
    for point in found:
        mean, low, high = point["gain"]
        told = f"study {subject}, {point['side']} poor, knob {point['knob']:g}: gain {100 * mean:+.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        log.info("%s, over the same steps %+.0f %%", told, 100 * point["gain_same_steps"][0])
    log.info("study %s: %s", subject, path)
    core_seconds = round(sum(figures["seconds"] for figures in results))
    return {"rows": done["rows"], "path": path, "seeds": config.study.seeds, "seconds": round(time.monotonic() - started), "core_seconds": core_seconds}
