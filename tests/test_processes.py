"""Two processes train the model that one trains, started by torchrun or by Spark's TorchDistributor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from worlds import checkerboard_rows, training_spec, write_lake

from model import data, train

BATCH = 36  # of a process: 648 training rows are 18 whole batches, nine steps of two


def specification(root: Path, batch_size: int) -> Path:
    write_lake(root, checkerboard_rows())
    path = root / "spec.json"
    path.write_text(json.dumps(training_spec(root, epochs=2, batch_size=batch_size, half_life_days=0)))
    return path


def of_two(root: Path, *launcher: str) -> dict[str, np.ndarray]:
    """The weights that the launcher's two processes leave."""
    path = specification(root, BATCH)
    done = subprocess.run([sys.executable, *launcher, str(path)], capture_output=True, text=True, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(root / "artifact/model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights that one process leaves whose every step takes the rows that two take between them."""
    root = tmp_path_factory.mktemp("alone")
    apart = data.batches

    def pairs(examples, batch_size, *rest):
        made = apart(examples, batch_size // 2, *rest)
        assert [len(rows) for rows in made] == [BATCH] * 18
        return [np.concatenate(made[i : i + 2]) for i in range(0, len(made), 2)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "batches", pairs)
        assert train.main([str(specification(root, 2 * BATCH))]) == 0
    return load_file(root / "artifact/model.safetensors")


def apart(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    """The largest difference of two weights of one name."""
    assert some.keys() == others.keys()
    return max(float(np.abs(weight - others[name]).max()) for name, weight in some.items())


def test_torchrun(tmp_path, alone) -> None:
    assert apart(of_two(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model.train"), alone) < 1e-5


@pytest.mark.slow
def test_torch_distributor(tmp_path, alone) -> None:
    assert apart(of_two(tmp_path, "-m", "jobs.distribute", "2"), alone) < 1e-5
