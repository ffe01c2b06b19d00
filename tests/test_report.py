"""The page: whole, self-contained, escaped, and the same bytes for the same facts."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import page, report
from jobs.errors import MissingInput
from jobs.spark import path_of
from jobs.tables import CHECKS, EVENTS, ITEMS, METRICS, MODELS, QUARANTINE, RECOMMENDATIONS, RELEASES, SEARCH_RESULTS
from jobs.writes import create, schema

D = date(2026, 11, 19)
NOW = datetime(2026, 11, 20, 1, 2, tzinfo=UTC)
NEITHER = {"new": None, "gone": None}  # the first day of a catalogue
CHANGED = {"new": 0.1, "gone": 0.0}
NASTY = """<script>alert("x")</script>&'"""


class Seen(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    VOID = ("meta", "wbr", "img", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def figure(method, metric, value, name="all", task="recommend", day=D):
    return SimpleNamespace(task=task, method=method, slice=name, metric=metric, value=value, ci_low=value - 0.01, ci_high=value + 0.01, n=120, ds=day)


def quality():
    rows = [figure(m, metric, v) for m, v in (("model", 0.2), ("itemknn", 0.25), ("popularity", 0.1)) for metric in ("ndcg", "recall", "mrr")]
    rows += [figure("itemknn", "ndcg_gain", -0.05), figure("popularity", "ndcg_gain", 0.1)]
    rows += [figure("model", "ndcg", 0.3, NASTY), figure("itemknn", "ndcg", 0.4, NASTY)]
    return {(r.task, r.method, r.slice, r.metric): r for r in rows}


def every_part():
    release = SimpleNamespace(
        ds=D - timedelta(days=1),
        status="released",
        run_id=NASTY,
        model_version="m0",
        released_at=NOW,
        counts='{"recommendations": {"rows": 20, "requests": 2}}',
    )
    checks = [
        SimpleNamespace(step="ingest", check=NASTY, severity="fail", value=0.5, threshold=0.01, passed=False),
        SimpleNamespace(step="release", check="fallback_share", severity="info", value=0.5, threshold=None, passed=True),
    ]
    curve = [{"epoch": e, "loss": 3.0 / e, "recommend_ndcg@10": 0.1 * e, "search_ndcg@10": 0.2, "seconds": 1.0} for e in (1, 2)]
    found = {
        "users": [
            {"id": "abc", "history": [NASTY], "items": [NASTY, "two"], "source": "popular"},
            {"id": "d", "history": [], "items": ["i"], "source": "model"},
        ],
        "queries": [{"query": NASTY, "items": [NASTY], "source": "model"}],
    }
    return [
        page.alerts(checks[:1], release, D),
        page.served(release, SimpleNamespace(model_version=NASTY, status="failed")),
        page.quality(quality()),
        page.curve(curve),
        page.drift(
            [SimpleNamespace(day=D - timedelta(days=i), surface=s, kept=0.5) for s in ("recommendation", "search") for i in (1, 0)],
            [SimpleNamespace(ds=D - timedelta(days=i), available=9, **share) for i, share in ((2, NEITHER), (1, CHANGED), (0, CHANGED))],
        ),
        page.nights([figure(m, "ndcg", 0.2, day=D - timedelta(days=i)) for m in ("model", "itemknn") for i in range(3)]),
        page.slices(quality()),
        page.quarantine([SimpleNamespace(source="searches", reason=NASTY, rows=3)]),
        page.examples(found),
        page.checks(checks),
    ]


def test_the_page_is_self_contained_escaped_and_repeatable():
    text = page.whole(D, every_part())
    seen = Seen(text)
    assert "script" not in seen.tags and NASTY in seen.words
    assert not [a for a in seen.attributes if a[1] in ("src", "href", "xlink:href") and not a[2].startswith("#")]
    assert not re.search(r"url\((?!#)|@import", text)
    assert ("meta", "name", "viewport") in seen.attributes
    drawings = seen.tags.count("svg")
    assert drawings == 5  # gains, curve, drift of popularity and of the catalogue, nights
    labels = [value for tag, name, value in seen.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == drawings and all(label for label in labels)
    assert text == page.whole(D, every_part())
    assert len(text) < 300_000


def test_what_failed_stands_first_and_better_rivals_are_not_hidden():
    parts = every_part()
    words = "".join(Seen(page.whole(D, parts)).words)
    assert words.index("Served is the release of 2026-11-18") < words.index("FAILED: ingest") < words.index("Quality against")
    rows = re.findall(r"<tr[^>]*><td>(\w+)</td>", page.quality(quality()))
    assert rows == ["itemknn", "model", "popularity"] * 2  # best first, in both tables
    assert "over itemknn -0.0500" in parts[2]
    assert page.alerts([], None, D).count("All checks passed") == 1


def test_little_is_known():
    """A first night that failed early still has a page."""
    parts = [
        page.quality({}),
        page.curve([]),
        page.nights([]),
        page.drift([], []),
        page.slices({}),
        page.quarantine([]),
        page.examples({"users": [], "queries": []}),
    ]
    assert "No figures" in "".join(Seen(page.whole(D, parts)).words)


def fill(spark, config):
    def write(table, rows):
        add(spark, config, table, rows)

    write(ITEMS, [(f"i{i}", f"Title {i}", "", [], True, D) for i in range(3)] + [("bad", NASTY, "", [], True, D)])
    acts = [
        ("e1", "u1", "i1", "recommendation", "click", None, None, NOW - timedelta(days=2), 0, NOW, D),
        ("e2", "u1", "bad", "search", "click", "secret words", None, NOW - timedelta(days=1), 0, NOW, D),
    ]
    write(EVENTS, acts)
    write(RECOMMENDATIONS, [(D, "u1", rank, item, -1.0 * rank, "model", "m1", "r", NOW) for rank, item in ((1, "i2"), (2, "bad"))])
    write(SEARCH_RESULTS, [(D, "red shoe", None, 1, "i0", -1.0, "model", "m1", "r", NOW), (D, "mine", "u1", 1, "i0", -1.0, "model", "m1", "r", NOW)])
    versions = json.dumps({"recommendations": 1, "search_results": 1})
    counts = json.dumps({"recommendations": {"rows": 2, "requests": 1}, "search_results": {"rows": 2, "requests": 2}})
    write(RELEASES, [(D, "r", "m1", "released", versions, "{}", counts, "h", "0", NOW)])
    curve = json.dumps([{"epoch": 1, "loss": 2.0, "recommend_ndcg@10": 0.1, "seconds": 3.0}])
    write(MODELS, [("m1", "bridge", "a", "h", "{}", "h", "{}", "0", None, curve, "passed", "r", NOW, D)])
    write(METRICS, [(D, "m1", "model", "recommend", "all", m, 10, 0.25, 0.2, 0.3, 50, "r") for m in ("ndcg", "recall", "mrr")])
    write(QUARANTINE, [(D, "searches", "duplicate", "{}", "h", "r")] * 3)
    write(CHECKS, [(D, "ingest", "share", "warn", 0.02, 0.01, False, "r"), (D, "release", "x", "info", 1.0, None, True, "r")])


def add(spark, config, table, rows):
    create(spark, config, table)
    spark.createDataFrame(rows, schema(table)).coalesce(1).write.format("delta").mode("append").save(path_of(config, table))


def test_run_writes_what_the_lake_holds(spark, config):
    with pytest.raises(MissingInput, match="nothing to report of 2026-11-19"):
        report.run(config, D, "r")
    fill(spark, config)
    done = report.run(config, D, "r")
    assert done == {"path": f"{config.lake.root}/reports/2026-11-19.html", "alerts": 1}
    text = Path(done["path"]).read_text(encoding="utf-8")
    words = " ".join(Seen(text).words)
    for told in (
        "Warning: ingest, share",
        "2 rows for 1 requests",
        "0.2500",
        "0.200–0.300",
        "searches: duplicate",
        "Title 2",
        "Title 1",
        "“red shoe”",
        NASTY,
    ):
        assert told in words, told
    assert "u1" not in text and "secret words" not in text and "mine" not in words  # hashed; never a user's own words
    assert Path(config.lake.root, "reports", "latest.html").read_text(encoding="utf-8") == text
    assert sorted(path.name for path in Path(config.lake.root, "reports").iterdir()) == ["2026-11-19.html", "latest.html"]
    report.put(spark, f"file://{config.lake.root}/elsewhere/page.html", text)
    assert Path(config.lake.root, "elsewhere", "page.html").read_text(encoding="utf-8") == text
