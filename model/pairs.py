"""Requests and what gensr's training makes of them: batches of one right and several wrong candidates, and the steps over them.

Knows arrays, the model and its loss; no table, no file. An epoch's batches and their negatives are functions of (seed, step).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from model import negatives
from model.contrast import contrast
from model.data import Examples, Ragged, as_integers, newest
from model.gensr import cross_entropy
from model.questions import TASKS, Prompts
from model.unified import parameter_groups
from model.vocabulary import Vocabulary

WEIGHT_DECAY, WARMUP = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class Requests(Examples):
    """Examples of TASKS, and pool: items that a word search finds for the query, of which hard negatives are drawn; empty for none."""

    pool: Ragged

    def take(self, rows: np.ndarray) -> "Requests":
        return Requests(**vars(super().take(rows)), pool=self.pool.take(rows))


def encode(table: pa.Table, item_ids: Sequence[str], vocabulary: Vocabulary, longest: int, pools: Callable[[list[str]], Ragged]) -> tuple[Requests, np.ndarray]:
    """Rows of corpora (task, user_id, history, query, target_item_id, event_ts) as integers, and which row each is; those whose target is not in the
    catalogue are left out.

    pools: queries → the items that a word search finds for each.
    """
    every = as_integers(table, TASKS, item_ids, vocabulary, longest, queries=False)
    rows = np.flatnonzero((every.target >= 0) & (every.task >= 0))
    asked = pc.fill_null(table["query"].take(pa.array(rows)), "").to_pylist()
    return Requests(**vars(every.take(rows)), pool=pools(asked)), rows


def interactions(requests: Requests) -> np.ndarray:
    """int64 [n, 2] of (user, item): all that the requests tell, their targets and what stands in their histories; each pair once."""
    owner = np.repeat(requests.user, requests.history.lengths)
    pairs = np.concatenate([np.stack([requests.user, requests.target], axis=1), np.stack([owner, requests.history.values], axis=1)])
    return np.unique(pairs.astype(np.int64), axis=0)


@dataclass(frozen=True)
class Drawing:
    """How negatives are drawn. counts: float [items], how popular each item is. hard: share of a search's negatives that come of its pool.

    new_only: recommendations are never of items in the history, so that these are no negatives of theirs. first: share that come of a first stage's answers,
    where these are given and the target is one of them: beside a target that is none, to be among them would be to be wrong, which is what a model learns then.
    """

    counts: np.ndarray
    per: int = 4
    hard: float = 0.5
    new_only: bool = False
    first: float = 0.0

    def candidates(self, requests: Requests, seed: tuple[int, ...], answers: Ragged | None = None) -> np.ndarray:
        """int64 [n, 1 + per]: the target, then its negatives. answers: what a first stage answers to each."""
        rng = np.random.default_rng(seed)
        barred = requests.history if self.new_only else None
        if barred is not None:
            kept = np.where(requests.task == TASKS.index("recommend"), barred.lengths, 0)
            owner = np.repeat(requests.task == TASKS.index("recommend"), barred.lengths)
            barred = Ragged(barred.values[owner], np.concatenate([[0], np.cumsum(kept)]))
        drawn = negatives.popular(requests.target, self.counts, self.per, rng, barred)
        pools = [(requests.pool, np.flatnonzero(requests.pool.lengths > 0), self.hard)]
        if answers is not None:
            owner = np.repeat(np.arange(len(requests)), answers.lengths)
            pools.append((answers, np.unique(owner[answers.values == requests.target[owner]]), self.first))
        for pool, rows, share in pools:
            if (most := round(share * self.per)) and len(rows):
                without = None if barred is None else barred.take(rows)
                found = negatives.hard(requests.target[rows], pool.take(rows), self.counts, self.per, rng, without)
                drawn[rows] = in_front(found[:, :most], drawn[rows])
        return np.concatenate([requests.target[:, None], drawn], axis=1)


def in_front(found: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """int64, as drawn [n, per]: each row's found items, then as many of its drawn ones, no item twice."""
    kept = [[n for n in own if n not in set(before)] for before, own in zip(found.tolist(), drawn.tolist(), strict=True)]
    return np.array([[*before, *own][: drawn.shape[1]] for before, own in zip(found.tolist(), kept, strict=True)], dtype=drawn.dtype)


@dataclass(frozen=True)
class Settings:
    steps: int = 400
    batch: int = 32  # requests
    rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """losses: cross-entropy of each pair, fp32 [n, C]. contrast: the contrastive loss between the views' history slots; 0 where there is one view, or no
    weight. states: [n, C, d_model]."""

    losses: Tensor
    contrast: Tensor
    states: Tensor


def answer(model: nn.Module, prompts: Prompts, requests: Requests, candidates: np.ndarray, limit: int) -> Answered:
    """model: a `GenSR`, bare or wrapped. candidates: int64 [n, C], the right one first."""
    device = next(model.parameters()).device
    asked = (prompts.sources(requests.task, requests.query), newest(requests.history, limit), prompts.queries(requests.task, requests.query))
    arrays = (*asked, candidates, requests.task.astype(np.int64))
    odds, slots, states = model(*(torch.from_numpy(array).to(device) for array in arrays))
    if len(prompts.form.views) < 2 or not prompts.form.weight:
        return Answered(cross_entropy(odds), torch.zeros((), device=device), states)
    users = torch.from_numpy(requests.user).to(device).repeat_interleave(slots.shape[1])
    return Answered(cross_entropy(odds), contrast(slots[:, :, 0].flatten(0, 1), slots[:, :, 1].flatten(0, 1), users), states)


def batches(requests: Requests, settings: Settings) -> Iterator[np.ndarray]:
    """Rows of each step's batch: shuffled passes, both tasks in their own proportion."""
    rng, order = np.random.default_rng((settings.seed, 1)), np.empty(0, np.int64)
    for _ in range(settings.steps):
        while len(order) < settings.batch:
            order = np.concatenate([order, rng.permutation(len(requests))])
        yield order[: settings.batch]
        order = order[settings.batch :]


def train(model: nn.Module, prompts: Prompts, requests: Requests, drawing: Drawing, settings: Settings, limit: int) -> Iterator[tuple[int, float, float]]:
    """Steps of training; after each (step, mean cross-entropy in nats, contrastive loss) of its batch. Cut it off to stop early."""
    groups = parameter_groups(model, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups, lr=settings.rate)
    warmup = max(1, round(WARMUP * settings.steps))
    for step, rows in enumerate(batches(requests, settings)):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
        model.train()
        batch = requests.take(rows)
        told = answer(model, prompts, batch, drawing.candidates(batch, (settings.seed, 2, step)), limit)
        loss = told.losses.mean()
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min((step + 1) / warmup, max(0.02, (settings.steps - step) / max(1, settings.steps - warmup)))
        optimizer.zero_grad(set_to_none=True)
        (loss + prompts.form.weight * told.contrast).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step + 1, float(loss.detach()), float(told.contrast.detach())
