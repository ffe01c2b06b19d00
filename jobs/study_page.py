"""How a study looks: its points in, one HTML text out.     Reads and writes nothing; drawn as `jobs.page` draws."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from statistics import mean
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
    "Shuffled: the same logs with search speaking of other items, where nothing can be gained. A model of few searches is stopped by its loss before its "
    "recall is highest: there the gain over the same steps is the fairer one.",
    "cap": "At most so many search examples of each item are added to 2,000 recommendation examples; three items in four keep their topic.",
}
REMOVED = (
    "Popularity removed: the training answers of each task are drawn anew so that each item that is an answer is one equally often. Popularity being all "
    "there is, recall has to fall to chance: thirty items at random out of those that are an answer at all, among which the popular ones are more often."
)
PURITY = (
    "Output rows (the output matrix, not the input one): share of an item's 19 nearest rows, by cosine, that share its taste (what co-occurs) or its topic "
    "(what queries mean); chance is 0.019. Taste can be learnt from recommendation, topic from search alone; at redundancy 1 they are one."
)
NARROWEST = 0.2  # of the highest value: what an axis of the trade-off shows at least
METHODS = ("joint", "single", "same_steps", "shuffled", "oracle", "count_single", "count_joint")
# name of a figure → in words, colour, line
WITHOUT = {
    "joint": ("joint", MODEL, "-"),
    "single": ("single", RIVAL, "-"),
    "removed_joint": ("joint, removed", MODEL, "--"),
    "removed_single": ("single, removed", RIVAL, "--"),
    "removed_chance": ("chance, removed", INK, ":"),
}
PROBES = {
    "taste.joint": ("by taste, joint", MODEL, "-"),
    "taste.single": ("by taste, single", RIVAL, "-"),
    "topic.joint": ("by topic, joint", MODEL, "--"),
    "topic.single": ("by topic, single", RIVAL, "--"),
}

Interval = tuple[float, float, float]


def study(subject: str, day: date, points: list[dict[str, Any]]) -> str:
    title, knob, axis = ASKED[subject]
    parts = [f"<h2>{title}</h2><p>{TOLD[subject]}</p>"]
    for side in dict.fromkeys(point["side"] for point in points):
        held = [point for point in points if point["side"] == side]
        parts.append(f"<h3>{side}, the data-poor task</h3>{gains(held, knob, axis, subject == 'h1')}{figures(held, knob, axis, subject == 'h1')}")
        parts += [
            f"<p>{told}</p>{means(held, part, names, label, knob, axis)}"
            for part, names, label, told in (("recall", WITHOUT, "expected R@30", REMOVED), ("purity", PROBES, "purity of output rows", PURITY))
            if all(set(names) <= set(point[part]) for point in held)
        ]
    seeds = points[0]["seeds"]
    parts.append(
        f'<p class="quiet">Expected R@30 over 500 inputs, exact; mean of {seeds} seed{"s" if seeds > 1 else ""}, 95 % interval by Student\'s t. '
        "Same steps: the single-task model trained for as many steps as the joint one. Count: the items that are most often the answer.</p>"
    )
    return whole(day, parts)


def gains(points: list[dict[str, Any]], knob: str, axis: str, floor: bool) -> str:
    """The gain over the knob with its band; where there is a floor, it, and what stands above it."""
    figure, axes = canvas(2.8)
    x = [point[knob] for point in points]
    band(axes, x, [point["gain"] for point in points], MODEL, "each at its best step")
    band(axes, x, [point["gain_same_steps"] for point in points], RIVAL, "same steps")
    if floor:
        axes.axhline(100 * points[-1]["gain"][0], color=RIVAL, linewidth=1, linestyle=":", label="floor: gain at the highest KL")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel(axis)
    axes.set_ylabel("gain of joint training, %")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)  # inside, it hides a line sooner or later
    drawn = svg(figure, f"Gain of joint training in R@30, {points[0]['side']}, by {axis}: {words(x, [point['gain'] for point in points])}")
    if not floor:
        return drawn
    figure, axes = canvas(2.2)
    above = [point["above_floor"] for point in points]
    band(axes, x, above, MODEL, "gain less the same seed's floor")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel(axis)
    axes.set_ylabel("above the floor, points")
    return drawn + svg(figure, f"Gain above the gain at the highest KL, {points[0]['side']}, by {axis}: {words(x, above)}")


def band(axes: Any, x: list[float], intervals: Sequence[Interval], color: str, label: str) -> None:
    """A line of means in percent, its 95 % interval shaded where more than one seed tells it."""
    mean, low, high = ([100 * each[part] for each in intervals] for part in range(3))
    if not any(map(math.isnan, low)):
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=color, marker="o", markersize=4, label=label)


def words(x: list[float], intervals: Sequence[Interval]) -> str:
    return "; ".join(f"{at:,.2f}: {100 * each[0]:+.0f} %" for at, each in zip(x, intervals, strict=True))


def means(points: list[dict[str, Any]], part: str, names: dict[str, tuple[str, str, str]], label: str, knob: str, axis: str) -> str:
    """Lines of means over the knob, and the same as a table."""
    figure, axes = canvas(2.8)
    for name, (told, color, line) in names.items():
        axes.plot([p[knob] for p in points], [p[part][name] for p in points], color=color, linestyle=line, marker="o", markersize=3, label=told)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)  # inside, it hides a line sooner or later
    ends = "; ".join(f"{told} {points[0][part][name]:.3f} to {points[-1][part][name]:.3f}" for name, (told, *_) in names.items())
    rows = [[at(point[knob]), *(f"{point[part][name]:.3f}" for name in names)] for point in points]
    return svg(figure, f"{label}, {points[0]['side']}, by {axis}: {ends}") + table([axis, *(told for told, *_ in names.values())], rows)


def figures(points: list[dict[str, Any]], knob: str, axis: str, floor: bool) -> str:
    shown = [name for name in METHODS if any(name in point["recall"] for point in points)]
    rows = []
    for point in points:
        over = [percent(point["gain"]), percent(point["gain_same_steps"]), *([percent(point["above_floor"])] if floor else [])]
        recalls = [f"{point['recall'][name]:.3f}" if name in point["recall"] else "–" for name in shown]
        rows.append([at(point[knob]), *over, *recalls])
    return table([axis, "gain", "over the same steps", *(["above the floor"] if floor else []), *(name.replace("_", " ") for name in shown)], rows)


def percent(interval: Interval) -> tuple[str, str]:
    """The mean, and in small print its interval where it is known."""
    mean, low, high = interval
    return f"{100 * mean:+.0f} %", "" if math.isnan(low) else f"{100 * low:+.0f} to {100 * high:+.0f}"


def at(knob: float) -> str:
    return f"{knob:,.2f}".removesuffix(".00")


LOGS = {
    "kl": "KL(recommendation || search) of the items' popularity, nats",
    "kl_shared": "the same over the items that stand in both logs",
    "search_items_in_recommend": "share of searched items that recommendation knows",
    "recommend_items_in_search": "share of recommended items that search knows",
    "redundancy": "pair redundancy: items used together that also answer one query",
}


def joint(day: date, points: dict[tuple[str, str, str], Interval], per_seed: list[dict[tuple, tuple]], logs: dict[str, float], advice: str) -> str:
    """points: (task, slice, method) → gain of the joint model over the method, a share. per_seed: `evaluate.Figures`, one per seed."""
    parts = [f"<h2>Should search and recommendation share a model here?</h2><p><strong>{escape(advice)}</strong></p>"]
    parts.append(table(["the two logs", ""], [[told, f"{logs[name]:.3f}"] for name, told in LOGS.items() if name in logs]))
    for task in ("recommend", "search"):
        methods = sorted({method for of, _, method in points if of == task})
        reached = {name: [figures[task, "all", name, "ndcg", 10][0] for figures in per_seed] for name in ("model", *methods)}
        recall = {name: [figures[task, "all", name, "recall", 30][0] for figures in per_seed] for name in ("model", *methods)}
        rows = [[named(name), f"{mean(reached[name]):.4f}", f"{mean(recall[name]):.4f}"] for name in ("model", *methods)]
        parts.append(f"<h3>{task}</h3>" + table(["model", "NDCG@10", "Recall@30"], rows))
        slices = sorted({name for of, name, _ in points if of == task}, key=lambda name: (name != "all", name))
        sizes = {name: per_seed[0][task, name, "model", "ndcg", 10][3] for name in slices}
        rows = [[name, f"{sizes[name]:,}", *(percent(points[task, name, m]) if (task, name, m) in points else "–" for m in methods)] for name in slices]
        parts.append(table(["slice", "test requests", *(f"over {named(m)}" for m in methods)], rows))
    parts.append(
        f'<p class="quiet">Gain in NDCG@10 as a share, whole catalogue; mean of {len(per_seed)} seed(s), 95 % interval by Student\'s t over seeds. '
        "Same epochs: the task alone, as many epochs as the joint model. Same steps: as many steps. Head is the top 1 % of items by the task's training "
        "targets, torso the next 19 %. Other log: whether the item's share of the other task's training targets is at least twice, or at most half, its "
        "share here. Pairs: whether the items used together with it answer queries in common more often than the log's mean.</p>"
    )
    return whole(day, parts)


def named(method: str) -> str:
    return "joint" if method == "model" else method.partition("_")[2].replace("_", " ")


def parts(
    day: date,
    recipe: str,
    reached: dict[tuple[str, str], Interval],
    gains: dict[tuple[str, str], Interval],
    seeds: int,
    stated: tuple[int, int],
    own: Mapping[str, Mapping[str, Any]],
) -> str:
    """reached: (task, variant) → NDCG@10. gains: (task, variant) → gain of the whole model, a share. stated: signs as the paper has them, of how many.
    own: variant → settings of train that it has to itself."""
    tasks, names = ("recommend", "search"), list(dict.fromkeys(name for _, name in reached))
    claims = {
        "gensar": "the whole model above the one without the part, above either identifier alone, and above each task alone",
        "gensr": "the whole model above the one without the part, above one prompt for both tasks and a twin with two heads, and above each task alone",
    }
    made = [f"<h2>What does each part of {recipe} bring here?</h2>"]
    if stated[1]:
        made.append(f"<p><strong>{stated[0]} of {stated[1]} signs are as the paper states them</strong>: {claims[recipe]}.</p>")
    made.append(trade_off(reached))
    rows = []
    for name in sorted(names, key=lambda name: name != "model"):
        held = [f"{reached[task, name][0]:.4f}" if (task, name) in reached else "–" for task in tasks]
        rows.append([whole_or(name), *held, *(percent(gains[task, name]) if (task, name) in gains else "–" for task in tasks)])
    made.append(table(["variant", "recommend NDCG@10", "search NDCG@10", "whole over it, recommend", "whole over it, search"], rows))
    to_itself = [
        f"{whole_or(name)} with {', '.join(f'{key} = {value}' for key, value in held.items())}" for name, held in own.items() if name in names and held
    ]
    trained = f", {escape('; '.join(to_itself))}" if to_itself else ""
    made.append(
        f"<p class=\"quiet\">Whole catalogue, the day's test examples; mean of {seeds} seed(s), 95 % interval of the gain by Student's t over seeds. "
        f"Every variant was trained with the same settings but for its part{trained}.</p>"
    )
    return whole(day, made)


def trade_off(reached: dict[tuple[str, str], Interval]) -> str:
    """Both tasks' NDCG@10 of each model that serves both; dashed, what a model for one task alone reaches."""
    figure, axes = canvas(3.4)
    both = {name: (reached["recommend", name][0], at[0]) for (task, name), at in reached.items() if task == "search" and ("recommend", name) in reached}
    for name, (x, y) in both.items():
        color = MODEL if name == "model" else RIVAL
        axes.plot([x], [y], color=color, marker="o", markersize=7 if name == "model" else 4)
        axes.annotate(whole_or(name), (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7, color=color)
    for task, draw in (("recommend", axes.axvline), ("search", axes.axhline)):
        if (task, f"{task}_alone") in reached:
            draw(reached[task, f"{task}_alone"][0], color=INK, linewidth=1, linestyle="--")
    for (low, high), bound in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        lacking = max(0.0, NARROWEST * high - (high - low)) / 2  # else a difference of a millionth would fill the drawing
        bound(low - lacking, high + lacking)
    axes.locator_params(axis="x", nbins=6)  # four decimals are wide
    axes.set_xlabel("recommend, NDCG@10")
    axes.set_ylabel("search, NDCG@10")
    told = "; ".join(f"{whole_or(name)} {x:.3f}, {y:.3f}" for name, (x, y) in both.items())
    return svg(figure, f"Recommendation against search, NDCG@10: {told}; dashed: each task alone")


def whole_or(name: str) -> str:
    return "whole" if name == "model" else name.replace("_", " ")


CURVES = {"gensr": ("gensr: a prompt per task", MODEL, "-"), "one_prompt": ("one prompt", RIVAL, "--"), "twin": ("one prompt, two heads", INK, ":")}


def information(day: date, found: dict[str, dict[str, Interval]], verdict: str, seeds: int) -> str:
    """found: arm → figure (`bound.TASK`, `critic.TASK`, `lost.TASK`, `cosine_all`, and NAME@STEP of the curves) → mean and interval."""
    made = [f"<h2>Do task prompts tell more than task heads?</h2><p><strong>{escape(verdict)}</strong></p>"]
    rows = []
    for arm, (name, _, _) in CURVES.items():
        nats = [spread(found[arm][f"{kind}.{task}"]) for task in ("recommend", "search") for kind in ("bound", "critic")]
        rows.append([name, *nats, *(spread(found[arm][f"cosine_{part}"]) for part in ("first", "all"))])
    known = [f"{found['gensr'][f'information.{task}'][0]:.3f}" for task in ("recommend", "search")]
    rows.append(["what the world tells", known[0], "–", known[1], "–", "–", "–"])
    heads = [f"{task}, {kind}" for task in ("recommend", "search") for kind in ("bound", "critic")]
    made.append(table(["nats of information on the answer", *heads, "gradients' cosine, first attention", "all blocks"], rows))
    for figure, axis in (
        ("valid_recommend", "recommend: loss, nats"),
        ("valid_search", "search: loss, nats"),
        ("cosine_all", "gradients' cosine"),
    ):
        made.append(along(found, figure, axis))
    made.append("<h2>What does each part tell?</h2>")
    heads = [f"{task}, {told}" for task in ("recommend", "search") for told in ("bound", "less than gensr")]
    rows = []
    for arm in (arm for arm in found if arm != "gensr"):
        named = [f"{kind}.{task}" for task in ("recommend", "search") for kind in ("bound", "lost")]
        nats = [spread(found[arm][name]) if name in found[arm] else "–" for name in named]
        rows.append([arm.replace("_", " "), *nats])
    made.append(table(["nats of information on the answer", *heads], rows))
    made.append(
        f'<p class="quiet">Held-out requests, one right candidate and four wrong ones; mean of {seeds} seed(s), 95 % interval by Student\'s t over seeds. '
        "Bound: Barber and Agakov, the labels' entropy less the cross-entropy. Critic: Donsker and Varadhan on the model's states, another lower bound. "
        "Less than gensr: gensr's bound less this one's, by seed. "
        "Cosine: of the two tasks' gradients in the encoder, the mean along training.</p>"
    )
    return whole(day, made)


def spread(value: Interval) -> tuple[str, str]:
    mean, low, high = value
    return f"{mean:.3f}", "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def along(found: dict[str, dict[str, Interval]], figure: str, axis: str) -> str:
    """A figure along training, a line and its band per arm."""
    drawing, axes = canvas(2.4)
    ends = []
    for arm, (name, color, line) in CURVES.items():
        steps = sorted(int(key.partition("@")[2]) for key in found[arm] if key.startswith(f"{figure}@"))
        values = [found[arm][f"{figure}@{step}"] for step in steps]
        if not any(math.isnan(low) for _, low, _ in values):
            axes.fill_between(steps, [low for _, low, _ in values], [high for *_, high in values], color=color, alpha=0.12, linewidth=0)
        axes.plot(steps, [mean for mean, _, _ in values], color=color, linestyle=line, label=name)
        ends.append(f"{name} {values[-1][0]:.3f}")
    axes.set_xlabel("steps")
    axes.set_ylabel(axis)
    drawing.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return svg(drawing, f"{axis} along training; at the end {', '.join(ends)}")
