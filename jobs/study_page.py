"""How a study looks: its points in, one HTML text out.     Reads and writes nothing; drawn as `jobs.page` draws."""

import math
from datetime import date
from typing import Any

from jobs.page import INK, MODEL, RIVAL, canvas, svg, table, whole

ASKED = {
    "h1": ("H1: does joint training correct an item's popularity?", "kl", "KL(p_rec || p_search), nats"),
    "h2": ("H2: does joint training place items better?", "redundancy", "pair redundancy"),
    "cap": ("How many search examples per item does recommendation need?", "added", "search examples, all items together"),
}
TOLD = {
    "h1": "Inputs carry no information: how often an item is the answer is all there is to learn. The gain that is left at the highest KL is what any "
    "further data brings; only what stands above it speaks for H1.",
    "h2": "Every item is as popular as any other. Redundancy: share of the pairs of items that co-occur for one user which are also answers to one query. "
    "Shuffled: the same logs with search speaking of other items, where nothing can be gained.",
    "cap": "At most so many search examples of each item are added to 2,000 recommendation examples; three items in four keep their topic.",
}
METHODS = ("joint", "single", "same_steps", "shuffled", "oracle", "count_single", "count_joint")


def study(subject: str, day: date, points: list[dict[str, Any]]) -> str:
    title, knob, axis = ASKED[subject]
    parts = [f"<h2>{title}</h2><p>{TOLD[subject]}</p>"]
    for side in dict.fromkeys(point["side"] for point in points):
        held = [point for point in points if point["side"] == side]
        parts.append(f"<h3>{side}, the data-poor task</h3>{chart(held, knob, axis, side, subject == 'h1')}{figures(held, knob, axis)}")
    seeds = points[0]["seeds"]
    parts.append(
        f'<p class="quiet">Expected R@30 over 500 inputs, exact; mean of {seeds} seed{"s" if seeds > 1 else ""}, 95 % interval by Student\'s t. '
        "Same steps: the single-task model trained for as many steps as the joint one. Count: the items that are most often the answer.</p>"
    )
    return whole(day, parts)


def chart(points: list[dict[str, Any]], knob: str, axis: str, side: str, floor: bool) -> str:
    figure, axes = canvas(2.8)
    x = [point[knob] for point in points]
    mean, low, high = ([100 * point["gain"][part] for point in points] for part in range(3))
    if not any(map(math.isnan, low)):
        axes.fill_between(x, low, high, color=MODEL, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=MODEL, marker="o", markersize=4, label="each at its best step")
    axes.plot(x, [100 * point["gain_same_steps"][0] for point in points], color=RIVAL, linestyle="--", marker="o", markersize=3, label="same steps")
    if floor:
        axes.axhline(mean[-1], color=INK, linewidth=1, linestyle=":", label="floor: gain at the highest KL")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel(axis)
    axes.set_ylabel("gain of joint training, %")
    axes.legend(frameon=False, fontsize=8)
    told = "; ".join(f"{point[knob]:.2f}: {m:+.0f} %" for point, m in zip(points, mean, strict=True))
    return svg(figure, f"Gain of joint training in R@30, {side}, by {axis}: {told}")


def figures(points: list[dict[str, Any]], knob: str, axis: str) -> str:
    shown = [name for name in METHODS if any(name in point["recall"] for point in points)]
    rows = []
    for point in points:
        mean, low, high = point["gain"]
        small = "" if math.isnan(low) else f"{100 * low:+.0f} to {100 * high:+.0f}"
        recalls = [f"{point['recall'][name]:.3f}" if name in point["recall"] else "–" for name in shown]
        rows.append([f"{point[knob]:,.2f}".removesuffix(".00"), (f"{100 * mean:+.0f} %", small), *recalls])
    return table([axis, "gain", *(name.replace("_", " ") for name in shown)], rows)
