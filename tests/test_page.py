"""The report as a person sees it: a page of a real `report.run`, opened by a headless Chromium as on a phone and as on a desk."""

import json
from datetime import timedelta
from pathlib import Path

import browser
import pytest
from test_report import NASTY, NOW, D, add, fill

from jobs import report
from jobs.tables import EVENTS, ITEMS, METRICS, MODELS

pytestmark = pytest.mark.skipif(browser.installed() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
PHONE, DESK = 390, 1280

# Elements that show text of their own, with the contrast of the colour they compute to and of the first colour painted behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const painted = e => parse(getComputedStyle(e).backgroundColor);
  const behind = e => !e ? [255, 255, 255] : painted(e).length == 3 || painted(e)[3] > 0 ? painted(e) : behind(e.parentElement);
  const own = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  return [...document.body.querySelectorAll('*')].filter(e => own(e) && e.checkVisibility()).map(e => {
    const style = getComputedStyle(e), [a, b] = [light(parse(e instanceof SVGElement ? style.fill : style.color)), light(behind(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + ': ' + e.textContent.trim().slice(0, 40)];
  });
})()"""
UNNAMED = """[...document.querySelectorAll('img, svg, canvas, video')]
  .filter(e => !(e.getAttribute('alt') || e.getAttribute('aria-label') || '').trim()).length"""


def faults(tab: browser.Page, url: str, width: int) -> dict[str, list]:
    """What is wrong with the page at this width; every list is empty where nothing is."""
    tab.open(url, width)
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = tab.ask(CONTRASTS)
    assert len(texts) > 3
    inner, needed, unnamed = tab.ask("innerWidth"), tab.ask("document.documentElement.scrollWidth"), tab.ask(UNNAMED)
    requests = [sent["request"]["url"] for sent in tab.told("Network.requestWillBeSent")]
    console = [call["args"] for call in tab.told("Runtime.consoleAPICalled")] + tab.told("Runtime.exceptionThrown")
    return {
        "requested": [asked for asked in requests if asked != url],
        "console": console + [told["entry"]["text"] for told in tab.told("Log.entryAdded")],
        "scrolls sideways": [needed] if (needed, inner) != (width, width) else [],
        "pictures without a text": [unnamed] * bool(unnamed),
        "contrast below 4.5": [found for found in texts if found[0] < 4.5],
    }


def nights(spark, config) -> None:
    """Beside what `fill` holds, all that makes a page long: a month of nights, rivals, slices, long names, events of weeks, a changing catalogue."""
    fill(spark, config)
    days = [D - timedelta(days=ago) for ago in range(1, 30)]
    when = {day: NOW - timedelta(days=(D - day).days + 1) for day in days}
    long = "a_name_of_a_slice_that_does_not_end_where_a_phone_does"

    def metric(day, version, method, task, name, metric, value):
        return (day, version, method, task, name, metric, 10, value, value - 0.02, value + 0.02, 1234, "r")

    told = []
    for task in ("recommend", "search"):
        told += [metric(D, "m2", m, task, "all", what, v) for m, v in (("model", 0.25), ("itemknn", 0.26), ("als", 0.1)) for what in ("ndcg", "recall", "mrr")]
        told += [metric(D, "m2", m, task, "all", "ndcg_gain", v) for m, v in (("itemknn", -0.01), ("als", 0.15))]
        told += [metric(D, "m2", m, task, name, "ndcg", 0.2) for m in ("model", "als") for name in ("item:head", f"item:{long}")]
        told += [metric(day, "m0", m, task, "all", "ndcg", v + day.day / 500) for day in days for m, v in (("model", 0.2), ("itemknn", 0.21))]
    add(spark, config, METRICS, told)
    curve = json.dumps([{"epoch": n, "loss": 3.0 / n, "recommend_ndcg@10": 0.01 * n, "search_ndcg@10": 0.2, "seconds": 1.0} for n in range(1, 9)])
    add(spark, config, MODELS, [("m2", "bridge", "a", "h", "{}", "h", "{}", "0", None, curve, "passed", "r", NOW + timedelta(hours=1), D)])
    acts = [(day, n, "recommendation" if n % 2 else "search") for day in days for n in range(9)]
    rows = [(f"{day}-{n}", "u2", f"i{n % 3}", where, "click", None if n % 2 else "q", None, when[day], n, when[day], day) for day, n, where in acts]
    add(spark, config, EVENTS, rows)
    add(spark, config, ITEMS, [(f"i{n}", NASTY, "", [], True, day) for day in days for n in range(40 + day.day % 3)])


def test_a_phone_and_a_desk_show_the_page_whole(spark, config):
    nights(spark, config)
    url = Path(report.run(config, D, "r")["path"]).as_uri()
    with browser.page() as tab:
        for width in (PHONE, DESK):
            found = faults(tab, url, width)
            assert not any(found.values()), (width, found)
        drawn = tab.ask("[...document.querySelectorAll('svg')].map(e => [e.getAttribute('aria-label'), e.getBoundingClientRect().height])")
        heads = tab.ask("[...document.querySelectorAll('h2, h3')].map(e => e.innerText)")
    assert [label.split(":")[0].split(" by ")[0] for label, height in drawn if height > 50] == [
        "Gain of the model in NDCG@10, recommend",
        "Gain of the model in NDCG@10, search",
        "Validation NDCG@10",
        "NDCG@10 of the model",
        "NDCG@10 of the model",
        "Share of actions on the items that were the top tenth of the week before",
        "Items that came and that went since the day before, as a share of the catalogue",
    ]
    assert {"The last nights", "Drift", "Popularity", "Catalogue", "Slices", "Quarantine", "Examples of what is served"} <= set(heads)


def test_what_is_wrong_is_seen(tmp_path):
    """A page with every fault: so `faults` is not empty for want of looking."""
    bad = tmp_path / "bad.html"
    body = "<img src='https://elsewhere.example/pixel.png'><p style='color:#888'>grey</p><p style='color:#000'>black</p><div style='width:900px'>wide</div>"
    bad.write_text(f"<!doctype html><meta name=viewport content='width=device-width'><body>{body}<p>x</p><script>console.error('no'); nothing.there</script>")
    with browser.page() as tab:
        found = faults(tab, bad.as_uri(), PHONE)
    assert found["requested"] == ["https://elsewhere.example/pixel.png"] and found["pictures without a text"] == [1]
    assert len(found["console"]) >= 2 and found["scrolls sideways"] and [text for _, text in found["contrast below 4.5"]] == ["P: grey"]
