"""A study's cells, trained side by side and kept: killed and started again, it goes on.

A cell that is done is a file below `<lake.files>/artifacts/.work/study/`, named by a hash of all that shapes it. Knows neither what a cell means nor what
its figures say.
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jobs.config import Config

log = logging.getLogger("tandem")

Figures = dict[str, float]
Cell = dict[str, Any]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Sweep:
    """name: of the study. train: a cell's values → its figures; a function of a module, since other processes run it. made_by: modules that shape them."""

    name: str
    train: Callable[[Cell], Figures]
    made_by: tuple[str, ...]


def finished(config: Config, sweep: Sweep, cell: Cell) -> Path:
    """Where a cell's figures are kept."""
    known = json.dumps([cell, code(sweep.made_by)], sort_keys=True)
    return Path(config.files, "artifacts", ".work", "study") / f"{sweep.name}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.json"


@cache
def code(modules: tuple[str, ...]) -> str:
    """A hash of the modules, as they were when this process first asked."""
    return hashlib.sha256(b"".join(Path(find_spec(name).origin).read_bytes() for name in modules)).hexdigest()


def trained(config: Config, sweep: Sweep, cells: list[Cell], told: Callable[[Cell, Figures], str]) -> list[Figures]:
    """Every cell's figures, in order; those that are not on disk yet are trained, with progress. told: what a line says of a cell that is done."""
    from model.study import end_with_parent

    missing = [cell for cell in cells if not finished(config, sweep, cell).exists()]
    if len(missing) < len(cells):
        log.info("study %s: %d of %d settings are done already", sweep.name, len(cells) - len(missing), len(cells))
    started = time.monotonic()
    # Spawned, not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(config.study.workers or os.cpu_count(), multiprocessing.get_context("spawn"), end_with_parent) as pool:
        running = {pool.submit(sweep.train, cell): cell for cell in missing}
        for done, future in enumerate(as_completed(running), 1):
            cell, figures = running[future], future.result()
            path = finished(config, sweep, cell)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(figures), encoding="utf-8")
            os.replace(path.with_suffix(".part"), path)
            left = (time.monotonic() - started) / done * (len(missing) - done)
            log.info("study %s, %s; %d/%d, %.0f s left", sweep.name, told(cell, figures), done, len(missing), left)
    return [json.loads(finished(config, sweep, cell).read_text(encoding="utf-8")) for cell in cells]


def interval(values: Iterable[float]) -> Interval:
    """Mean and the 95 % interval of it, Student's t over seeds; no width can be told from one seed."""
    held = np.asarray(list(values))
    if len(held) < 2:
        return float(held.mean()), math.nan, math.nan
    width = stats.t.ppf(0.975, len(held) - 1) * held.std(ddof=1) / math.sqrt(len(held))
    return float(held.mean()), float(held.mean() - width), float(held.mean() + width)
