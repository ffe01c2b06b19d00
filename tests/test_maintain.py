"""Maintenance: small files are packed, rubbish goes, and every promised version can still be read and rolled back to."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from test_release import D1, D2, NOW, prepare, served_items, stage, write

from jobs import maintain, release, rollback
from jobs.config import load
from jobs.errors import BadArgument
from jobs.spark import path_of, read
from jobs.tables import CHECKS, ITEMS, RECOMMENDATIONS, RELEASES


@pytest.mark.fault("R19")
def test_maintenance_keeps_its_promise(spark, config):
    with pytest.raises(BadArgument, match=r"maintain\.keep_days = 6: .*greater than or equal to 7"):
        load(None, ["maintain.keep_days=6"])
    prepare(spark, config)
    write(spark, config, ITEMS, [("j1", "Item", "item", [], True, D1)])  # a second file of the day
    nights = [(D1, {"u": ["i1"]}), (D1, {"u": ["i2"]}), (D2, {"u": ["i3"]})]
    for n, (day, answers) in enumerate(nights):
        stage(spark, config, day, answers)
        release.run(config, day, f"night{n}")
    orphan = Path(path_of(config, RECOMMENDATIONS), "part-left-by-a-killed-writer.parquet")
    orphan.write_bytes(b"half")
    os.utime(orphan, 2 * (time.time() - 40 * 86400,))
    rows = read(spark, config, ITEMS).count()

    shorter = config.model_copy(update={"maintain": config.maintain.model_copy(update={"keep_days": 9})})
    done = maintain.run(shorter, D2, "weekly")
    assert done["kept"] == [] and done["packed"]["items"] == 2 and not orphan.exists()
    assert read(spark, config, ITEMS).count() == rows
    properties = DeltaTable(path_of(config, RECOMMENDATIONS)).metadata().configuration
    assert properties["delta.deletedFileRetentionDuration"] == properties["delta.logRetentionDuration"] == "interval 9 days"
    for night in reversed(nights):
        assert served_items(spark, config) == night[1]
        if night is not nights[0]:
            rollback.run(config, night[0], "back")
    assert maintain.pack(spark, shorter, ITEMS) == 0

    with pytest.raises(Exception, match="DELTA_VACUUM_RETENTION_PERIOD_TOO_SHORT"):
        spark.sql(f"VACUUM delta.`{path_of(config, RECOMMENDATIONS)}` RETAIN 0 HOURS")


@pytest.mark.fault("R19")
def test_a_release_older_than_the_promise_keeps_its_files(spark, config):
    """No night for six weeks: the served version's files are no longer current, and must outlast the retention."""
    old = datetime.now(UTC) - timedelta(days=42)
    versions = '{"recommendations": 0, "search_results": 0}'
    write(spark, config, RELEASES, [(D1, "r", "m1", "released", versions, "{}", "{}", "h", "0", old)])
    write(spark, config, RECOMMENDATIONS, [(D1, "u", 1, "i1", -1.0, "model", "m1", "r", NOW)])
    orphan = Path(path_of(config, RECOMMENDATIONS), "old.parquet")
    orphan.write_bytes(b"half")
    os.utime(orphan, 2 * (time.time() - 90 * 86400,))
    assert maintain.run(config, D2, "weekly")["kept"] == ["recommendations"]  # the only published table that is there
    assert orphan.exists()
    (warning,) = read(spark, config, CHECKS).where("NOT passed").collect()
    assert (warning.check, warning.severity) == ("stale_release", "warn")


def test_a_relative_lake_gets_its_promise_too(spark, config):
    """As the default, `.tandem/lake`: SQL takes a relative path for a table's name."""
    config = config.model_copy(update={"lake": config.lake.model_copy(update={"root": os.path.relpath(config.lake.root)})})
    write(spark, config, ITEMS, [("i1", "Item", "item", [], True, D1)])
    maintain.promise(spark, config.model_copy(update={"maintain": config.maintain.model_copy(update={"keep_days": 60})}), ITEMS)
    assert DeltaTable(path_of(config, ITEMS)).metadata().configuration["delta.logRetentionDuration"] == "interval 60 days"
