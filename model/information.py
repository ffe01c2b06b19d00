"""How much a model's input tells of its answer, and whether two tasks pull one network the same way: GenSR's central claim, measured.

arXiv 2504.06714 says that low mutual information between inputs and task outputs is why the gradients of search and recommendation conflict; its estimator
is not known (reference gensr 2), so these are ours. All values are in nats, of held-out pairs, and lower bounds in expectation:

    barber_agakov      H(Y) - cross-entropy of the model's own answers (Barber & Agakov 2003)
    donsker_varadhan   a critic trained on the model's state, judged on pairs it has not seen (MINE, Belghazi et al. 2018); does not use the answers

Knows tensors and parameters; no item, no task, no table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, STEPS, EVERY, RATE, DECAY = 32, 200, 10, 1e-2, 1e-2  # of the critic


@dataclass(frozen=True)
class Estimate:
    """value ± error, the standard error over requests, whose pairs are not independent."""

    value: float
    error: float


def entropy(p: float) -> float:
    """Of a yes that comes with probability p, in nats."""
    return float(sum(-q * np.log(q) for q in (p, 1 - p) if q > 0))


def barber_agakov(losses: np.ndarray, positives: int = 1) -> Estimate:
    """losses: cross-entropy of each pair in nats, [requests, candidates], of which `positives` of each request are right."""
    of_request = losses.mean(axis=1)
    return Estimate(entropy(positives / losses.shape[1]) - float(of_request.mean()), standard_error(of_request))


def donsker_varadhan(states: np.ndarray, labels: np.ndarray, seed: int) -> Estimate:
    """I(state; label) ≥ E[T(x, y)] - ln E[e^T(x, y')], y' drawn apart from x; the best critic T wanted.

    states: float [requests, candidates, d]. labels: bool, the same shape without d. Two critics, each trained on the requests that the other is judged on;
    y' is summed over instead of drawn. The error is that of the first term, the second being a mean of many more.
    """
    half = np.random.default_rng(seed).permutation(len(states)) % 2 == 0
    scale = states.reshape(-1, states.shape[-1]).std(axis=0) + 1e-6
    x, y = torch.from_numpy((states / scale).astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    share = float(labels.mean())
    log_prior = torch.tensor([1 - share, share]).clamp(min=1e-12).log()
    values, terms = [], []
    for train in (half, ~half):
        critic = fitted(x[train], y[train], log_prior, seed)
        with torch.no_grad():
            first, value = told_by(critic, x[~train], y[~train], log_prior)
            values.append(float(value))
            terms.append(first.mean(dim=1).numpy())
    return Estimate(float(np.mean(values)), standard_error(np.concatenate(terms)))


def fitted(x: Tensor, y: Tensor, log_prior: Tensor, seed: int) -> nn.Module:
    """The critic that told most, of all that its training came by, on a quarter of the requests which it was not trained on; it begins knowing nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = nn.Sequential(nn.Linear(x.shape[-1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
    nn.init.zeros_(critic[2].weight)
    nn.init.zeros_(critic[2].bias)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=RATE, weight_decay=DECAY)
    chosen = torch.arange(len(x)) % 4 == 0
    best, kept = -float("inf"), critic.state_dict()
    for step in range(STEPS):
        loss = -told_by(critic, x[~chosen], y[~chosen], log_prior)[1]
        if step % EVERY == 0:
            with torch.no_grad():
                value = float(told_by(critic, x[chosen], y[chosen], log_prior)[1])
            if value > best:
                best, kept = value, {name: weight.clone() for name, weight in critic.state_dict().items()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.load_state_dict(kept)
    return critic


def told_by(critic: nn.Module, x: Tensor, y: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """T of each pair, and the bound it gives."""
    told = critic(x)
    first = told.gather(-1, y[..., None])[..., 0]
    return first, first.mean() - log_mean(told, log_prior)


def log_mean(told: Tensor, log_prior: Tensor) -> Tensor:
    """ln of the mean of e^told over all x and, by the prior, over y. told: [..., 2]."""
    summed = (told + log_prior).logsumexp(dim=-1).flatten()
    return summed.logsumexp(dim=0) - float(np.log(len(summed)))


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def gradient_cosines(first: Tensor, second: Tensor, groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, float]:
    """Group → cosine of the two losses' gradients with respect to its parameters, flattened; nan where one of them has none."""
    parameters = list({id(p): p for group in groups.values() for p in group}.values())
    place = {id(p): n for n, p in enumerate(parameters)}
    sides = []
    for loss in (first, second):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        sides.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)])
    flat = {name: [torch.cat([side[place[id(p)]].flatten() for p in group]) for side in sides] for name, group in groups.items()}
    return {name: float(F.cosine_similarity(*pair, dim=0)) if all(side.any() for side in pair) else float("nan") for name, pair in flat.items()}
