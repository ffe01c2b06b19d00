"""The training loop: epochs of batches, validation, checkpoints, and going on from the last whole one. A training says what is learnt and from what.

Writes checkpoints below the specification's `work`. Knows no recipe, no table and not what a batch holds.

Killed and started again, it goes on to the same weights: an epoch's batches are a function of (seed, epoch), and the generator is seeded
anew at every step, so there is no random state to store.
"""

import json
import logging
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from model import artifact, compiled, data
from model.products import has_bf16, same_by_onednn
from model.unified import parameter_groups

log = logging.getLogger("tandem.train")
FEW = 100  # valid examples; by 11 searches of movielens_small the fourth epoch of eight was chosen, for both tasks


class BadCorpus(Exception):
    """Nothing sound to train on, or a loss that is not a number: exit 65."""


@dataclass
class Progress:
    """Where a training stands; all that a checkpoint holds besides tensors."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    loss_sum: float = 0.0


class Training(ABC):
    """One training: the specification, its data, the model, and the optimizer. What is abstract is a kind of training's own."""

    rate = "train.learning_rate"  # the setting

    def __init__(self, spec: dict[str, Any]):
        self.spec, self.settings = spec, spec["train"]
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if self.world > 1:
            distributed.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(self.device)
        elif same_by_onednn():
            torch.set_float32_matmul_precision("medium")  # every product by oneDNN: 1.3 times as fast on a whole step
        self.autocast = self.settings["precision"] == "bf16" or (self.settings["precision"] == "auto" and cuda)
        rounded = [key for key in ("precision", "answer_precision") if self.settings[key] == "bf16"]
        if rounded and not cuda and not has_bf16():
            log.warning("train.%s = bf16: this CPU has no instructions for it, and fp32 is some ten times as fast", " and train.".join(rounded))
        torch.manual_seed(self.settings["seed"])
        self.load_data()
        self.model = self.make_model().to(self.device)
        if self.settings["compiled"]:
            if lacking := compiled.missing():
                log.warning("train.compiled: %s; training goes on without, the same but slower", lacking)
            else:
                log.info("train.compiled: the first batches take a minute or two")
                compiled.compile_blocks(self.model)
        self.wrapped: torch.nn.Module = DistributedDataParallel(self.model) if self.world > 1 else self.model
        groups = parameter_groups(self.model, self.settings["weight_decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=self.settings["learning_rate"], fused=True)
        self.epochs = self.settings["warm_epochs"] if spec["parent"] else self.settings["epochs"]
        self.lengths = self.counted_tokens()
        self.chance = data.chances(self.train, self.settings["half_life_days"])
        self.batches_per_epoch = math.ceil(self.chance.sum() / self.settings["batch_size"]) // self.world or 1
        self.progress, self.curve = Progress(), []
        self.best_weights = artifact.weights_of(self.model)

    @abstractmethod
    def load_data(self) -> None:
        """Set tasks, vocabulary, item_ids, and the examples train and valid, of which train can be batched by `data.batches`."""

    @abstractmethod
    def make_model(self) -> torch.nn.Module:
        """With its first weights, or the parent's."""

    @abstractmethod
    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """The step's loss on these training examples, a scalar; what it draws is a function of the step."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """TASK_ndcg@10 and TASK_recall@10 of the valid examples; every process computes them, so that all stop together."""

    @abstractmethod
    def kept(self) -> dict[str, torch.Tensor]:
        """What the artifact keeps of the model."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What the artifact tells of the model."""

    def counted_tokens(self) -> np.ndarray:
        """int64 [n, 2]: by what training examples are batched together (`data.batches`)."""
        return data.lengths(self.train)

    def settle(self) -> None:  # noqa: B027 - most trainings have nothing to settle
        """With the best weights in the model: what is left to be chosen on the valid examples."""

    def fit(self) -> None:
        """Train until the epochs are over or `patience` epochs bring nothing; leaves the best weights in the model, and all settled."""
        counts = self.counted()
        for task, found in counts.items():
            if 0 < found < FEW <= max(counts.values()):
                log.info("%s: %d validation examples found, %d are needed: what is learnt of it has no say in which epoch is kept", task, found, FEW)
        self.resume()
        self.started = time.monotonic() - self.progress.seconds
        while self.progress.epoch < self.epochs and self.progress.epoch - max(self.progress.best_epoch, 0) < self.settings["patience"]:
            self.run_epoch()
            self.end_epoch()
        self.model.load_state_dict(self.best_weights, strict=False)
        self.settle()

    def run_epoch(self) -> None:
        how = [self.settings[key] for key in ("batch_size", "mixing", "seed")]
        made = data.batches(self.train, self.lengths, *how, self.progress.epoch, self.chance)
        made = made[self.rank : len(made) - len(made) % self.world : self.world]
        self.model.train()
        told, rows, since = time.monotonic(), 0, time.monotonic()
        for index in range(self.progress.batch, len(made)):
            self.progress.loss_sum += self.train_step(made[index])
            self.progress.batch = index + 1
            self.progress.step += 1
            rows += len(made[index]) * self.world
            if time.monotonic() - told > 10:
                rate = rows / (time.monotonic() - since)
                left = ((len(made) - index) + (self.epochs - self.progress.epoch - 1) * len(made)) * self.settings["batch_size"] * self.world / rate
                told = time.monotonic()
                mean = self.progress.loss_sum / self.progress.batch
                log.info(
                    "epoch %d/%d, batch %d/%d, loss %.3f, %.0f rows/s, at most %.0f s left",
                    self.progress.epoch + 1,
                    self.epochs,
                    index + 1,
                    len(made),
                    mean,
                    rate,
                    left,
                )
            if self.progress.step % self.settings["checkpoint_steps"] == 0:
                self.checkpoint()

    def train_step(self, rows: np.ndarray) -> float:
        settings, step = self.settings, self.progress.step
        torch.manual_seed((settings["seed"] * 1_000_003 + step) * self.world + self.rank)  # dropout is a function of the step: nothing to restore
        total = self.epochs * self.batches_per_epoch
        warmup = max(1, round(total * settings["warmup_share"]))
        factor = min((step + 1) / warmup, max(0.02, (total - step) / max(1, total - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings["learning_rate"] * factor * group["pace"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadCorpus(f"loss is {value} at step {step}: lower {self.rate} ({settings['learning_rate']}), or look for broken input")
        return value

    def counted(self) -> dict[str, int]:
        """Valid examples of each task."""
        return {task: int((self.valid.task == number).sum()) for number, task in enumerate(self.valid.tasks)}

    def judged(self, figures: dict[str, float]) -> dict[str, float]:
        """NDCG@10 by task, of the tasks that have FEW valid examples or more: fewer choose by chance, unless all there are do."""
        counts = self.counted()
        reached = {task: figures[f"{task}_ndcg@10"] for task in counts if f"{task}_ndcg@10" in figures}
        return {task: value for task, value in reached.items() if counts[task] >= FEW} or reached

    def end_epoch(self) -> None:
        progress = self.progress
        point = {"epoch": progress.epoch + 1, "loss": progress.loss_sum / max(1, progress.batch), **self.validate()}
        # The geometric mean: a task whose figures are small counts as much as one whose figures are large.
        reached = list(self.judged(point).values())
        score = float(np.exp(np.mean(np.log(np.maximum(reached, 1e-6))))) if reached else -point["loss"]
        if score > progress.best or progress.best_epoch < 0:
            progress.best, progress.best_epoch = score, progress.epoch + 1
            self.best_weights = {name: weight.clone() for name, weight in artifact.weights_of(self.model).items()}
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        point["seconds"] = round(time.monotonic() - self.started, 1)
        self.curve.append(point)
        log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in point.items()))
        self.checkpoint()

    # -- checkpoints --------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """A folder per step, whole or absent; the newest two are kept."""
        self.progress.seconds = time.monotonic() - self.started
        if self.rank == 0:
            folder = Path(self.spec["work"])
            tensors = {f"model.{name}": weight for name, weight in artifact.weights_of(self.model).items()}
            tensors |= {f"best.{name}": weight for name, weight in self.best_weights.items()}
            for index, state in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
            files = {
                "state.safetensors": artifact.write_tensors({name: tensor.clone() for name, tensor in tensors.items()}),
                "progress.json": artifact.write_json(vars(self.progress)),
                "curve.json": artifact.write_json(self.curve),
            }
            artifact.write_folder(folder / f"checkpoint-{self.progress.step:09d}-{self.progress.epoch:04d}", files, {"spec_hash": self.spec["spec_hash"]})
            for old in sorted(folder.glob("checkpoint-*"))[:-2]:
                shutil.rmtree(old)
        if self.world > 1:
            distributed.barrier()

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole and of this specification; a damaged one is passed over, and said so."""
        for folder in sorted(Path(self.spec["work"]).glob("checkpoint-*"), reverse=True):
            try:
                if artifact.read_manifest(folder)["spec_hash"] != self.spec["spec_hash"]:
                    continue
            except ValueError as error:
                log.warning("checkpoint passed over: %s", error)
                continue
            tensors = artifact.load_file(folder / "state.safetensors")
            part = {prefix: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)} for prefix in ("model.", "best.", "optimizer.")}
            self.model.load_state_dict(part["model."], strict=False)
            self.best_weights = {name: weight.to(self.device) for name, weight in part["best."].items()}
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in part["optimizer."].items():
                index, field = name.split(".", 1)
                state.setdefault(int(index), {})[field] = tensor
            self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
            self.progress = Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
            self.curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
            log.info("resumed from %s: epoch %d, step %d", folder.name, self.progress.epoch + 1, self.progress.step)
            return
