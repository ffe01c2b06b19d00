"""How the report looks: plain values in, one HTML text out.     Reads and writes nothing; knows no Spark and no path.

No request to anywhere: styles and drawings are inside. Whatever comes from data goes through `escape`. The charts' text is text (not
outlines), and each has a label that says the same in words.
"""

import io
import json
import re
from collections.abc import Iterable
from datetime import UTC, date
from html import escape
from typing import Any

import matplotlib
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure

K = 10  # depth of the figures shown
BEYOND = ("coverage", "novelty", "popularity")

INK, MODEL, RIVAL, BAD = "#1d2733", "#0b6bcb", "#7a8797", "#b3261e"
STYLE = """
:root { color-scheme: light } * { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 16px/1.45 system-ui, sans-serif; color: #1d2733; background: #fff }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 2px solid #dde3ea }
h3 { font-size: 1rem; margin: 1rem 0 .3rem }
p { margin: .3rem 0 } .quiet { color: #4a5665; font-size: .9rem } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid #dde3ea; vertical-align: top }
th:first-child, td:first-child { text-align: left } td small { display: block; color: #4a5665; white-space: nowrap }
tr.ours { background: #e8f2fc; font-weight: 600 }
.alert { border-left: 5px solid #b3261e; background: #fdecea; padding: .5rem .8rem; margin: .4rem 0; overflow-wrap: anywhere }
.warn { border-color: #8a5a00; background: #fff4dc } .fine { border-color: #1b6e3c; background: #e6f4ea }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem } .two > * { min-width: 0 }
.card { border: 1px solid #dde3ea; border-radius: .4rem; padding: .6rem .8rem; margin: .5rem 0 } ol { margin: .2rem 0; padding-left: 1.4rem }
svg { width: 100%; height: auto; max-width: 34rem } figure { margin: .5rem 0 }
"""


Quality = dict[tuple[str, str, str, str], Any]  # (task, method, slice, metric) → row of metrics at depth K


def whole(day: date, parts: Iterable[str]) -> str:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>tandem {day}</title><style>{STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>tandem, {day}</h1>\n{body}\n</body></html>\n'


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], ours: str | None = None) -> str:
    """Cells are text, or (text, small print); the row whose first cell is `ours` is marked."""

    def cell(value: Any) -> str:
        text, small = value if isinstance(value, tuple) else (value, "")
        return f"<td>{broken(str(text))}{f'<small>{escape(small)}</small>' if small else ''}</td>"

    lines = "".join(f"<tr{' class=ours' if row[0] == ours else ''}>{''.join(map(cell, row))}</tr>\n" for row in map(list, rows))
    return f'<div class="wide"><table><thead><tr>{"".join(f"<th>{escape(h)}</th>" for h in head)}</tr></thead><tbody>\n{lines}</tbody></table></div>'


def broken(name: str) -> str:
    """The name, escaped, with leave to break lines behind its underscores: a phone is narrow."""
    return escape(name).replace("_", "_<wbr>")


def number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def alerts(failed: list[Any], release: Any, day: date) -> str:
    lines = [
        f'<p class="alert{"" if a.severity == "fail" else " warn"}"><b>{"FAILED" if a.severity == "fail" else "Warning"}: '
        f"{escape(a.step)}, {broken(a.check)}</b> found {number(a.value)}, allowed {number(a.threshold)}</p>"
        for a in sorted(failed, key=lambda a: (a.severity != "fail", a.step, a.check))
    ]
    if release is not None and release.ds != day:
        lines.insert(0, f'<p class="alert"><b>Served is the release of {release.ds}</b>, not of this day.</p>')
    return "\n".join(lines) or '<p class="alert fine"><b>All checks passed.</b></p>'


def served(release: Any, model: Any) -> str:
    lines = []
    if release:
        counts = json.loads(release.counts).items()
        told = "; ".join(f"{name.replace('_', ' ')}: {c['rows']:,} rows for {c['requests']:,} requests" for name, c in counts)
        when = f"{release.released_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        lines.append(f"<p><b>{release.ds}</b> ({escape(release.status)} {when} by {escape(release.run_id)}), {escape(told)}.</p>")
        lines.append(f'<p class="quiet">Model {escape(release.model_version)}</p>')
    else:
        lines.append("<p>Nothing was released yet.</p>")
    if model and not (release and model.model_version == release.model_version):
        lines.append(f"<p>This day's own model, {escape(model.model_version)}, is <b>{escape(model.status)}</b>, and not the one that is served.</p>")
    return "<h2>Served</h2>" + "".join(lines)


def quality(figures: Quality) -> str:
    if not figures:
        return "<h2>Quality</h2><p>No figures: no model of this day was evaluated.</p>"
    parts = []
    for task in sorted({key[0] for key in figures}):
        methods = sorted({m for t, m, s, _ in figures if (t, s) == (task, "all")}, key=lambda m: -figures[task, m, "all", "ndcg"].value)
        head, beyond = ["", f"NDCG@{K}", "Recall", "MRR"], ["", "Coverage", "Novelty", "Popularity"]
        rows = [[m, *(quality_cell(figures.get((task, m, "all", metric)), metric == "ndcg") for metric in ("ndcg", "recall", "mrr"))] for m in methods]
        more = [[m, *(number(figures[task, m, "all", name].value, 2) if (task, m, "all", name) in figures else "–" for name in BEYOND)] for m in methods]
        n = figures[task, "model", "all", "ndcg"].n
        gains = {m: figures[task, m, "all", "ndcg_gain"] for m in methods if (task, m, "all", "ndcg_gain") in figures}
        tables = f"<div class=two><div>{table(head, rows, 'model')}</div><div>{gain_chart(task, gains)}{table(beyond, more, 'model')}</div></div>"
        parts.append(f'<h3>{escape(task)} <span class="quiet">{n:,} test requests</span></h3>{tables}')
    told = "Ranked against the whole catalogue, depth 10; small print: 95 % bootstrap interval. Coverage: share of the catalogue shown. "
    told += "Novelty in bits. Popularity: mean percentile of what is shown, 1 the most popular."
    return f'<h2>Quality against the baselines</h2><p class="quiet">{told}</p>{"".join(parts)}'


def quality_cell(row: Any, interval: bool) -> Any:
    """The figure; on demand with its interval in small print."""
    if row is None or row.ci_low is None or not interval:
        return number(row.value if row else None)
    return number(row.value), f"{row.ci_low:.3f}–{row.ci_high:.3f}"


def gain_chart(task: str, gains: dict[str, Any]) -> str:
    if not gains:
        return ""
    figure, axes = canvas(0.75 + 0.32 * len(gains))
    names = sorted(gains, key=lambda m: gains[m].value)
    for y, name in enumerate(names):
        g = gains[name]
        axes.barh(y, g.value, color=MODEL if g.value >= 0 else BAD, height=0.6)
        if g.ci_low is not None:
            axes.plot([g.ci_low, g.ci_high], [y, y], color=INK, linewidth=1.5)
    axes.set_yticks(range(len(names)), [f"over {name}" for name in names])
    axes.axvline(0, color=INK, linewidth=1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"gain in NDCG@{K}, with 95 % interval")
    told = "; ".join(f"over {m} {gains[m].value:+.4f} ({number(gains[m].ci_low)} to {number(gains[m].ci_high)})" for m in reversed(names))
    return svg(figure, f"Gain of the model in NDCG@{K}, {task}: {told}")


def curve(points: list[dict[str, Any]]) -> str:
    names = [name for name in (points[-1] if points else {}) if name.endswith("ndcg@10")]
    if not names:
        return ""
    figure, axes = canvas(2.6)
    for name, color in zip(names, (MODEL, "#b25d00", RIVAL), strict=False):
        axes.plot([p["epoch"] for p in points], [p.get(name) for p in points], color=color, marker="o", markersize=3, label=name.replace("_ndcg@10", ""))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation NDCG@10")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    last = ", ".join(f"{name} {number(points[-1].get(name))}" for name in names)
    losses = f"{number(points[0].get('loss'), 2)} to {number(points[-1].get('loss'), 2)}"
    told = f'<p class="quiet">{len(points)} epochs, {points[-1].get("seconds") or 0:.0f} s; loss {losses}.</p>'
    return "<h2>Learning</h2>" + told + svg(figure, f"Validation NDCG@10 by epoch; at the end {last}")


def nights(rows: list[Any]) -> str:
    """Lines of NDCG over the last days: the models, and the best rival of the last of these days."""
    if len({row.ds for row in rows}) < 2:
        return ""
    parts = []
    for task in sorted({row.task for row in rows}):
        mine = [row for row in rows if row.task == task]
        rivals = [row for row in mine if row.method != "model"]
        last = max((row.ds for row in rivals), default=None)
        best = max((row for row in rivals if row.ds == last), key=lambda row: row.value, default=None)
        shown = {method: [(row.ds, row.value) for row in mine if row.method == method] for method in ("model", best.method if best else "")}
        told = "; ".join(f"{row.ds} {row.value:.4f}" for row in mine if row.method == "model")
        parts.append(f"<h3>{escape(task)}</h3>{by_day(shown, f'NDCG@{K}', f'NDCG@{K} of the model by night, {task}: {told}')}")
    return f"<h2>The last nights</h2><div class=two>{''.join(f'<div>{part}</div>' for part in parts)}</div>"


def drift(chosen: list[Any], there: list[Any]) -> str:
    """Lines over the last days: of what people chose, how much the week before knew (day, surface, kept); of the catalogue, how much was
    replaced (ds, available, new, gone)."""
    parts = []
    if len({row.day for row in chosen}) > 1:
        shown = {name: [(row.day, row.kept) for row in chosen if row.surface == name] for name in sorted({row.surface for row in chosen})}
        told = "; ".join(f"{name} {series[0][1]:.3f} on {series[0][0]}, {series[-1][1]:.3f} on {series[-1][0]}" for name, series in shown.items())
        what = "Share of actions on the items that were the top tenth of the week before"
        parts.append(f'<h3>Popularity</h3><p class="quiet">{what}.</p>{by_day(shown, "share of actions", f"{what}: {told}")}')
    if len(there) > 2:  # the first day came from nowhere: one change is no line
        shown = {name: [(row.ds, getattr(row, name)) for row in there if getattr(row, name) is not None] for name in ("new", "gone")}
        told = f"{there[0].available:,} items on {there[0].ds}, {there[-1].available:,} on {there[-1].ds}"
        what = "Items that came and that went since the day before, as a share of the catalogue"
        total = "; ".join(f"{name} at most {max(value for _, value in series):.3f}" for name, series in shown.items())
        parts.append(f'<h3>Catalogue</h3><p class="quiet">{what}; {told}.</p>{by_day(shown, "share of items", f"{what}: {total}; {told}")}')
    return f"<h2>Drift</h2><div class=two>{''.join(f'<div>{part}</div>' for part in parts)}</div>" if parts else ""


def by_day(shown: dict[str, list[tuple[date, float]]], unit: str, label: str) -> str:
    """Two named lines over days."""
    figure, axes = canvas(2.2)
    for (name, series), color, line in zip(shown.items(), (MODEL, RIVAL), ("-", "--"), strict=False):
        if series:
            axes.plot(*zip(*series, strict=True), color=color, linestyle=line, marker="o", markersize=3, label=name)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above the lines, whatever they do
    axes.xaxis.set_major_formatter(DateFormatter("%m-%d"))
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=7))
    return svg(figure, label)


def slices(figures: Quality) -> str:
    parts = []
    for task in sorted({key[0] for key in figures}):
        rows = []
        for name in sorted({s for t, _, s, _ in figures if t == task and s != "all"}):
            found = {m: figures[t, m, s, metric] for t, m, s, metric in figures if (t, s, metric) == (task, name, "ndcg")}
            best = max((m for m in found if m not in ("model", "served")), key=lambda m: found[m].value, default=None)
            if "model" in found:
                rows.append([name, f"{found['model'].n:,}", number(found["model"].value), (number(found[best].value), best) if best else "–"])
        if rows:
            parts.append(f"<div><h3>{escape(task)}</h3>{table(['slice', 'n', f'model NDCG@{K}', 'best baseline'], rows)}</div>")
    return f"<h2>Slices</h2><div class=two>{''.join(parts)}</div>" if parts else ""


def quarantine(rows: list[Any]) -> str:
    told = table(["source and reason", "rows"], [[f"{row.source}: {row.reason}", f"{row.rows:,}"] for row in rows]) if rows else "<p>No row was refused.</p>"
    return f"<h2>Quarantine</h2>{told}"


def examples(found: dict[str, list[dict[str, Any]]]) -> str:
    def ranked(answer: dict[str, Any]) -> str:
        label = "" if answer["source"] == "model" else f' <span class="quiet">({escape(answer["source"])})</span>'
        return f"{label}<ol>{''.join(f'<li>{escape(title)}</li>' for title in answer['items'])}</ol>"

    users, queries = [], []
    for user in found["users"]:
        did = " · ".join(map(escape, user["history"])) or "nothing lately"
        users.append(f'<div class="card"><p><b>user {escape(user["id"])}</b></p><p class="quiet">did last: {did}</p>{ranked(user)}</div>')
    for query in found["queries"]:
        queries.append(f'<div class="card"><p><b>“{escape(query["query"])}”</b></p>{ranked(query)}</div>')
    both = [f"<div><h3>{head}</h3>{''.join(cards)}</div>" for head, cards in (("Recommended", users), ("Found", queries)) if cards]
    return f'<h2>Examples of what is served</h2><div class="two">{"".join(both)}</div>'


def checks(rows: list[Any]) -> str:
    ordered = sorted(rows, key=lambda row: (row.step, row.check))
    cells = [[f"{row.step}: {row.check}", row.severity, number(row.value), number(row.threshold), "yes" if row.passed else "NO"] for row in ordered]
    return f"<h2>All checks</h2><details><summary>{len(rows)} checks</summary>{table(['check', 'severity', 'found', 'allowed', 'passed'], cells)}</details>"


def canvas(height: float) -> tuple[Figure, Any]:
    """A figure about as wide as a phone, so that its text is read there at its own size."""
    figure = Figure(figsize=(5, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes


def svg(figure: Figure, label: str) -> str:
    """The drawing as inline SVG with its label for those who do not see it; the same bytes for the same drawing."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.S)
    drawing = drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return f"<figure>{drawing}</figure>"
