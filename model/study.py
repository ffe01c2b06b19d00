"""One cell of a study: a world, a model trained on one or both of its logs, and what it reached (Penha et al. 2024).

Gen_R, Gen_S and Gen_{R+S} are one class that begins at the same weights; only the examples differ. Every model is stopped by its own
validation loss (joint: the mean of both tasks'), and the single-task models are trained a second time for as many steps as the joint
model took: more steps are no gain of joint training. Atomic identifiers, so that the best items are one masked softmax. Knows no table.

Probes look at output rows (the output matrix, `lm_head`; untied by default, so that search trains no input row of an item).
"""

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model import artifact, trie, worlds
from model.decode import Constraint, Decoder, beam_search
from model.unified import UnifiedModel, from_sizes, parameter_groups
from model.vocabulary import EOS, PAD, UNK
from model.worlds import TASKS, Log, World

SPECIAL = UNK + 1
# At 1e-3 (up to 1,200 steps) S2 at redundancy 1 reached .877 joint and .345 alone, at this rate .865 and .352 in half the time; 3e-3 reached .839 and .374.
BATCH, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 128, 2e-3, 0.01, 0.1
EVERY, PATIENCE, MOST_STEPS = 25, 4, 700  # steps between two looks at the validation loss; looks without a better one; steps at most


@dataclass(frozen=True)
class Cell:
    """One setting with one seed. knob: KL (h1) or alignment (h2, cap). read: the data-poor task, whose recall counts.

    added: search examples per item at most; none leaves them all.
    """

    study: str
    knob: float
    seed: int
    read: str  # the task whose recall is the study's
    n_rec: int
    n_search: int
    tied: bool = False
    added: int | None = None


def world_of(cell: Cell) -> World:
    if cell.study == "h1":
        return worlds.popularity(cell.knob, cell.n_rec, cell.n_search, cell.seed)
    world = worlds.clusters(cell.knob, cell.n_rec, cell.n_search, cell.seed)
    return world if cell.added is None else world.capped(cell.added, cell.seed)


def prompts(world: World, task: str, inputs: np.ndarray) -> torch.Tensor:
    """int64 [n, width + 2]: the task's token, the input's tokens, </s>. Text tokens are words, then come the items."""
    first = text_size(world) if task == "recommend" else SPECIAL + len(TASKS)
    source = np.concatenate([np.full((len(inputs), 1), SPECIAL + TASKS.index(task)), inputs + first, np.full((len(inputs), 1), EOS)], axis=1)
    return torch.from_numpy(source)


def text_size(world: World) -> int:
    return SPECIAL + len(TASKS) + world.words


class Fit:
    """One training. tasks: which logs are learnt from."""

    def __init__(self, world: World, tasks: tuple[str, ...], seed: int, tied: bool):
        self.world, self.tasks, self.seed = world, tasks, seed
        torch.manual_seed(seed)
        self.model: UnifiedModel = from_sizes("micro", text_size(world), (world.items,), DROPOUT, tied)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, WEIGHT_DECAY), lr=LEARNING_RATE, fused=True)
        self.train = [self.rows(task, getattr(world, task).train) for task in tasks]
        self.valid = [self.rows(task, getattr(world, task).valid) for task in tasks]
        self.order = np.random.default_rng((seed, 7))

    def rows(self, task: str, log: Log) -> tuple[torch.Tensor, torch.Tensor]:
        return prompts(self.world, task, log.inputs), torch.from_numpy(log.targets)[:, None] + text_size(self.world)

    def losses(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The decoder begins with PAD, as the paper's does: in S1 the latest item is no hint."""
        return self.model(source, torch.full_like(target, PAD), target)

    def batches(self):
        """Without end: the tasks' examples, concatenated and shuffled in every pass; a batch's tasks go through the model one by one."""
        owner = np.repeat(np.arange(len(self.train)), [len(target) for _, target in self.train])
        row = np.concatenate([np.arange(len(target)) for _, target in self.train])
        while True:
            order = self.order.permutation(len(owner))
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                yield [torch.from_numpy(row[chosen[owner[chosen] == task]]) for task in range(len(self.train))]

    def steps(self, exactly: int | None = None) -> int:
        """Train until the validation loss no longer falls and keep the best weights, or for exactly so many steps. Returns the steps taken."""
        best, best_step, kept = float("inf"), 0, None
        for step, parts in enumerate(self.batches(), 1):
            self.model.train()
            losses = [self.losses(source[rows], target[rows]) for (source, target), rows in zip(self.train, parts, strict=True) if len(rows)]
            self.optimizer.zero_grad(set_to_none=True)
            torch.cat(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            if exactly is not None:
                if step >= exactly:
                    return step
                continue
            if step % EVERY == 0:
                loss = self.validate()
                if loss < best:
                    best, best_step = loss, step
                    kept = {name: weight.clone() for name, weight in self.model.state_dict().items()}
                if step - best_step >= PATIENCE * EVERY or step >= MOST_STEPS:
                    self.model.load_state_dict(kept)
                    return step
        raise AssertionError("batches() never ends")

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        return float(np.mean([self.losses(source, target).mean().item() for source, target in self.valid]))

    def ranked(self, task: str) -> np.ndarray:
        """int64 [HELD_OUT, DEPTH]: the best items of each test input."""
        source = prompts(self.world, task, getattr(self.world, task).test)
        weights = {name.removeprefix("t5."): weight for name, weight in artifact.weights_of(self.model).items()}
        decoder = Decoder(weights, self.model.t5.config.to_dict(), text_size(self.world))
        items = trie.build(np.arange(self.world.items)[:, None])
        start = torch.full((len(source), 1), PAD)
        leaves, _ = beam_search(decoder, Constraint(items, [0]), source, start, worlds.DEPTH, worlds.DEPTH)
        return items.items[leaves.numpy()]

    def recall(self, task: str) -> float:
        """Expected R@DEPTH on the task's test inputs."""
        return getattr(self.world, task).recall(self.ranked(task))

    def output_rows(self) -> np.ndarray:
        """float32 [items, d_model]: what the softmax over items compares its state with."""
        return self.model.t5.lm_head.weight[text_size(self.world) :].detach().numpy()


def end_with_parent() -> None:
    """For a process that trains cells: it ends at once when the one that started it does, killed or not, and trains no cell that nobody waits for."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_cell(values: dict[str, Any]) -> dict[str, Any]:
    """`run` of the cell with these values: what another process is given."""
    return run(Cell(**values))


def run(cell: Cell) -> dict[str, Any]:
    """Train the cell's models; every figure as {name: value}. Pure in the cell: seeds are part of it."""
    started = time.process_time()  # one thread: core-seconds, whatever runs beside it
    torch.set_num_threads(1)  # cells run beside each other
    world = world_of(cell)
    figures = world.figures()

    def fitted(world: World, tasks: tuple[str, ...], steps: int | None = None) -> tuple[Fit, int]:
        fit = Fit(world, tasks, cell.seed, cell.tied)
        return fit, fit.steps(exactly=steps)

    joint, taken = fitted(world, TASKS)
    alone, taken_alone = fitted(world, (cell.read,))
    figures |= {"steps.joint": float(taken), "steps.single": float(taken_alone)}
    figures |= {f"joint.{task}": joint.recall(task) for task in TASKS}
    figures[f"single.{cell.read}"] = alone.recall(cell.read)
    figures[f"same_steps.{cell.read}"] = fitted(world, (cell.read,), taken)[0].recall(cell.read)
    for group, of_item in world.groups.items():
        figures |= {f"purity_{group}.{name}": worlds.purity(fit.output_rows(), of_item) for name, fit in (("joint", joint), ("single", alone))}
    if cell.study == "h1":
        removed, side = world.flattened(cell.seed), getattr(world, cell.read)
        # Which items are an answer at all is left, and the popular ones more often are: what drawing among these at random reaches.
        figures[f"removed_chance.{cell.read}"] = float(worlds.DEPTH * side.chances[:, np.unique(side.train.targets)].mean())
        figures[f"removed_joint.{cell.read}"] = fitted(removed, TASKS)[0].recall(cell.read)
        figures[f"removed_single.{cell.read}"] = fitted(removed, (cell.read,))[0].recall(cell.read)
    if cell.study == "h2" and cell.knob == 1.0:
        figures[f"shuffled.{cell.read}"] = fitted(world.shuffled(cell.seed), TASKS)[0].recall(cell.read)
    figures["seconds"] = time.process_time() - started
    return figures
