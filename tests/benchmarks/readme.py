"""Put generated text between the README's markers: `python tests/benchmarks/readme.py` (with --check: only say whether it is there).

<!-- tables --> from jobs.tables     <!-- NAME --> from tests/benchmarks/results/NAME.json, written by the command it names
"""

import json
import math
import re
import sys
from pathlib import Path

from speed_tables import KINDS as SPEED

from jobs.study_information import CLAIM
from jobs.sweep import interval as between_seeds
from jobs.tables import describe

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
COLUMNS = [("recall", 10), ("ndcg", 10), ("mrr", 20), ("coverage", 10)]
KNOBS = {  # of a study: the knob's name in a point, in words, and the control that is its own
    "h1": ("kl", "KL, nats", "less the gain at the highest KL"),
    "h2": ("redundancy", "pair redundancy", "search shuffled"),
    "cap": ("added", "search examples", "search shuffled"),
}

LIKENESS = {  # of two logs, as `study joint` measures it
    "kl": "KL(recommend to search), nats:",
    "search_items_in_recommend": "searched items that were also used:",
    "recommend_items_in_search": "used items that were also searched:",
    "redundancy": "pair redundancy:",
}
TASKS = ("recommend", "search")
SLICES = ("all", "item:", "other log:", "pairs:")


def night(path: Path) -> str:
    """One night's tables: quality of both tasks, then time and memory of the steps."""
    held = json.loads(path.read_text())
    figure = {(row["method"], row["task"], row["metric"], row["k"]): row for row in held["quality"]}
    lines = [f"`TANDEM_DATA=… {held['command']}` · {held['machine']} · seed {held['seeds'][0]} · {held['date']} · commit {held['commit']}", ""]
    for task in ("recommend", "search"):
        methods = sorted({m for m, t, metric, k in figure if t == task and (metric, k) == ("ndcg", 10)}, key=lambda m: -figure[m, task, "ndcg", 10]["value"])
        if not methods:
            continue
        count = figure[methods[0], task, "ndcg", 10]["n"]
        lines += [f"| {task}, {count:,} test examples | " + " | ".join(f"{metric}@{k}" for metric, k in COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
        for method in methods:
            cells = [cell(figure.get((method, task, *column))) for column in COLUMNS]
            lines.append(f"| {'**model**' if method == 'model' else method} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| step | seconds | peak MB |", "|---|---|---|"]
    lines += [f"| {step['verb']} | {step['seconds']:.0f} | {step['peak_mb']:,} |" for step in held["steps"]]
    lines += [f"| **whole night, cold start included** | **{held['seconds']:.0f}** | **{max(step['peak_mb'] for step in held['steps']):,}** |"]
    return "\n".join(lines)


def cell(row: dict | None) -> str:
    if row is None:
        return "–"
    interval = f" [{row['ci_low']:.4f}, {row['ci_high']:.4f}]" if row["metric"] == "ndcg" and row["ci_low"] is not None else ""
    return f"{row['value']:.4f}{interval}"


def study(path: Path) -> str:
    """One study's table: what the knob came to, the gains with intervals, and the study's own control."""
    held = json.loads(path.read_text())
    knob, axis, control = KNOBS[held["study"]]
    seeds = ", ".join(map(str, held["seeds"]))
    lines = [
        f"`{held['command']}` · {held['machine']} · {held['core_seconds'] / 60:.0f} core-minutes · seeds {seeds} · {held['date']} · commit {held['commit']}",
        "",
    ]
    lines += [f"| data-poor task | {axis} | gain of joint training | over the same steps | {control} |", "|---|---|---|---|---|"]
    for point in held["points"]:
        gains = [percent(point[name]) for name in ("gain", "gain_same_steps")]
        lines.append(f"| {point['side']} | {point[knob]:,.2f} | {gains[0]} | {gains[1]} | {controlled(held['study'], point)} |".replace(".00 |", " |"))
    return "\n".join(lines)


def controlled(subject: str, point: dict) -> str:
    if subject == "h1":
        return percent(point["above_floor"])
    recall = point["recall"]
    return percent([recall["shuffled"] / recall["single"] - 1, None, None]) if "shuffled" in recall else "–"


def percent(interval: list[float | None]) -> str:
    mean, low, high = (None if share is None else f"{100 * share:+.0f} %" for share in interval)
    return f"{mean} [{low}, {high}]" if low else f"{mean}"


def identifiers(path: Path) -> str:
    """One row per way of naming items: recall of both tasks, then what the codes are like before the last one."""
    held = json.loads(path.read_text())
    columns = [(task, k) for task in ("search", "recommend") for k in ("10", "30")]
    lines = [f"`TANDEM_DATA=… {held['command']}` · {held['machine']} · seed {held['seeds'][0]} · {held['date']} · commit {held['commit']}", ""]
    heads = [*(f"{task} R@{k}" for task, k in columns), "items that collide", "largest group", "codes used", "perplexity", "train, s"]
    lines += ["| construction | quantizer | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for row in held["rows"]:
        recall = ["{:.4f} [{:.4f}, {:.4f}]".format(*row["recall"][task][k][:3]) for task, k in columns]
        codes = [of_view for _, of_view in sorted(row["codes"].items()) if "largest_collision" in of_view]
        use = [" / ".join(told(of_view) for of_view in codes) or "–" for told in (colliding, largest, used, perplexity)]
        lines.append(f"| {row['construction']} | {row['quantizer'] or '–'} | " + " | ".join([*recall, *use, f"{row['seconds']['train']:.0f}"]) + " |")
    return "\n".join(lines)


def quality(path: Path) -> str:
    """Per task one row per method, best MRR first, with intervals."""
    held = json.loads(path.read_text())
    seeds = ", ".join(map(str, held["seeds"]))
    lines = [f"`TANDEM_DATA=… {held['command']}` · {held['machine']} · seeds {seeds} · {held['date']} · commit {held['commit']}", ""]
    for task in ("recommend", "search"):
        rows = sorted((row for row in held["quality"] if row["task"] == task), key=lambda row: -row["metrics"]["mrr"]["value"])
        if not rows:
            continue
        columns = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr")
        lines += [f"| {task} | requests | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
        for row in rows:
            cells = [interval(row["metrics"].get(column)) for column in columns]
            lines.append(f"| {'**model**' if row['method'] == 'model' else row['method']} | {row['n']:,} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def interval(figure: dict | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['value']:.4f}" + (" [{:.4f}, {:.4f}]".format(*figure["ci"]) if figure["ci"] else "")


def faults(path: Path) -> str:
    """The headline figures, then one row per step that was killed."""
    held = json.loads(path.read_text())
    lines = [f"`make chaos` (`{held['command']}`) · {held['machine']} · seed {held['seeds'][0]} · {held['date']}", ""]
    run = [f"{part} {held[part]['commit']}" for part in ("kills", "hostile", "backfill", "resume", "rows") if part in held]
    lines += [f"Run at: {', '.join(run)}.", ""]
    lines += ["| figure | value | |", "|---|---|---|"]
    lines += [f"| {row['figure']} | {row['value']:g} | {row['unit']} |" for row in held["figures"]]
    steps = held.get("kills", {}).get("steps", {})
    if steps:
        lines += ["", "| step | kills | rows lost | rows doubled | polls of the reader | partial days seen |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {s['kills']} | {s['lost']} | {s['doubled']} | {s['polls']:,} | {s['partial']} |" for name, s in steps.items()]
    failed = [row for row, passed in held.get("rows", {}).get("passed", {}).items() if not passed]
    return "\n".join(lines + ([f"\nFailed: {', '.join(failed)}."] if failed else []))


def dual(path: Path) -> str:
    """One row per variant of gensar's names: collisions, what the codes say, and how they are used; of search names / of recommend names."""
    held = json.loads(path.read_text())
    lines = [f"`TANDEM_DATA=… {held['command']}` · {held['machine']} · seed {held['seeds'][0]} · {held['date']} · commit {held['commit']}", ""]
    lines += [
        "| variant | seconds | collisions before repair | after repair | in the end | unexplained | prefixes of 2, 3, 4 | perplexity by level |",
        "|---|" + "---|" * 7,
    ]
    for row in held["rows"]:
        prefixed = {view: (f"{view}.", row["checks"]) for view in ("search", "recommend")}
        checks = {view: {name.removeprefix(own): value for name, value in held.items() if name.startswith(own)} for view, (own, held) in prefixed.items()}
        shares = [" / ".join(f"{100 * of[name]:.2f} %" for of in checks.values()) for name in ("collisions_before_repair", "collisions_after_repair")]
        end = f"{row['checks']['one_item_per_identifier']:.0f}"
        lost = " / ".join(f"{100 * of['unexplained_share']:.0f} %" for of in checks.values())
        prefixes = " / ".join(", ".join(f"{of[f'prefixes_of_{depth}']:,.0f}" for depth in (2, 3, 4)) for of in checks.values())
        lines.append(
            f"| {row['variant']} | {row['seconds']:.0f} | {' | '.join(shares)} | {end} | {lost} | {prefixes} | {' / '.join(map(perplexity, checks.values()))} |"
        )
    return "\n".join(lines)


def gensr_plateau(path: Path) -> str:
    """One row per way to begin: the cross-entropy of both tasks along training, the mean over seeds."""
    held = json.loads(path.read_text())
    seeds = ", ".join(map(str, held["seeds"]))
    steps = [int(point["step"]) for point in next(iter(held["curves"].values()))[0] if point["step"] > 1]
    lines = [f"`{held['command']}` · {held['machine']} · seeds {seeds} · {held['date']} · commit {held['commit']}", ""]
    lines += [
        "| nats after | " + " | ".join(f"{task}, {step} steps" for task in ("recommend", "search") for step in steps) + " |",
        "|---|" + "---|" * 2 * len(steps),
    ]
    for way, curves in held["curves"].items():
        at = {int(point["step"]): [other[i] for other in curves] for i, point in enumerate(curves[0])}
        means = [sum(point[f"valid_{task}"] for point in at[step]) / len(curves) for task in ("recommend", "search") for step in steps]
        lines.append(f"| {way} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    floors = ", ".join(f"{task} {value:.3f}" for task, value in held["floor"].items())
    return "\n".join([*lines, "", f"The prior is {held['prior']:.3f}; what the world tells: {floors}."])


def information(path: Path) -> str:
    """One row per form: bounds and critics of both tasks, and the gradients' cosines; then what gensr without each part is short of gensr."""
    held = json.loads(path.read_text())
    seeds = ", ".join(map(str, held["seeds"]))
    lines = [
        f"`{held['command']}` · {held['machine']} · {held['core_seconds'] / 60:.0f} core-minutes · seeds {seeds} · {held['date']} · commit {held['commit']}",
        "",
    ]
    arms = held["arms"]
    lines += ["| nats | recommend, bound | critic | search, bound | critic | gradients' cosine, first attention | all blocks |", "|---|" + "---|" * 6]
    told = [f"{kind}.{task}" for task in TASKS for kind in ("bound", "critic")] + ["cosine_first", "cosine_all"]
    lines += [f"| {arm.replace('_', ' ')} | " + " | ".join(nats(arms[arm][name]) for name in told) + " |" for arm in CLAIM]
    lines += ["", "| nats | recommend, bound | less than gensr | search, bound | less than gensr |", "|---|" + "---|" * 4]
    told = [f"{kind}.{task}" for task in TASKS for kind in ("bound", "lost")]
    lines += [f"| {arm.replace('_', ' ')} | " + " | ".join(nats(arms[arm].get(name)) for name in told) + " |" for arm in arms if arm != "gensr"]
    known = ", ".join(f"{task} {held['arms']['gensr'][f'information.{task}'][0]:.3f}" for task in TASKS)
    return "\n".join([*lines, "", f"What the world tells: {known}. {held['verdict']}"])


def nats(interval: list[float | None] | None) -> str:
    if interval is None:
        return "–"  # a task that it was not trained on
    mean, low, high = interval
    return f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def colliding(codes: dict) -> str:
    return f"{100 * codes['share_colliding_before_last_code']:.1f} %"


def largest(codes: dict) -> str:
    return f"{codes['largest_collision']:.0f}"


def used(codes: dict) -> str:
    return ", ".join(f"{100 * value:.0f} %" for check, value in sorted(codes.items()) if check.endswith("share_of_codes_used"))


def perplexity(codes: dict) -> str:
    return ", ".join(f"{value:.0f}" for check, value in sorted(codes.items()) if check.endswith("perplexity"))


def parts(path: Path) -> str:
    """Per task a row per variant: over the whole catalogue, then among 1 + 99 candidates; means over the seeds that have it."""
    held = json.loads(path.read_text())
    of_data = "" if held["data"] == "simulated" else "TANDEM_DATA=… "
    lines = [f"`{of_data}{held['command']}` · {held['machine']} · {held['date']} · commit {held['commit']}", ""]
    full, few = ("recall@10", "ndcg@10", "mrr@20"), ("hitrate@1", "hitrate@5", "hitrate@10", "ndcg@5", "ndcg@10") if any(held["candidates"].values()) else ()
    for task in ("recommend", "search"):
        lines += [f"| {task} | seeds | " + " | ".join(full) + (" | 1 + 99: " + " | ".join(few) if few else "") + " |", "|---|---|" + "---|" * len(full + few)]
        figures: dict[str, dict[tuple[str, str], list[float]]] = {}
        for kind in ("catalogue", "candidates"):
            for variants in held[kind].values():
                for name, values in variants.items():
                    for column, value in values.items():
                        figures.setdefault(name, {}).setdefault((kind, column), []).append(value)
        for name in sorted(figures, key=lambda name: -sum(figures[name].get(("catalogue", f"{task}.ndcg@10"), [0.0]))):
            of = figures[name]
            cells = [mean_of(of.get((kind, f"{task}.{column}"))) for kind, columns in (("catalogue", full), ("candidates", few)) for column in columns]
            if any(each != "–" for each in cells):
                seeds = len(of.get(("catalogue", f"{task}.ndcg@10"), ())) or "–"
                lines.append(f"| {'**whole**' if name == 'model' else name.replace('_', ' ')} | {seeds} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def joint(path: Path) -> str:
    """One log's tables: the joint model beside each task alone, then its gains over it by slice."""
    held = json.loads(path.read_text())
    seeds = ", ".join(map(str, held["seeds"]))
    lines = [f"`TANDEM_DATA=… {held['command']}` · {held['machine']} · seeds {seeds} · {held['date']} · commit {held['commit']}", ""]
    told = " · ".join(f"{named} {held['logs'][name]:.2f}" for name, named in LIKENESS.items() if name in held["logs"])
    lines += [f"{told}. The study's advice: *{held['advice']}*", ""]
    tasks, alone = ("recommend", "search"), ("same_epochs", "same_steps")
    columns = [(task, figure) for task in tasks for figure in ("ndcg@10", "recall@30")]
    lines += ["| NDCG@10, Recall@30 | " + " | ".join(f"{task} {figure}" for task, figure in columns) + " |", "|---|" + "---|" * len(columns)]
    for name in ("model", *alone):
        cells = [mean_of(held["reached"][task][f"{name if name == 'model' else f'{task}_{name}'}.{figure}"]) for task, figure in columns]
        lines.append(f"| {'**joint**' if name == 'model' else f'alone, {name}'.replace('_', ' ')} | " + " | ".join(cells) + " |")
    compared = [(task, name) for task in tasks for name in alone]
    heads = [f"{task}, over {name.replace('_', ' ')}" for task, name in compared]
    lines += ["", "| gain of joint training in NDCG@10 | " + " | ".join(heads) + " |", "|---|" + "---|" * len(compared)]
    slices = dict.fromkeys(figure.split(".")[1] for figure in held["gains"])
    for name in sorted((each for each in slices if each.startswith(SLICES)), key=lambda each: (each != "all", each)):
        gains = [held["gains"].get(f"{task}.{name}.{task}_{than}") for task, than in compared]
        lines.append(f"| {name} | " + " | ".join(percent(gain) if gain else "–" for gain in gains) + " |")
    return "\n".join(lines)


def mean_of(values: list[float] | None) -> str:
    if not values:
        return "–"
    mean, low, high = between_seeds(values)
    return f"{mean:.4f}" if math.isnan(low) else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def filled(text: str) -> str:
    made = {"tables": describe}
    for kind in (night, study, identifiers, dual, quality, gensr_plateau, information, parts, joint, faults, *SPEED):
        made |= {path.stem: lambda kind=kind, path=path: kind(path) for path in (HERE / "results").glob(f"{kind.__name__}*.json")}

    def between(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- {name} -->\n{made[name]()}\n<!-- /{name} -->" if name in made else match.group(0)

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", between, text, flags=re.S)


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in arguments:
        if new != text:
            print("README.md differs from what its sources say: run `python tests/benchmarks/readme.py`", file=sys.stderr)
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
