"""The views that analysts ask, over a lake's tables: in DuckDB, Polars and pandas without a JVM, in Spark under the same names.

    duck(root).sql("SELECT * FROM recommendations_latest")       # every table and view of the lake, in DuckDB
    register(spark, config)                                      # the same as temporary views of a Spark session
    tables(root)["recommendations_wide"]                         # the same as Arrow: pandas and Polars read it
    why(root, user_id="u1")                                      # what lies behind each item of one request

    *_latest      what is served now: the rows that the served release names, by Delta version; without users who were erased since
    *_before      the release before it
    *_wide        one row per request of *_latest: items array<struct<rank, item_id, score>>, best first
    *_changed     item by item, from *_before to *_latest: entered, left, risen, fallen or same

Reads the lake's tables; writes nothing. Loads neither Spark nor torch by itself.
"""

import hashlib
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from jobs.errors import MissingInput
from jobs.served import previous, served_of
from jobs.tables import ERASURES, EVENTS, ITEM_EMBEDDINGS, ITEMS, RECOMMENDATIONS, RELEASES, SEARCH_RESULTS, TABLES, Table

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    from pyspark.sql import SparkSession

    from jobs.config import Config

RANKED = {table.name: table for table in (RECOMMENDATIONS, SEARCH_RESULTS)}
HISTORY = 50  # a user's latest items that an item is held against
# The same text in Spark and in DuckDB.
CHANGED = """
SELECT {request}, coalesce(n.item_id, o.item_id) AS item_id, o.rank AS rank_before, n.rank AS rank_now,
       CASE WHEN o.rank IS NULL THEN 'entered' WHEN n.rank IS NULL THEN 'left' WHEN n.rank < o.rank THEN 'risen' WHEN n.rank > o.rank THEN 'fallen' ELSE 'same'
       END AS change
FROM {name}_latest AS n FULL OUTER JOIN {name}_before AS o ON {same} AND n.item_id = o.item_id
"""


def requests(table: Table) -> list[str]:
    """The columns that name a request."""
    return [name for name in ("query", "user_id") if name in table.names]


def changed(table: Table) -> str:
    keys = requests(table)
    same = " AND ".join(f"coalesce(n.{key}, '') = coalesce(o.{key}, '')" for key in keys)
    return CHANGED.format(name=table.name, same=same, request=", ".join(f"coalesce(n.{key}, o.{key}) AS {key}" for key in keys))


def opened(root: str, table: Table, version: int | None = None) -> DeltaTable | None:
    try:
        return DeltaTable(f"{root.rstrip('/')}/{table.name}", version=version)
    except TableNotFoundError:
        return None


def rows_of(root: str, table: Table, condition: pc.Expression | None = None, version: int | None = None) -> pa.Table:
    """The table's rows; empty, with its columns, where it does not exist."""
    there = opened(root, table, version)
    if there is None:
        return pa.table({name: pa.array([], pa.string()) for name in table.names})
    return there.to_pyarrow_dataset().to_table(filter=condition)


def released(root: str) -> tuple[Any, Any | None]:
    """The served row of releases and the one before it. Raises MissingInput before the first release."""
    rows = [SimpleNamespace(**row) for row in rows_of(root, RELEASES).sort_by([("released_at", "descending")]).to_pylist()]
    now = served_of(rows)
    if now is None:
        raise MissingInput(f"nothing was released below {root} (lake.root); run first: python -m jobs release --date D")
    return now, previous(rows, now)


def of_release(root: str, table: Table, release: Any | None) -> pa.Table:
    """The rows of the published table that a release named; none where there is no release."""
    if release is None:
        return rows_of(root, table, pc.scalar(False))
    rows = rows_of(root, table, pc.field("ds") == release.ds, json.loads(release.output_versions)[table.name])
    erased = {row["user_hash"]: row["erased_at"] for row in rows_of(root, ERASURES).sort_by("erased_at").to_pylist()}
    for user in pc.unique(rows["user_id"]).to_pylist() if erased else ():
        when = user and erased.get(hashlib.sha256(user.encode()).hexdigest())
        if when:
            of_before = pc.and_kleene(pc.equal(rows["user_id"], user), pc.less(rows["generated_at"], pa.scalar(when, rows["generated_at"].type)))
            rows = rows.filter(pc.invert(pc.fill_null(of_before, False)))
    return rows


def wide(rows: pa.Table, table: Table) -> pa.Table:
    """One row per request: ds, the request's columns, items list<struct<rank, item_id, score>>, best first. Ranks of a request are 1, 2, …"""
    rows = rows.sort_by([(name, "ascending") for name in (*requests(table), "rank")]).combine_chunks()
    first = np.flatnonzero(rows["rank"].to_numpy() == 1)
    held = ("rank", "item_id", "score")
    entries = pa.StructArray.from_arrays([rows[name].combine_chunks() for name in held], names=list(held))
    items = pa.ListArray.from_arrays(pa.array([*first, len(rows)], pa.int32()), entries)
    return rows.select(["ds", *requests(table)]).take(first).append_column("items", items)


def tables(root: str) -> dict[str, pa.Table | Any]:
    """Name → Arrow dataset of each table as it is now (read when asked), and Arrow table of each view but *_changed, which is SQL."""
    found = {name: there.to_pyarrow_dataset() for name, table in TABLES.items() if (there := opened(root, table))}
    now, before = released(root)
    for name, table in RANKED.items():
        found[f"{name}_latest"] = of_release(root, table, now)
        found[f"{name}_before"] = of_release(root, table, before)
        found[f"{name}_wide"] = wide(found[f"{name}_latest"], table)
    return found


def duck(root: str) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection (in memory, nothing is copied) that knows every table and view by its name."""
    import duckdb

    connection = duckdb.connect()
    for name, data in tables(root).items():
        connection.register(name, data)
    for name, table in RANKED.items():
        connection.execute(f"CREATE VIEW {name}_changed AS {changed(table)}")
    return connection


def register(spark: "SparkSession", config: "Config") -> None:
    """The same names as temporary views of the Spark session."""
    from jobs.release import latest, of, releases
    from jobs.release import wide as wide_frame
    from jobs.spark import exists, read

    for name, table in TABLES.items():
        if exists(spark, config, table):
            read(spark, config, table).createOrReplaceTempView(name)
    rows = releases(spark, config)
    before = previous(rows, served_of(rows)) if rows else None
    for name, table in RANKED.items():
        served = latest(spark, config, table)
        served.createOrReplaceTempView(f"{name}_latest")
        wide_frame(served).createOrReplaceTempView(f"{name}_wide")
        (of(spark, config, table, before) if before else served.limit(0)).createOrReplaceTempView(f"{name}_before")
        spark.sql(changed(table)).createOrReplaceTempView(f"{name}_changed")


def why(root: str, *, user_id: str | None = None, query: str | None = None, view: str = "behaviour") -> "pd.DataFrame":
    """Behind each item of one served request: rank, item_id, title, score, source, model_version, because, similarity.

    Of a user, `because` is the title of the item of their history that is nearest by `view` (behaviour: bought or clicked by the same people; text), and
    `similarity` the cosine; null where the row is popular, or nothing is known of the item. Of a query, `because` is its words that the item's
    text holds, and `similarity` their share. The model looks at more than this: it is a reading aid, not its reasoning.
    """
    now, _ = released(root)
    table = RECOMMENDATIONS if query is None else SEARCH_RESULTS
    wanted = pc.field("user_id") == user_id if query is None else (pc.field("query") == query) & pc.field("user_id").is_null()
    found = of_release(root, table, now).filter(wanted).sort_by("rank").to_pandas()
    items = rows_of(root, ITEMS, pc.field("ds") == now.ds).to_pandas().set_index("item_id")
    found["title"] = found["item_id"].map(items["title"])
    if query is None:
        found["because"], found["similarity"] = nearest(root, now, user_id, found, items["title"], view)
    else:
        shared = [[word for word in query.split() if word in items["text"].get(item, "").lower().split()] for item in found["item_id"]]
        found["because"] = [" ".join(words) or None for words in shared]
        found["similarity"] = [len(words) / max(1, len(query.split())) for words in shared]
    return found[["rank", "item_id", "title", "score", "source", "model_version", "because", "similarity"]]


def nearest(root: str, release: Any, user_id: str | None, found: "pd.DataFrame", titles: "pd.Series", view: str) -> tuple[list[str | None], list[float | None]]:
    """For each row of `found`: the titles of the nearest items of the user's history at the release's day, and the cosines."""
    until = datetime.combine(release.ds, datetime.max.time(), UTC)
    mine = rows_of(root, EVENTS, (pc.field("user_id") == user_id) & (pc.field("ds") <= release.ds) & (pc.field("ingested_at") <= until))
    history = list(dict.fromkeys(mine.sort_by([("event_ts", "descending")])["item_id"].to_pylist()))[:HISTORY]
    asked = pc.field("item_id").isin(pa.array([*history, *found["item_id"]], pa.string())) & (pc.field("view") == view) & (pc.field("ds") == release.ds)
    held = rows_of(root, ITEM_EMBEDDINGS, asked).to_pylist()
    vectors = {row["item_id"]: np.asarray(row["vector"]) for row in held if any(row["vector"])}
    history = [item for item in history if item in vectors]
    because: list[str | None] = []
    similarity: list[float | None] = []
    for item, source in zip(found["item_id"], found["source"], strict=True):
        known = source == "model" and item in vectors and history
        cosines = [float(vectors[item] @ vectors[other]) for other in history] if known else []
        because.append(titles.get(history[int(np.argmax(cosines))]) if cosines else None)
        similarity.append(max(cosines, default=None))
    return because, similarity
