"""gensar's identifiers at the published sizes: time, collisions before and after the official repair, use of the codes, and a picture of both views.

    TANDEM_DATA=… python tests/benchmarks/dual.py            (the Beauty set of 12,101 items; run it while nothing else runs)

Ingests and embeds through the verbs in a lake of its own (--lake; what is there is kept), then times `assign_identifiers`: dual, 2 shared and 2 own levels of
256 codes, 200 epochs. Writes tests/benchmarks/results/dual_names.json and two figures, and from the same names without Sinkhorn a third row.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from deltalake import DeltaTable
from figures import HERE, keep, origin, write
from quality import begun, verb

OFFICIAL = {"semantic": 0.0021, "collaborative": 0.0}  # after its repair, on the same items (reference gensar 6.2)
VIEWS = {"semantic": "search", "collaborative": "recommend"}
EMBED = ["embed.text_dim=256", "embed.behaviour_dim=32"]
NAMES = ["identifiers.scheme=semantic", "identifiers.construction=dual", "identifiers.quantizer=rq_vae", "identifiers.levels=4", "identifiers.shared_levels=2"]
NAMES += ["identifiers.codes=256", "identifiers.epochs=200", "identifiers.retrain=true"]
VARIANTS = {"as published": [], "without Sinkhorn": ["identifiers.sinkhorn=0"], "every level's commitment": ["identifiers.every_level=true"]}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", default=".tandem/benchmarks/dual")
    chosen = options.parse_args()
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_beauty_paper", file=sys.stderr)
        return 69
    folder = Path(chosen.lake).resolve()
    day = begun("beauty_paper", folder, ("ingest", "build_corpora", "embed_items"), EMBED)
    rows = []
    for name, settings in VARIANTS.items():
        started = time.monotonic()
        verb(folder, day, "assign_identifiers", [*EMBED, *NAMES, *settings])
        seconds = time.monotonic() - started
        checks = checks_of(folder / "lake")
        if not settings:
            picture(folder / "lake", HERE / "results" / "dual_names.png")
        rows.append({"variant": name, "seconds": round(seconds, 1), "checks": checks})
        print(name, round(seconds, 1), {key: value for key, value in checks.items() if "collisions" in key or key == "one_item_per_identifier"}, flush=True)
    common = origin("python tests/benchmarks/dual.py", "amazon_beauty_paper", [7])
    keep("dual_names", {**common, "rows": rows})
    kept = {side: rows[0]["checks"][f"{view}.collisions_after_repair"] for side, view in VIEWS.items()}
    rest = {"unit": "fraction", "ci": None, "rival": "official code"}
    write([{"figure": f"dual_collisions_{side}", "value": value, **rest, "rival_value": OFFICIAL[side]} for side, value in kept.items()], common)
    return 0


def picture(lake: Path, target: Path) -> None:
    """Both views of the items on two axes each (principal components); a colour is an item's first code, which both names have in common."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    named = {row["item_id"]: row["codes"][0] for row in DeltaTable(str(lake / "item_identifiers")).to_pyarrow_table().to_pylist() if row["view"] == "search"}
    embedded = DeltaTable(str(lake / "item_embeddings")).to_pyarrow_table(columns=["item_id", "view", "vector"])
    common = [code for code, _ in Counter(named.values()).most_common(8)]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axes, (view, told) in zip(panels, (("text", "semantic: text"), ("behaviour", "collaborative: behaviour")), strict=True):
        held = embedded.filter(pc.field("view") == view)
        vectors = np.stack(held["vector"].to_numpy(zero_copy_only=False))
        vectors = vectors - vectors.mean(axis=0)
        flat = vectors @ np.linalg.svd(vectors, full_matrices=False)[2][:2].T
        codes = np.array([named[item] for item in held["item_id"].to_pylist()])
        axes.scatter(*flat.T, s=1, color="#cccccc", linewidths=0)
        for n, code in enumerate(common):
            axes.scatter(*flat[codes == code].T, s=4, color=pyplot.get_cmap("tab10")(n), linewidths=0, label=f"code {code}")
        axes.set_title(told, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    panels[1].legend(fontsize=7, frameon=False, markerscale=2)
    figure.savefig(target, dpi=110)


def checks_of(lake: Path) -> dict[str, float]:
    """The latest run's checks of assign_identifiers."""
    rows = [row for row in DeltaTable(str(lake / "checks")).to_pyarrow_table().to_pylist() if row["step"] == "assign_identifiers"]
    return {row["check"]: row["value"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
