"""The README's tables of speed, each from its benchmark's JSON; `readme.py` puts them there."""

import json
from pathlib import Path
from statistics import median


def told(held: dict) -> str:
    return f"`{held['command']}` · {held['machine']} · {held['date']} · commit {held['commit']}"


def decoding(path: Path) -> str:
    """One row per contestant, fastest first: users a second, and what of its answers is the same as the rival's."""
    held = json.loads(path.read_text())
    speed = {row["contestant"]: row["median"] for row in held["rows"]}
    peak = {precision: speed[f"peak {precision}"] for precision in ("fp32", "bf16")}
    lines = [
        told(held),
        "",
        f"| K = {held['k']}, {held['megaflops_per_user']:.0f} MFLOP a user | batch | users/s [range] | against hf | equal users | overlap | of peak |",
        "|---|" + "---|" * 6,
    ]
    for row in sorted(held["rows"], key=lambda row: -row["median"]):
        if (name := row["contestant"]).startswith("peak"):
            continue
        precision = "bf16" if "bf16" in name else "fp32"
        share = f"{100 * row['median'] * held['megaflops_per_user'] / 1e3 / peak[precision]:.0f} %" if "int8" not in name else "–"
        users = f"{row['median']:.1f} [{min(row['rounds']):.1f}, {max(row['rounds']):.1f}]"
        ratio = f"{row['median'] / speed['hf']:.1f}"
        lines.append(f"| {name} | {row['batch']} | {users} | {ratio} | {100 * row['equal_users']:.0f} % | {row['overlap']:.3f} | {share} |")
    return "\n".join([*lines, "", "Peak: " + ", ".join(f"{precision} {value:.0f} GFLOP/s" for precision, value in peak.items()) + "."])


def precision(path: Path) -> str:
    """One row per metric: the same weights in both precisions."""
    held = json.loads(path.read_text())
    lines = [told(held), "", f"| {held['users']:,} users | fp32 | bf16 | change |", "|---|---|---|---|"]
    for metric, found in held["metrics"].items():
        low, high = (f"{100 * share:+.2f} %" for share in found["ci"])
        lines.append(f"| {metric} | {found['fp32']:.4f} | {found['bf16']:.4f} | {100 * found['change']:+.2f} % [{low}, {high}] |")
    return "\n".join([*lines, f"| of {held['depth']} answers the same | | {100 * held['overlap']:.1f} % | |"])


def catalogue(path: Path) -> str:
    """Trie, mask and codes: ours, the rival's, and what else was measured; medians."""
    held = json.loads(path.read_text())
    trie, mask, codes = held["trie"], held["mask_of_10_million"], held["codes"]
    rows = [
        ("trie of 1,000,000 items, s", median(trie["seconds"]), f"dict of prefixes: {median(trie['dict_seconds']):.2f}", f"{trie['megabytes']:.1f} MB"),
        ("mask of who is available, 10,000,000 items, s", median(mask["seconds"]), "–", ""),
        ("codes of 50,000 × 768, 4 levels of 256, s", median(codes["seconds"]), f"faiss: {median(codes['faiss_seconds']):.2f}",
         f"left over {100 * codes['unexplained']:.1f} % of the variance; faiss {100 * codes['faiss_unexplained']:.1f} %"),
    ]  # fmt: skip
    lines = [told(held), "", "| | tandem | rival | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {value:.2f} | {rival} | {more} |" for what, value, rival, more in rows)])


def speed_corpora(path: Path) -> str:
    """One row per engine, fastest first; then how the time grows, and a heavy user."""
    held = json.loads(path.read_text())
    events, usual = max(map(int, held["slope"])), median(held["seconds"]["usual recipe"])
    lines = [
        told(held),
        "",
        f"| {events:,} events → {held['users']:,} sequences | seconds [range] | events/s | against the usual recipe |",
        "|---|---|---|---|",
    ]
    for engine, seconds in sorted(held["seconds"].items(), key=lambda one: median(one[1])):
        middle = median(seconds)
        lines.append(f"| {engine} | {middle:.1f} [{min(seconds):.1f}, {max(seconds):.1f}] | {events / middle:,.0f} | {usual / middle:.2f} |")
    grown = ", ".join(f"{int(size):,} in {seconds:.1f} s" for size, seconds in held["slope"].items())
    heavy = f"With a user of {held['heavy_events']:,} events beside {events // 10:,} others: {held['heavy_seconds']:.1f} s."
    return "\n".join([*lines, "", f"tandem alone: {grown} (time grows as events to the power {held['exponent']:.2f}). {heavy}"])


def speed_training(path: Path) -> str:
    """One row per contestant, fastest first."""
    held = json.loads(path.read_text())
    plain = next(row["median"] for row in held["rows"] if row["contestant"] == "hf")
    lines = [
        told(held),
        "",
        f"| {held['names']} names | batch | examples/s [range] | against hf | loss on held-out rows, batches of 256 | making batches | the first 2,048, s |",
        "|---|" + "---|" * 6,
    ]
    for row in sorted(held["rows"], key=lambda row: -row["median"]):
        speed = f"{row['median']:,.0f} [{min(row['rounds']):,.0f}, {max(row['rounds']):,.0f}]"
        share = f"{100 * row['input_share']:.0f} %" if "input_share" in row else "–"  # not measured before 2a12df5
        told_of = f"{row['median'] / plain:.1f} | {row['loss_at_256']:.3f} | {share}"
        first = f"{row['first_seconds']:.0f}" if "first_seconds" in row else "–"
        lines.append(f"| {row['contestant']} | {row['batch']} | {speed} | {told_of} | {first} |")
    return "\n".join(lines)


def speed_million(path: Path) -> str:
    """One row per precision and size; the rival below."""
    held = json.loads(path.read_text())
    lines = [told(held), "", "| | users | seconds | users/s | bare decoder, users/s | workers, MB | minutes for a million |", "|---|---|---|---|---|---|---|"]
    for precision in ("fp32", "bf16"):
        of = held[precision]
        for run in of["runs"]:
            minutes = f"{1e6 / run['users_per_second'] / 60:.0f}"
            cells = [
                f"{run['users']:,}",
                f"{run['seconds']:.0f}",
                f"{run['users_per_second']:.0f}",
                f"{of['bare_users_per_second']:.0f}",
                f"{run['workers_mb']:,}",
            ]
            lines.append(f"| tandem {precision} | {' | '.join(cells)} | {minutes} |")
    users, theirs = held["hf_users"], held["hf_users_per_second"]
    lines.append(f"| Hugging Face fp32 | {users:,} | {users / theirs:.0f} | {theirs:.0f} | – | – | {1e6 / theirs / 60:.0f} |")
    return "\n".join(lines)


def speed_costs(path: Path) -> str:
    """One row per step: cost of each night, by what power it grows, and the estimate."""
    held = json.loads(path.read_text())
    nights, wanted = held["nights"], held["wanted"]
    heads = [f"{each['world']['users']:,} users, {each['world']['items']:,} items, {each['world']['events_per_user']} events each" for each in nights]
    lines = [told(held), "", "| seconds / CPU-seconds / peak MB / MB shuffled | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for n, step in enumerate(nights[0]["steps"]):
        costs = [each["steps"][n] for each in nights]
        cells = [f"{one['seconds']:.0f} / {one['cpu_seconds']:.0f} / {one['peak_mb']:,} / {one['shuffled_mb']:.0f}" for one in costs]
        lines.append(f"| {step['verb']} | " + " | ".join(cells) + " |")
    knobs = {"users": "1,000 users", "items": "1,000 items", "events_per_user": "one event a user"}
    heads = [head for knob, more in knobs.items() for head in (f"power of {knob.replace('_per_', ' a ')}", f"{more} more")]
    lines += ["", "| CPU-seconds grow by | " + " | ".join(heads) + " | core-hours, estimated |", "|---|" + "---|" * (len(heads) + 1)]
    for verb, of in held["growth"].items():
        scale = {"users": 1000, "items": 1000, "events_per_user": 1}
        cells = [f"{of[knob]['power']:.2f} | " + ("–" if of[knob]["each"] is None else f"{of[knob]['each'] * scale[knob]:.2f}") for knob in knobs]
        hours = held["core_hours"][verb]
        lines.append(f"| {verb} | {' | '.join(cells)} | {'–' if hours is None else f'{hours:,.0f}'} |")
    return "\n".join([*lines, "", f"The estimate is for {wanted['users']:,} users, {wanted['items']:,} items and {wanted['events_per_user']} events each."])


def speed_names(path: Path) -> str:
    """One row per step, in the order of the night."""
    held = json.loads(path.read_text())
    lines = [told(held), "", f"| {held['items']:,} items, {held['events']:,} events | seconds | rows a second | peak MB |", "|---|---|---|---|"]
    for step in held["steps"]:
        rate = f"{step['rows'] / step['seconds']:,.0f} {step['of']}"
        lines.append(f"| {step['step']} | {step['seconds']:.0f} | {rate} | {step['peak_mb']:,} |")
    return "\n".join(lines)


KINDS = (decoding, precision, catalogue, speed_corpora, speed_training, speed_million, speed_costs, speed_names)
