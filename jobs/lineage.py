"""Which versions of which tables a step read, and which hold what it wrote: one row of lineage per execution that ended well.

A step that was overtaken by an erasure does not end well. What was read and written, `jobs.spark` and `jobs.writes` have noted: the only ways out of
the lake and into it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

from jobs.config import Config
from jobs.errors import Transient
from jobs.spark import CODE_VERSION, READ, current_version, session
from jobs.tables import ERASURES, LINEAGE, OF_USERS, TABLES
from jobs.writes import WRITTEN, append, schema


@contextmanager
def told(config: Config, step: str, day: date, run_id: str) -> Iterator[None]:
    """Append the row of the step that the block runs; none where it raises, or touches no table."""
    READ.clear()
    WRITTEN.clear()
    asked = current_version(session(config), config, ERASURES)
    yield
    if READ or WRITTEN:
        spark = session(config)
        if step != "erase" and WRITTEN & {table.name for table in OF_USERS} and current_version(spark, config, ERASURES) != asked:
            raise Transient(f"a user was erased while {step} ran, which may have written rows of theirs again; retry")
        inputs = {name: sorted(versions) for name, versions in READ.items()}
        outputs = {name: current_version(spark, config, TABLES[name]) for name in sorted(WRITTEN)}
        row = (day, step, run_id, json.dumps(inputs, sort_keys=True), json.dumps(outputs), config.hash(), CODE_VERSION, datetime.now(UTC))
        append(spark, config, LINEAGE, spark.createDataFrame([row], schema(LINEAGE)), run_id)
