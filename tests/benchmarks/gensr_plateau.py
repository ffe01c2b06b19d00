"""How long gensr answers the prior, by how it begins: the cross-entropy of test requests along training, on a world of 8 tastes and 8 topics.

    python tests/benchmarks/gensr_plateau.py [--seeds 0 1] [--steps 300]

    t5        the blocks begin as T5's do, and slots look at themselves, too
    apart     slots do not look at themselves (`model.slots.sight`)
    alike     and keys begin as queries (`model.gensr.look_for_alike`)
    match     and a search has a slot of the match (`model.views.Match`): what is trained

Writes tests/benchmarks/results/gensr_plateau.json: of every way and seed the curve; the labels' entropy and what the world tells are its ceiling and floor.
"""

import argparse
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from figures import keep, origin
from torch import Tensor

from model import pair_study, pair_worlds, unified
from model.information import entropy
from model.pairs import Drawing, Settings
from model.questions import TASKS, Form
from model.slots import sight

TOLD = ("step", "valid_recommend", "valid_search", "contrast")
RESULT = Path(__file__).parent / "results" / "gensr_plateau.json"


def seeing_itself(source: Tensor, dtype: torch.dtype) -> Tensor:
    own = torch.eye(source.shape[1], dtype=torch.bool) & (source < 0)[:, :, None]
    return sight(source, dtype).masked_fill(own[:, None], 0)


def curve(way: str, seed: int, steps: int) -> list[dict[str, float]]:
    world = pair_worlds.tastes_and_topics(seed)
    drawing = Drawing(np.zeros(len(world.taste)), hard=0.0)
    begun = mock.patch.object(pair_study, "look_for_alike", pair_study.look_for_alike if way in ("alike", "match") else lambda model: None)
    seen = mock.patch.object(unified, "sight", seeing_itself if way == "t5" else sight)
    with begun, seen:
        return pair_study.Fit(world, Form(match=way == "match"), Settings(steps=steps, seed=seed), "tiny", drawing).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pair_study.EVERY = 50
    world = pair_worlds.tastes_and_topics(0)
    floors = {task: round(entropy(0.2) - world.information(task, 4), 4) for task in TASKS}
    curves: dict[str, list[list[dict[str, float]]]] = {}
    for way in ("t5", "apart", "alike", "match"):
        for seed in asked.seeds:
            points = [{name: round(point[name], 4) for name in TOLD} for point in curve(way, seed, asked.steps)]
            curves.setdefault(way, []).append(points)
            print(way, seed, [(int(point["step"]), point["valid_recommend"], point["valid_search"]) for point in points], flush=True)
            told = origin(" ".join(["python", *sys.argv]), "simulated: model/pair_worlds.py", asked.seeds)
            keep(RESULT.stem, {**told, "prior": round(entropy(0.2), 4), "floor": floors, "curves": curves})


if __name__ == "__main__":
    main()
