"""Do task prompts tell more of the answer than task heads, and pull the shared encoder less apart? GenSR's central claim (arXiv 2504.06714), on known worlds.

    python tests/benchmarks/gensr_information.py [--seeds 0 1 2] [--steps 400] [--arms gensr one_prompt twin]

Trains each form (`model.pair_study`) with each seed, in one process on one thread. Writes tests/benchmarks/results/gensr_information.json: the curves, and of
every figure the mean and what each seed gave.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from model.pair_study import ARMS, Cell, run

RESULT = Path(__file__).parent / "results" / "gensr_information.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done: dict[str, list[tuple[dict[str, float], list[dict[str, float]]]]] = {arm: [] for arm in asked.arms}
    for seed in asked.seeds:
        for arm in asked.arms:
            figures, curve = run(Cell(arm, seed, asked.steps))
            done[arm].append((figures, curve))
            print(arm, seed, {name: round(value, 3) for name, value in figures.items()}, flush=True)
            arms = {name: summary(cells) for name, cells in done.items() if cells}
            made = {"command": " ".join(["python", *sys.argv]), "steps": asked.steps, "seeds": asked.seeds, "arms": arms}
            RESULT.write_text(json.dumps({**made, "date": datetime.now(UTC).date().isoformat()}, indent=1) + "\n", encoding="utf-8")


def summary(cells: list[tuple[dict[str, float], list[dict[str, float]]]]) -> dict[str, object]:
    figures = {name: [round(figures[name], 4) for figures, _ in cells] for name in cells[0][0]}
    curves = [[{name: round(value, 4) for name, value in point.items()} for point in curve] for _, curve in cells]
    return {"mean": {name: round(float(np.mean(values)), 4) for name, values in figures.items()}, "by_seed": figures, "curves": curves}


if __name__ == "__main__":
    main()
