"""Serve the release before the served one: one more row in releases, no data moves.

Reads releases and the published tables. Writes one row of releases (status rollback), and takes the model that is left out of use (`models.status`
becomes failed), unless the release before was made by it, too: else the next night would learn from it, be held against it, and may serve it
again. `evaluate` and `release` of its day put it back. Knows nothing of staging.

The served release is the newest row of releases by `released_at`, backfilled days aside. A rollback row repeats the ds, run_id,
model_version, versions and counts of an earlier release, so that `jobs.release.latest` reads exactly that release's rows, at the
Delta versions it named, also where the same day was released again since. Releases stand in the order (ds, released_at): a
rollback goes one step down, a rollback of a rollback one further, and releasing a day (again) serves that day.
`--date` is the day to be left and must be the served one: a repeated command cannot fall two steps by accident.
"""

import json
import logging
from datetime import date

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import mirror, registry
from jobs.config import Config
from jobs.errors import BadArgument, BadData, MissingInput
from jobs.release import point, releases
from jobs.served import previous, served_of
from jobs.spark import read, session
from jobs.tables import TABLES

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str) -> dict:
    """Leave the day's release. Returns {"left", "served": days, "run_id": of the release now served, "withdrawn": the model taken out of use, or None}.

    Raises BadArgument (the day is not the served one), MissingInput (no earlier release), BadData (its rows are no longer whole).
    """
    spark = session(config)
    rows = releases(spark, config)
    now = served_of(rows)
    if now is None:
        raise MissingInput(f"nothing was released below {config.lake.root} (lake.root): there is nothing to roll back")
    if now.ds != day:
        raise BadArgument(f"--date {day}: the served release is of {now.ds}; name that day to leave it")
    target = previous(rows, now)
    if target is None:
        raise MissingInput(f"the served release of {now.ds} is the oldest one: there is none to roll back to")
    verify(spark, config, target)
    seen = mirror.aliases(config)
    outputs, inputs, counts = (json.loads(target[name]) for name in ("output_versions", "input_versions", "counts"))
    row = (target.ds, target.run_id, target.model_version, "rollback", outputs, inputs, counts, target.config_hash, target.code_version)
    withdrawn = now.model_version if now.model_version != target.model_version else None
    if withdrawn:  # first: killed in between, the command is repeated, and finds the day still served
        registry.set_status(spark, config, withdrawn, "failed")
    point(spark, config, row, run_id, now)
    mirror.promote(spark, config, day, run_id, target.model_version, seen)
    log.info("rollback: left %s, serving %s%s", now.ds, target.ds, f"; {withdrawn} is used no more" if withdrawn else "")
    return {"left": str(now.ds), "served": str(target.ds), "run_id": target.run_id, "withdrawn": withdrawn}


def verify(spark: SparkSession, config: Config, target: Row) -> None:
    """Read the release's rows before anybody is pointed at them: VACUUM removes files that a Delta version still names."""
    for name, count in json.loads(target.counts).items():
        version = json.loads(target.output_versions)[name]
        try:
            rows = read(spark, config, TABLES[name], version=version).where(F.col("ds") == F.lit(target.ds))
            found = rows.agg(F.count_if(F.col("rank") == 1)).first()[0]
        except Exception as error:  # the class for a vanished file or version differs by reader
            raise MissingInput(f"{name} at version {version}, the release of {target.ds}, cannot be read any more (VACUUM?)") from error
        if found != count["requests"]:
            raise BadData(f"{name} at version {version}: found {found} requests, released were {count['requests']}")
