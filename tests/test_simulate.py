"""The simulated world: the layout that ingest reads, days that never change, and an answer that can be found."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from jobs import build_corpora, ingest, simulate, world_logs
from jobs.config import Config, load
from jobs.errors import BadArgument
from jobs.spark import read
from jobs.tables import CORPORA
from model import worlds

DAY = date(2026, 11, 20)
SPOILT = {"yesterday"}


def world(config: Config, **keys: object) -> Config:
    keys = {"users": 400, "items": 200, "clusters": 10, "days": 8} | keys
    return config.model_copy(update={"simulate": config.simulate.model_copy(update=keys)})


def log(root: str, name: str) -> pd.DataFrame:
    """The log with its arrival day, as a reader without Spark sees it."""
    files = sorted(Path(root, name).glob("ds=*/*.json"))
    return pd.concat([pd.read_json(file, lines=True, convert_dates=False).assign(ds=file.parent.name[3:]) for file in files], ignore_index=True)


@pytest.fixture(scope="module")
def simulated(spark, tmp_path_factory):
    """A world of eight days, and then of one more; (config, root, what the first eight days held before the second run, both logs)."""
    config = world(load(None, [f"simulate.path={tmp_path_factory.mktemp('warehouse')}"]))
    root = config.simulate.path
    result = simulate.run(config, DAY, "first")
    before = {name: log(root, name) for name in ("interactions", "searches")}
    again = simulate.run(config, DAY + timedelta(days=1), "second")
    return config, result, again, before, {name: log(root, name) for name in ("interactions", "searches")}


def test_layout_is_what_the_default_warehouse_reads(simulated):
    config, result, _, before, _ = simulated
    days = [(DAY - timedelta(days=n)).isoformat() for n in range(7, -1, -1)]
    for name, surface in (("interactions", "recommendation"), ("searches", "search")):
        assert sorted(before[name].ds.unique()) == days
        assert len(before[name]) == result["rows"][surface]
    assert list(before["interactions"].columns[:-1]) == ["event_id", "user_id", "item_id", "event_ts", "action", "session_id", "ingested_at"]
    assert list(before["searches"].columns[:-1])[-1] == "query"
    times = before["interactions"].event_ts
    assert times[~times.isin(SPOILT)].str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").all()
    expected = config.simulate.users * config.simulate.events_per_user
    assert abs(result["rows"]["recommendation"] / expected - 1) < 0.1
    assert abs(result["rows"]["search"] / result["rows"]["recommendation"] - config.simulate.search_share) < 0.05


def test_a_later_day_only_adds(simulated):
    _, _, _, before, after = simulated
    for name in before:
        new = after[name][after[name].ds > DAY.isoformat()]
        assert len(new) > 0
        pd.testing.assert_frame_equal(after[name][after[name].ds <= DAY.isoformat()].reset_index(drop=True), before[name])


def test_rows_arrive_on_their_day_but_for_the_late_ones(simulated):
    config, _, _, before, _ = simulated
    for rows in before.values():
        assert (rows.ingested_at.str[:10] == rows.ds).all()
        good = rows[~rows.event_ts.isin(SPOILT)]
        late = (pd.to_datetime(good.ds) - pd.to_datetime(good.event_ts.str[:10])).dt.days
        assert set(late) <= set(range(6)) and late.max() >= 3
        assert abs((late > 0).mean() - config.simulate.late_share) < 0.005


def test_each_day_is_spoilt_a_little_and_in_every_way(simulated):
    config, _, _, _, after = simulated
    known = set(pd.read_json(next(Path(config.simulate.path, "catalogue").glob("*.json")), lines=True).item_id)
    rows = after["searches"]
    bad = pd.DataFrame(
        {
            "time": rows.event_ts.isin(SPOILT),
            "user": rows.user_id.isna(),
            "item": ~rows.item_id.isin(known),
            "query": rows["query"].str.len() > 256,
            "duplicate": rows.duplicated("event_id"),
        }
    )
    assert bad.any().all() and (bad.sum(axis=1) <= 1).all()
    for rows in after.values():
        bad = rows.event_ts.isin(SPOILT) | rows.user_id.isna() | ~rows.item_id.isin(known) | rows.duplicated("event_id")
        late = rows.event_ts.where(~rows.event_ts.isin(SPOILT), rows.ds).str[:10]
        too_late = (pd.to_datetime(rows.ds) - pd.to_datetime(late)).dt.days > config.ingest.lookback_days
        assert (bad | too_late).groupby(rows.ds).mean().max() < config.ingest.max_quarantine_share


def test_who_knows_the_tastes_beats_popularity_clearly(simulated):
    config, _, _, _, after = simulated
    rows = after["interactions"].dropna(subset="user_id").drop_duplicates("event_id")
    rows = rows[~rows.event_ts.isin(SPOILT) & rows.item_id.str.startswith("i")].sort_values("event_ts")
    rows = rows.assign(cluster=rows.item_id.str[1:6].astype(int) % config.simulate.clusters)
    train, test = rows[rows.ds < DAY.isoformat()], rows[rows.ds >= DAY.isoformat()]
    test = test[test.user_id.isin(train.user_id)]
    popular = set(train.item_id.value_counts().index[:10])
    best = train.groupby("cluster").item_id.agg(lambda items: set(items.value_counts().index[:10]))
    last = train.groupby("user_id").cluster.last()
    informed = sum(item in best[last[user]] for user, item in zip(test.user_id, test.item_id, strict=True)) / len(test)
    assert informed > 2 * test.item_id.isin(popular).mean()


def test_queries_mean_their_topic_and_recur(simulated, spark):
    config, _, _, _, after = simulated
    last = simulate.number(DAY) + 1
    articles = simulate.catalogue(spark, config.simulate, last - 14, last).toPandas().set_index("item_id")
    rows = after["searches"].dropna(subset="user_id")
    rows = rows[rows.item_id.isin(articles.index) & (rows["query"].str.len() <= 256)]
    topics = articles.topic.loc[rows.item_id].to_numpy()
    assert pd.crosstab(rows["query"], topics).max(axis=1).sum() == len(rows), "one text means one topic, and the clicked item is of it"
    users = rows.groupby(["ds", "query"]).user_id.nunique()
    assert (users >= 2).mean() > 0.5
    titles = articles.title.str.lower().loc[rows.item_id] + " " + articles.categories.str.join(" ").str.lower().loc[rows.item_id].to_numpy()
    words = [any(word in title for word in query.split()) for query, title in zip(rows["query"], titles, strict=True)]
    assert sum(words) / len(words) > 0.3, "a reader of words must have something to go by"


def test_the_catalogue_is_renewed(simulated):
    config, _, _, before, _ = simulated
    items = pd.read_json(next(Path(config.simulate.path, "catalogue").glob("*.json")), lines=True)
    assert items.item_id.is_unique and items.is_available.sum() == config.simulate.items
    gone = items[~items.is_available]
    assert 0 < len(gone) < config.simulate.items / 5
    times = before["interactions"][~before["interactions"].event_ts.isin(SPOILT)].groupby("item_id").event_ts.agg(["min", "max"])
    shelves = {item[:6]: item for item in gone.item_id if item in times.index}
    pairs = [(shelves[item[:6]], item) for item in items[items.is_available].item_id if item[:6] in shelves and item in times.index]
    assert pairs and all(times["max"][old][:10] < times["min"][new][:10] for old, new in pairs), "a successor does not stand beside the one before it"


@pytest.mark.parametrize("alignment", [0.0, 0.75, 1.0])
def test_alignment_is_the_share_of_items_whose_topic_is_their_cluster(spark, config, alignment):
    settings = world(config, alignment=alignment).simulate
    items = simulate.catalogue(spark, settings, 0, 0).toPandas()
    assert (items.topic == items.cluster).mean() == pytest.approx(alignment)
    assert items.topic.value_counts().nunique() == 1 and items.cluster.value_counts().nunique() == 1


def test_another_seed_is_another_world_and_more_topics_than_departments_stay_apart(spark, config):
    def events(**keys):
        settings = world(config, users=20, items=120, clusters=60, **keys).simulate
        return simulate.user_events(simulate.user_days(spark, settings, 0, 6), settings).toPandas()

    one, same, other = events(), events(), events(seed=8)
    assert one.sort_values("event_id", ignore_index=True).equals(same.sort_values("event_id", ignore_index=True))
    assert not set(one.event_id) & set(other.event_id)
    words = spark.range(85).select(simulate.topic_words(F.col("id").cast("int")).alias("words")).toPandas().words
    assert words.map(tuple).is_unique


def test_more_clusters_than_items_are_refused(config):
    with pytest.raises(BadArgument, match=r"simulate\.clusters = 50: expected at most simulate\.items = 20"):
        simulate.run(world(config, items=20, clusters=50), DAY, "r")


@pytest.mark.parametrize("kind", ["popularity", "clusters"])
def test_a_world_of_a_study_is_written_as_asked_for(kind, config, monkeypatch):
    monkeypatch.setattr(worlds, "HELD_OUT", 3)
    settings = world(config, world=kind, kl=0.25, alignment=0.5, recommend_examples=6, search_examples=5).simulate
    made = world_logs.world_of(settings)
    assert (made.items, len(made.recommend.train), len(made.search.train)) == (200, 6, 5)
    assert made.kl == pytest.approx(0.25, abs=1e-6) if kind == "popularity" else 0.1 < made.redundancy < 0.45
    rows = list(world_logs.events(made, DAY, settings.seed))
    width = made.recommend.test.shape[1]
    assert Counter((row.surface, row.ds) for row in rows) == {
        ("recommendation", "2026-11-17"): (6 + 3 + 3) * width,
        ("recommendation", "2026-11-18"): 6,
        ("recommendation", "2026-11-19"): 3,
        ("recommendation", "2026-11-20"): 3,
        ("search", "2026-11-18"): 5,
        ("search", "2026-11-19"): 3,
        ("search", "2026-11-20"): 3,
    }
    assert len({row.event_id for row in rows}) == len(rows) and {row.item_id for row in rows} <= {row[0] for row in world_logs.catalogue(made)}


def test_an_answer_of_a_test_input_is_drawn_from_its_chances():
    world = worlds.popularity(0.5, 10, 10, 0, items=4)
    side = worlds.Side(world.search.train, world.search.valid, world.search.test, np.tile([0.0, 0.5, 0.0, 0.5], (worlds.HELD_OUT, 1)))
    drawn = side.tested(3)
    assert set(drawn.targets) == {1, 3} and abs((drawn.targets == 1).mean() - 0.5) < 0.1
    assert (drawn.inputs == side.test).all() and (drawn.targets == side.tested(3).targets).all()


def test_the_corpora_of_a_studys_world_are_its_examples(spark, config, monkeypatch):
    """Through ingest and build_corpora: every history, query, answer and split of the world, and no other."""
    monkeypatch.setattr(worlds, "HELD_OUT", 3)
    config = world(config, world="clusters", items=40, alignment=0.5, recommend_examples=6, search_examples=5)
    root = config.simulate.path
    sources = {name: getattr(config.warehouse, name) for name in ("interactions", "searches", "catalogue")}
    moved = {name: source.model_copy(update={"path": source.path.replace(".tandem/warehouse", root)}) for name, source in sources.items()}
    config = config.model_copy(update={"warehouse": config.warehouse.model_copy(update=moved)})
    made = world_logs.world_of(config.simulate)
    result = simulate.run(config, DAY, "r")
    assert result["rows"] == {"recommendation": 12 * 6, "search": 11}
    assert result["redundancy"] == made.redundancy and result["oracle.search"] == made.search.oracle() and "kl" not in result
    days = [DAY - timedelta(days=before) for before in (3, 2, 1, 0)]
    for day in days:
        ingest.run(config, day, "r", allow_empty=day == days[0])
    for day in days[1:]:
        build_corpora.run(config, day, "r")
    found = build_corpora.with_split(read(spark, config, CORPORA), config.corpora, DAY).collect()
    expected = []
    for split in ("train", "valid", "test"):
        histories, queries = (world_logs.logs_of(getattr(made, task), config.simulate.seed)[split] for task in worlds.TASKS)
        expected += [("recommend", [f"item{i}" for i in x], None, f"item{y}", split) for x, y in zip(histories.inputs, histories.targets, strict=True)]
        expected += [("search", [], " ".join(f"word{w}" for w in x), f"item{y}", split) for x, y in zip(queries.inputs, queries.targets, strict=True)]
    held = [(row.task, [act.item_id for act in row.history], row.query, row.target_item_id, row.split) for row in found]
    assert sorted(held, key=str) == sorted(expected, key=str)


def test_clusters_that_do_not_come_out_even_are_refused(config):
    with pytest.raises(BadArgument, match=r"simulate\.items = 50: expected a multiple of 20"):
        simulate.run(world(config, world="clusters", items=50), DAY, "r")
