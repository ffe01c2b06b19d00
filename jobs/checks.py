"""Checks that a step made of its data: written to `checks`, and a failed one stops the night.     Writes checks (its step's part of the day)."""

from dataclasses import astuple, dataclass
from datetime import date
from typing import Literal

from pyspark.sql import SparkSession

from jobs.config import Config
from jobs.errors import BadData
from jobs.tables import CHECKS
from jobs.writes import replace, schema


@dataclass(frozen=True)
class Check:
    name: str
    severity: Literal["fail", "warn", "info"]
    value: float | None
    threshold: float | None
    passed: bool


def record(spark: SparkSession, config: Config, step: str, day: date, checks: list[Check], run_id: str) -> None:
    """Write the step's checks of the day; then raise BadData naming every failed check of severity fail."""
    rows = [(day, step, *astuple(check), run_id) for check in checks]
    frame = spark.createDataFrame(rows, schema(CHECKS))
    replace(spark, config, CHECKS, day, frame, run_id, step=step)
    failed = [f"{c.name}: found {c.value}, allowed {c.threshold}" for c in checks if c.severity == "fail" and not c.passed]
    if failed:
        raise BadData(f"{step} {day}: " + "; ".join(failed))
