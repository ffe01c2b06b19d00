"""Names of items: unique, never taken away, never given twice."""

import random
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from jobs import assign_identifiers as job
from jobs.embed_items import artifact_folder, numbered
from jobs.errors import BadArgument, BadData, MissingInput
from jobs.spark import exists, read
from jobs.tables import CHECKS, ITEM_EMBEDDINGS, ITEM_IDENTIFIERS
from jobs.writes import append, schema
from model import identifiers

DAY = date(2026, 11, 20)
NAMED = "item_id STRING, codes ARRAY<INT>"
CODED = "item_id STRING, view STRING, levels ARRAY<INT>"


def test_residual_kmeans_finds_the_hierarchy():
    # 4 far clusters of 4 near ones: level 1 is the far cluster, level 2 parts the near ones.
    far, near = np.array([[0, 0], [90, 0], [0, 90], [90, 90]]), np.array([[0, 0], [7, 0], [0, 7], [7, 7]])
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 4, 10, 2))
    vectors = (far[:, None, None] + near[None, :, None] + noise).reshape(-1, 2).astype(np.float32)
    given_ = vectors.copy()
    quantizer = identifiers.fit("residual_kmeans", vectors, levels=2, codes=4, seed=3)
    codes = identifiers.encode(quantizer, vectors)
    assert np.array_equal(vectors, given_), "what codes leave over is subtracted from a copy"
    assert codes.dtype == np.int32 and codes.shape == (160, 2)
    groups = {tuple(code) for code in codes.reshape(16, 10, 2)[:, 0]}
    assert len(groups) == 16 and all((group == group[0]).all() for group in codes.reshape(16, 10, 2))
    assert all(len(set(cluster[:, 0])) == 1 for cluster in codes.reshape(4, 40, 2))

    np.testing.assert_allclose(identifiers.decode(quantizer, codes), vectors, atol=1)
    with pytest.raises(ValueError, match=r"expected \[n, 2\]"):
        identifiers.encode(quantizer, np.zeros((1, 3), np.float32))


def test_wide_vectors_lose_no_more_than_plain_kmeans_leaves():
    """As many clusters as codes in 200 dimensions: each has its code; and of clusters of clusters two levels leave what faiss alone leaves, to a hundredth."""
    import faiss

    rng = np.random.default_rng(1)
    centres = rng.normal(size=(16, 200))
    apart = (np.repeat(centres, 30, axis=0) + rng.normal(0, 0.1, (480, 200))).astype(np.float32)
    codes = identifiers.encode(identifiers.fit("residual_kmeans", apart, levels=1, codes=16, seed=0), apart).reshape(16, 30)
    assert (codes == codes[:, :1]).all() and len(set(codes[:, 0])) == 16

    nested = (np.repeat(centres, 200, axis=0) + np.repeat(rng.normal(0, 0.5, (160, 200)), 20, axis=0) + rng.normal(0, 0.3, (3200, 200))).astype(np.float32)
    quantizer = identifiers.fit("residual_kmeans", nested, levels=2, codes=16, seed=0)
    ours, plain = nested - identifiers.decode(quantizer, identifiers.encode(quantizer, nested)), nested
    for level in range(2):
        clustering = faiss.Kmeans(200, 16, seed=level, niter=25)
        clustering.train(plain)
        plain = plain - clustering.centroids[clustering.index.search(plain, 1)[1][:, 0]]
    assert (ours**2).sum() <= 1.01 * (plain**2).sum()


def test_a_quantizer_does_not_depend_on_the_threads(monkeypatch):
    vectors = np.random.default_rng(2).normal(size=(6000, 96)).astype(np.float32)
    fitted = [identifiers.fit("residual_kmeans", vectors, levels=2, codes=64, seed=0)]
    monkeypatch.setattr(identifiers, "WORTH_THREADS", 0)
    for threads in (2, 3):
        with threadpool_limits(threads, "openmp"):
            fitted.append(identifiers.fit("residual_kmeans", vectors, levels=2, codes=64, seed=0))
    for other in fitted[1:]:
        assert all(map(np.array_equal, fitted[0].codebooks, other.codebooks))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 30), st.sampled_from([np.float32, np.float64]))
def test_the_nearest_is_what_double_precision_says_and_of_equals_the_first(seed, rows, codes, kind):
    """Where centroids repeat, or vectors lie between two, single precision cannot tell. Of whole numbers, whose sums double precision has exactly."""
    rng = np.random.default_rng(seed)
    book = rng.integers(-4000, 4000, size=(codes, 96)).astype(np.float32)
    book[rng.integers(0, codes)] = book[0]
    vectors = (book[rng.integers(0, codes, rows)] + book[rng.integers(0, codes, rows)]).astype(kind) / 2
    wide = book.astype(np.float64)
    expected = np.argmax(vectors.astype(np.float64) @ wide.T - (wide**2).sum(1) / 2, axis=1)
    assert identifiers.nearest(vectors, book).tolist() == expected.tolist()


def test_numbered_counts_in_order_over_any_partitions(spark):
    keys = [f"{n:05d}" for n in range(3000)]
    shuffled = keys[:]
    random.Random(1).shuffle(shuffled)
    frame = spark.createDataFrame([(key,) for key in shuffled], "item_id STRING").repartition(7)
    found = {r.item_id: r.number for r in numbered(frame, "item_id", start=5).collect()}
    assert found == {key: 5 + n for n, key in enumerate(keys)}
    assert numbered(frame.limit(0), "item_id", start=5).count() == 0


def collected(frame):
    return {r.item_id: tuple(r.codes) for r in frame.collect()}


def viewed(frame):
    return {(r.item_id, r.view): tuple(r.codes) for r in frame.collect()}


def test_atomic_is_append_only_however_items_come_and_go(spark):
    randomly = random.Random(4)
    catalogues = [sorted(randomly.sample(range(60), randomly.randint(5, 40))) for _ in range(4)] + [[]]
    before, known = None, {}
    for catalogue in catalogues:
        items = [(f"i{n:02d}",) for n in catalogue]
        randomly.shuffle(items)
        named = collected(job.atomic(spark.createDataFrame(items, "item_id STRING"), before))
        new = sorted(item for (item,) in items if item not in known)
        assert named == known | {item: (len(known) + n,) for n, item in enumerate(new)}
        known, before = named, spark.createDataFrame(list(named.items()), NAMED).repartition(3)
    assert sorted(code for (code,) in known.values()) == list(range(len(known)))


def test_semantic_last_codes_are_the_next_free_ones(spark):
    coded = spark.createDataFrame([("b", "search", [1, 2]), ("a", "search", [1, 2]), ("c", "search", [1, 3]), ("a", "recommend", [1, 2])], CODED)
    first = {("a", "search"): (1, 2, 0), ("b", "search"): (1, 2, 1), ("c", "search"): (1, 3, 0), ("a", "recommend"): (1, 2, 0)}
    assert viewed(job.semantic(coded, None)) == first
    # "a" left long ago and its name stays taken; "A" sorts before everything and moves nothing.
    later = spark.createDataFrame([(item, "search", levels) for item, levels in (("d", [1, 2]), ("A", [1, 2]), ("e", [7, 7]))], CODED)
    before = spark.createDataFrame([(*key, codes) for key, codes in first.items()], "item_id STRING, view STRING, codes ARRAY<INT>")
    assert viewed(job.semantic(later, before)) == first | {("A", "search"): (1, 2, 2), ("d", "search"): (1, 2, 3), ("e", "search"): (7, 7, 0)}


def embedded(spark, config, day, numbers, encoder="tfidf-1"):
    """Vectors of items: text by number mod 5 (so that many collide), behaviour for the first 40 only."""
    rows = []
    for n in numbers:
        text, behaviour = np.eye(5)[n % 5], np.eye(3)[n % 3] if n < 40 else np.zeros(3)
        rows += [(f"i{n:03d}", "text", text.tolist(), encoder, day), (f"i{n:03d}", "behaviour", behaviour.tolist(), "als-3", day)]
    append(spark, config, ITEM_EMBEDDINGS, spark.createDataFrame(rows, schema(ITEM_EMBEDDINGS)), "test")


def of_day(spark, config, day, scheme):
    rows = read(spark, config, ITEM_IDENTIFIERS, at=day).where(f"scheme = '{scheme}'").collect()
    return {r.item_id: tuple(r.codes) for r in rows}, {r.version for r in rows}


def chosen(config, **values):
    return config.model_copy(update={"identifiers": config.identifiers.model_copy(update=values)})


@pytest.mark.fault("R40")
def test_nights_keep_names_under_both_schemes(spark, config):
    semantic = chosen(config, scheme="semantic", levels=2, codes=8)
    days = [DAY + timedelta(days=n) for n in range(2)]
    embedded(spark, config, days[0], range(0, 50))
    embedded(spark, config, days[1], range(10, 60))
    for scheme, setting in (("atomic", config), ("semantic", semantic)):
        outcome = [job.run(setting, day, "first") for day in days]
        (first, version), (second, same) = (of_day(spark, config, day, scheme) for day in days)
        assert version == same == {outcome[0]["version"]} and len(first) == 50 and len(second) == 60
        assert first.items() <= second.items() and len(set(second.values())) == 60  # i000 to i009 left, and keep their names
        assert job.run(setting, days[1], "again")["written"] == {"item_identifiers": 0}

    named, _ = of_day(spark, config, days[1], "semantic")
    level = {item: codes[:-1] for item, codes in named.items()}
    # Equal vectors, equal levels; of the new items text alone decides, and they fall to an item of the same text.
    assert level["i000"] == level["i015"] != level["i001"] and level["i050"] == level["i055"]
    assert level["i050"][0] in {level[f"i{n:03d}"][0] for n in range(0, 50, 5)}
    checks = {r.check: r.value for r in read(spark, config, CHECKS, at=days[1]).where("step = 'assign_identifiers'").collect()}
    sizes = [list(level.values()).count(value) for value in set(level.values())]
    assert checks["largest_collision"] == max(sizes) and checks["one_item_per_identifier"] == 0
    assert checks["share_colliding_before_last_code"] == pytest.approx(sum(size for size in sizes if size > 1) / 60)
    share = np.unique([codes[0] for codes in level.values()], return_counts=True)[1] / 60
    assert checks["level_1_perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert checks["level_1_share_of_codes_used"] == pytest.approx(len(share) / 8)

    retrained = chosen(semantic, scheme="semantic", retrain=True)
    job.run(retrained, days[1], "retrained")
    anew, newer = of_day(spark, config, days[1], "semantic")
    assert newer != version and len(anew) == len(set(anew.values())) == 50
    assert job.run(retrained, days[1], "retrained again")["written"] == {"item_identifiers": 0}


def test_a_name_per_task_is_kept_from_night_to_night(spark, config):
    setting = chosen(config, scheme="semantic", construction="prefix_share", levels=2, codes=4)
    days = [DAY + timedelta(days=n) for n in range(2)]
    embedded(spark, config, days[0], range(0, 50))
    embedded(spark, config, days[1], range(10, 60))
    named = []
    for day in days:
        job.run(setting, day, "test")
        rows = read(spark, config, ITEM_IDENTIFIERS, at=day).collect()
        named.append({view: {r.item_id: tuple(r.codes) for r in rows if r.view == view} for view in ("recommend", "search")})
        assert len(rows) == sum(map(len, named[-1].values())) and all(len(set(codes.values())) == len(codes) for codes in named[-1].values())
    (search, recommend), (later, _) = ([held["search"], held["recommend"]] for held in named)
    assert search.items() <= later.items() and len(later) == 60
    assert all(search[item][0] == recommend[item][0] for item in search) and any(search[item][:2] != recommend[item][:2] for item in search)
    checks = {r.check: r.value for r in read(spark, config, CHECKS, at=days[0]).where("step = 'assign_identifiers'").collect()}
    groups = [list(level) for level in (codes[:2] for codes in search.values())]
    assert checks["search.largest_collision"] == max(groups.count(group) for group in groups) and "recommend.level_2_perplexity" in checks


def test_dual_names_are_unique_without_a_code_more_and_kept(spark, config):
    setting = chosen(config, scheme="semantic", construction="dual", quantizer="rq_vae", levels=3, shared_levels=1, codes=4, epochs=20)
    days = [DAY + timedelta(days=n) for n in range(2)]
    embedded(spark, config, days[0], range(0, 50))
    embedded(spark, config, days[1], range(10, 60))
    named = []
    for day in days:
        job.run(setting, day, "first")
        rows = read(spark, config, ITEM_IDENTIFIERS, at=day).where("scheme = 'semantic'").collect()
        named.append({(r.item_id, r.view): tuple(r.codes) for r in rows})
        for view in ("recommend", "search"):
            of_view = [codes for (_, v), codes in named[-1].items() if v == view]
            assert len(of_view) == len(set(of_view)) == 50 + 10 * len(named) - 10 and {len(codes) for codes in of_view} == {3}
    assert named[0].items() <= named[1].items()
    assert all(named[1][item, "recommend"][:1] == named[1][item, "search"][:1] for item, _ in named[1])
    assert job.run(setting, days[1], "again")["written"] == {"item_identifiers": 0}
    checks = {r.check: r.value for r in read(spark, config, CHECKS, at=days[0]).where("step = 'assign_identifiers'").collect()}
    # 50 items, 5 texts: items of one text have one code, and the repair, which goes by distances, cannot part what lies at one place.
    assert 1 > checks["search.collisions_before_repair"] == checks["search.collisions_after_repair"] > 0.5 and checks["one_item_per_identifier"] == 0


def test_a_token_per_task_under_the_atomic_scheme(spark, config):
    items = spark.createDataFrame([("b", "text"), ("a", "text"), ("a", "behaviour")], "item_id STRING, view STRING")
    named, version, _ = job.assign(spark, chosen(config, construction="separate"), DAY, items)
    assert viewed(named) == {(item, view): (n,) for n, item in enumerate("ab") for view in ("recommend", "search")} and version == "atomic"


def test_a_view_that_was_not_made_is_missed(spark, config):
    embedded(spark, config, DAY, range(10))
    with pytest.raises(MissingInput, match=r"no view 'multi_task'.*run embed_items"):
        job.run(chosen(config, scheme="semantic", construction="multi_task"), DAY, "test")


def test_a_changed_or_lost_quantizer_is_refused(spark, config):
    semantic = chosen(config, scheme="semantic", levels=1, codes=4)
    embedded(spark, config, DAY, range(20))
    version = job.run(semantic, DAY, "first")["version"]
    with pytest.raises(BadArgument, match=r"codes = 4, found 8.*identifiers\.retrain"):
        job.run(chosen(semantic, codes=8), DAY, "other codes")
    embedded(spark, config, DAY + timedelta(days=1), range(20), encoder="tfidf-2")
    with pytest.raises(BadArgument, match=r"text_encoder = tfidf-1, found tfidf-2"):
        job.run(semantic, DAY + timedelta(days=1), "other encoder")
    artifact_folder(config, "quantizers", version).rename(artifact_folder(config, "quantizers", "gone"))
    with pytest.raises(MissingInput, match=version):
        job.run(semantic, DAY, "lost")
    with pytest.raises(BadArgument, match=r"lake\.files"):
        artifact_folder(config.model_copy(update={"lake": config.lake.model_copy(update={"root": "s3://bucket"})}), "quantizers", version)


@pytest.mark.fault("R40")
def test_a_name_given_twice_stops_the_night(spark, config, monkeypatch):
    embedded(spark, config, DAY, range(4))
    twice = spark.createDataFrame([("i000", [0]), ("i001", [0])], NAMED)
    monkeypatch.setattr(job, "atomic", lambda items, before: twice)  # as if two items had got one ordinal
    with pytest.raises(BadData, match="one_item_per_identifier: found 1"):
        job.run(config, DAY, "test")
    assert not exists(spark, config, ITEM_IDENTIFIERS)
