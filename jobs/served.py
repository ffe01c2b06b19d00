"""Which release is served, and which stood before it: pure functions of the rows of `releases`.     Light: no Spark, no torch.

A row is anything with the columns of `tables.RELEASES` as attributes. `previous` wants them in any order, `served_of` newest first.
"""

from collections.abc import Sequence
from typing import Any


def served_of(rows: Sequence[Any]) -> Any | None:
    """The newest row that is not `backfilled`; None before the first release."""
    return next((row for row in rows if row.status != "backfilled"), None)


def previous(rows: Sequence[Any], now: Any) -> Any | None:
    """The release before this one in the order (ds, released_at); a rollback row stands where the release it repeats does."""
    made = sorted((row for row in rows if row.status != "rollback"), key=lambda row: (row.ds, row.released_at))
    same = [row for row in made if (row.ds, row.run_id, row.output_versions) == (now.ds, now.run_id, now.output_versions)]
    before = made[: made.index(same[-1])]
    return before[-1] if before else None
