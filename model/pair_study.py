"""One cell of the study of GenSR's claim: a form trained on a known world, how much its pairs tell of their answers, and how its tasks pull.

    gensr        two prompts, one pair of answer words
    one_prompt   one prompt for both tasks
    twin         one prompt, and answer rows of each task: a shared trunk with two heads
    without_…    gensr less a view, the candidate-aware filter (the mean of the history instead), or the contrastive loss
    unmatched    gensr without our slot of how a candidate's text meets the query
    …_alone      gensr trained on one task, in half the steps: as many of its requests; LightGCN's table is that of both

All begin at the same weights, and those of both tasks see the same batches. Pure in the cell: its seed is part of it. Knows no table.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model import lightgcn, pair_worlds
from model.gensr import GenSR, look_for_alike
from model.information import barber_agakov, donsker_varadhan, gradient_cosines
from model.pair_worlds import PairWorld
from model.pairs import Answered, Drawing, Requests, Settings, answer, train
from model.questions import TASKS, Form, Prompts, text_rows
from model.unified import from_sizes

ARMS = {
    "gensr": Form(),
    "one_prompt": Form(prompts="shared"),
    "twin": Form(prompts="shared", answers="per_task"),
    "without_collaborative": Form(views=("semantic",)),
    "without_semantic": Form(views=("collaborative",)),
    "without_filter": Form(filter="mean"),
    "without_contrast": Form(weight=0.0),
    "unmatched": Form(match=False),
    "recommend_alone": Form(),
    "search_alone": Form(),
}
BOTH = tuple(range(len(TASKS)))
LIMIT, WORDS, DROPOUT = 8, 16, 0.1
EVERY, PROBED, AT_ONCE = 50, 300, 100  # steps between two looks; test requests of each task that are looked at; of them in one pass


@dataclass(frozen=True)
class Cell:
    arm: str
    seed: int
    steps: int = 400
    size: str = "micro"


class Fit:
    """A model of the world, before and after its training on the tasks (their numbers)."""

    def __init__(self, world: PairWorld, form: Form, settings: Settings, size: str, drawing: Drawing, tasks: tuple[int, ...] = BOTH):
        self.world, self.settings, self.drawing, self.tasks = world, settings, drawing, tasks
        torch.manual_seed(settings.seed)
        unified = from_sizes(size, world.vocabulary.text_size, form.level_sizes, DROPOUT, False)
        look_for_alike(unified)
        _, table = lightgcn.fit(world.pairs, world.users, len(world.taste), settings.seed)
        self.model = GenSR(unified, form, table, text_rows(world.texts, WORDS), LIMIT, DROPOUT, drawing.per)
        self.prompts = Prompts(world.vocabulary, form, WORDS)

    def asked(self, task: int) -> Requests:
        return self.world.test.take(np.flatnonzero(self.world.test.task == task)[:PROBED])

    def answered(self, requests: Requests, seed: tuple[int, ...] = (0, 9)) -> Answered:
        self.model.eval()
        return answer(self.model, self.prompts, requests, self.drawing.candidates(requests, seed), LIMIT)

    @torch.no_grad()
    def look(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """(losses [requests, candidates], states [requests, candidates, d_model]) of the task's test requests."""
        asked = self.asked(task)
        parts = [self.answered(asked.take(np.arange(first, min(first + AT_ONCE, len(asked))))) for first in range(0, len(asked), AT_ONCE)]
        return torch.cat([part.losses for part in parts]).numpy(), torch.cat([part.states for part in parts]).numpy()

    def cosines(self) -> dict[str, float]:
        """Of the two tasks' gradients on test requests, in the encoder: its first self-attention, and all of its blocks; nothing for one task alone."""
        if self.tasks != BOTH:
            return {}
        blocks = self.model.unified.t5.encoder.block
        groups = {"first": list(blocks[0].layer[0].SelfAttention.parameters()), "all": list(blocks.parameters())}
        first, second = (self.answered(self.asked(task).take(np.arange(32))).losses.mean() for task in range(len(TASKS)))
        return gradient_cosines(first, second, groups)

    def train(self) -> list[dict[str, float]]:
        """The curve: a point every EVERY steps."""
        curve, learnt = [], self.world.train.take(np.flatnonzero(np.isin(self.world.train.task, self.tasks)))
        for step, loss, contrast in train(self.model, self.prompts, learnt, self.drawing, self.settings, LIMIT):
            if step % EVERY == 0 or step == 1:
                point = {"step": float(step), "loss": loss, "contrast": contrast}
                point |= {f"valid_{TASKS[task]}": float(self.look(task)[0].mean()) for task in self.tasks}
                curve.append(point | {f"cosine_{name}": value for name, value in self.cosines().items()})
        return curve

    def figures(self) -> dict[str, float]:
        """Per task: the information there is, both estimates of what is used, and how often the right candidate comes first."""
        found = {}
        for task in self.tasks:
            name, (losses, states) = TASKS[task], self.look(task)
            labels = np.zeros(losses.shape, dtype=bool)
            labels[:, 0] = True
            own, critic = barber_agakov(losses), donsker_varadhan(states, labels, self.settings.seed)
            found |= {f"bound.{name}": own.value, f"bound_error.{name}": own.error, f"critic.{name}": critic.value, f"critic_error.{name}": critic.error}
            found[f"information.{name}"] = self.world.information(name, self.drawing.per)
        return found


def train_cell(values: dict[str, Any]) -> dict[str, float]:
    """`run` of the cell with these values, in a process of its own, as one flat dict: figures, and NAME@STEP of the curve."""
    started = time.process_time()
    torch.set_num_threads(1)
    figures, curve = run(Cell(**values))
    along = {f"{name}@{int(point['step'])}": value for point in curve for name, value in point.items() if name != "step"}
    return figures | along | {"seconds": time.process_time() - started}


def run(cell: Cell) -> tuple[dict[str, float], list[dict[str, float]]]:
    """(figures, curve)."""
    world = pair_worlds.tastes_and_topics(cell.seed, users=600, tastes=4, topics=8, personal=False)
    drawing = Drawing(np.zeros(len(world.taste)), hard=0.0)
    tasks = tuple(task for task in BOTH if cell.arm == f"{TASKS[task]}_alone") or BOTH
    settings = Settings(steps=cell.steps * len(tasks) // len(BOTH), seed=cell.seed)
    fit = Fit(world, ARMS[cell.arm], settings, cell.size, drawing, tasks)
    curve = fit.train()
    return fit.figures() | mean_cosines(curve), curve


def mean_cosines(curve: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over training; the first point is left out: before a step, the answer rows are zeros, and no gradient passes them."""
    return {name: float(np.mean([point[name] for point in curve[1:]])) for name in curve[-1] if name.startswith("cosine")}
