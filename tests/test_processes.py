"""Two processes train the model that one trains, started by torchrun or by Spark's TorchDistributor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from worlds import ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from model import data, rank, train

BATCH = 36  # of a process: 648 training rows are 18 whole batches, nine steps of two


def specification(root: Path, batch_size: int, **settings: float) -> Path:
    write_lake(root, checkerboard_rows())
    path = root / "spec.json"
    path.write_text(json.dumps(training_spec(root, epochs=2, batch_size=batch_size, half_life_days=0, **settings)))
    return path


def of_two(root: Path, *launcher: str, pointers: float = 0) -> dict[str, np.ndarray]:
    """The weights that the launcher's two processes leave. Which prompts point is drawn by each for itself: what two draw, one does not."""
    path = specification(root, BATCH, pointers=pointers)
    done = subprocess.run([sys.executable, *launcher, str(path)], capture_output=True, text=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(root / "artifact/model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights that one process leaves whose every step takes the rows that two take between them."""
    root = tmp_path_factory.mktemp("alone")
    apart = data.batches

    def pairs(examples, lengths, batch_size, *rest):
        made = apart(examples, lengths, batch_size // 2, *rest)
        assert [len(rows) for rows in made] == [BATCH] * 18
        return [np.concatenate(made[i : i + 2]) for i in range(0, len(made), 2)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "batches", pairs)
        assert train.main([str(specification(root, 2 * BATCH, pointers=0))]) == 0
    return load_file(root / "artifact/model.safetensors")


def alike(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> bool:
    """To 1e-5; of each matrix one weight, or one of 10,000, to 1e-4: a unit whose input is all but zero is off for one and on for the other, and AdamW divides
    its gradient by itself."""
    assert some.keys() == others.keys()
    apart = [np.abs(weight - others[name]) for name, weight in some.items()]
    return all(np.quantile(each, 0.9999, method="lower") < 1e-5 and each.max() < 1e-4 for each in apart)


def test_torchrun(tmp_path, alone) -> None:
    assert alike(of_two(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model.train"), alone)


def test_pointers_are_learned_by_two(tmp_path) -> None:
    """A word tells each item from the others: their weights rise above where they began, and each query is answered with what it names."""
    weights = of_two(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model.train", pointers=0.5)
    moved = weights["pointers.weight"] - np.log1p((12 - 1 + 0.5) / (1 + 0.5))
    ranker = rank.load(str(tmp_path / "artifact"))
    words = [tokens[-1] for tokens in ranker.vocabulary.encode(WORDS, 9)]
    assert (moved[words] > 0).all()
    answers = ranker.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1)
    assert [ranker.item_ids[items[0]] for items, _ in answers] == ITEMS


@pytest.mark.slow
def test_torch_distributor(tmp_path, alone) -> None:
    assert alike(of_two(tmp_path, "-m", "jobs.distribute", "2"), alone)
