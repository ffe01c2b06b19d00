"""What answering in bf16 costs a trained model: Recall@10 and NDCG@10 of the same weights in fp32 and in bf16, and how many of 20 answers are the same.

    TANDEM_DATA=… python tests/benchmarks/precision.py [--epochs 3]        (the Beauty paper set, three levels of semantic codes)

Trains through the verbs in a lake of its own, which is kept: begun again, only the answers are made anew. Every user's last purchase is the target, the
whole catalogue is ranked. Writes tests/benchmarks/results/precision.json.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from deltalake import DeltaTable
from figures import keep, origin
from quality import Held, begun, settings_of, verb
from seeds import gains
from training import NAMES

DEPTH, DRAWN = 20, 1000


def answers(artifact: Path, precision: str, held: Held) -> np.ndarray:
    """int64 [users, DEPTH], rows of the catalogue, best first; -1 behind the last."""
    from model import artifact as artifacts
    from model.rank import Ranker

    weights, vocabulary, item_ids, config, manifest = artifacts.load(artifact)
    ranker, table = Ranker(weights, vocabulary, item_ids, config | {"answer_precision": precision}, manifest), held.rows["recommend", "test"]
    histories = table["history"].to_pylist()
    found = ranker.rank("recommend", histories, [None] * len(histories), DEPTH, exclude=[[act["item_id"] for act in history] for history in histories])
    made = np.full((len(found), DEPTH), -1)
    for user, (rows, _) in enumerate(found):
        made[user, : len(rows)] = rows
    return made


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", default=".tandem/benchmarks/precision")
    options.add_argument("--epochs", type=int, default=3)
    chosen = options.parse_args()
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_beauty_paper", file=sys.stderr)
        return 69
    folder = Path(chosen.lake).resolve()
    settings = settings_of("beauty_paper", 0, [*NAMES["codes"], f"train.epochs={chosen.epochs}", "train.dropout=0.2"])
    day = begun("beauty_paper", folder, ("ingest", "build_corpora", "embed_items", "assign_identifiers"), settings)
    model = folder / "lake" / "artifacts" / verb(folder, day, "train", settings)["model_version"]
    items = sorted(DeltaTable(str(folder / "lake" / "items")).to_pyarrow_table(columns=["item_id"])["item_id"].to_pylist())
    held = Held(folder / "lake", items)
    row_of = {item: row for row, item in enumerate(json.loads((model / "items.json").read_text()))}
    targets = np.array([row_of[item] for item in held.rows["recommend", "test"]["target_item_id"].to_pylist()])
    made = {precision: answers(model, precision, held) for precision in ("fp32", "bf16")}
    ranks = {precision: np.where((rows == targets[:, None]).any(1), (rows == targets[:, None]).argmax(1) + 1, 0) for precision, rows in made.items()}
    rng, found = np.random.default_rng(0), {}
    drawn = rng.integers(0, len(targets), (DRAWN, len(targets)))
    for metric in ("recall@10", "ndcg@10"):
        exact, rounded = (gains(ranks[precision])[metric] for precision in ("fp32", "bf16"))
        change = [rounded[users].mean() / exact[users].mean() - 1 for users in drawn]
        found[metric] = {
            "fp32": float(exact.mean()),
            "bf16": float(rounded.mean()),
            "change": float(rounded.mean() / exact.mean() - 1),
            "ci": [float(np.quantile(change, share)) for share in (0.025, 0.975)],
        }
    same = [len(np.intersect1d(a[a >= 0], b[b >= 0])) / max(1, (a >= 0).sum()) for a, b in zip(made["fp32"], made["bf16"], strict=True)]
    common = origin(f"python tests/benchmarks/precision.py --epochs {chosen.epochs}", "amazon_beauty_paper", [0], "torch")
    told = {"users": len(targets), "metrics": found, "overlap": float(np.mean(same)), "depth": DEPTH, **common}
    keep("precision", told)
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
