"""RQ-VAE: an auto-encoder whose hidden vector is a sum of codes, trained together with its codebooks.

One network for any number of sides, vectors of different spaces about the same items (GenSAR, arXiv 2504.05730, reference gensar 1.2 to 1.5): an
encoder and a decoder each; shared codebooks over all hidden vectors end to end, then codebooks of each side's own over what the shared ones leave of
it. One side with shared codebooks alone is the plain RQ-VAE.

The loss is the official code's: Σ sides MSE(v, v̂) + mean over levels of MSE(sg[r], e) + α MSE(r, sg[e]), straight-through from ẑ to z. There each
level's residual is detached from the one before, so that only the first level's commitment moves the encoders; `every_level` lets each one's.
Codebooks begin as k-means of the first batch. Sinkhorn balances a side's last level (`sinkhorn`, 0: off).

torch, for fitting alone: what it gives are `Quantizer`s of arrays. Knows vectors, no item and no table.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.collisions import sinkhorn, squared_distances
from model.identifiers import Layers, Quantizer, kmeans

log = logging.getLogger("tandem")

COMMITMENT = 0.25
BATCH, RATE, DECAY = 1024, 1e-3, 1e-5
STEPS = 1500  # of the plain one
WARMUP_SHARE = 0.1
CHECK_EPOCHS = 10  # between two looks at the collisions
ROWS = 16_384  # encoded at a time when looking


@dataclass(frozen=True)
class Plan:
    hidden: tuple[int, ...]  # widths between a side's vector and its hidden vector
    latent: int = 32
    sinkhorn: float = 0.0
    every_level: bool = False


PLAIN = Plan((256, 128))
PUBLISHED = (512, 256, 128, 64)  # hidden widths of the official setting (reference gensar 1.2)


@dataclass(frozen=True)
class Network:
    """encoders, decoders: of each side. shared: codebooks [codes, sides · latent]. own: of each side, codebooks [codes, latent]."""

    encoders: list[nn.Sequential]
    decoders: list[nn.Sequential]
    shared: list[nn.Parameter]
    own: list[list[nn.Parameter]]

    @property
    def parameters(self) -> list[nn.Parameter]:
        books = [*self.shared, *(book for side in self.own for book in side)]
        return [*(p for part in (*self.encoders, *self.decoders) for p in part.parameters()), *books]


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, Xavier-normal weights, zero biases. Draws from torch's global generator."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def quantize(residual: Tensor, codebook: Tensor, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """residual: [n, dim], codebook: [codes, dim] → a code int64 [n], and its row [n, dim], through which gradients reach the codebook.

    The nearest code, or with an epsilon the one that Sinkhorn balancing over all n gives.
    """
    if epsilon:
        code = torch.from_numpy(sinkhorn(squared_distances(residual.detach().numpy(), codebook.detach().numpy()), epsilon).argmax(axis=1))
    else:
        code = torch.cdist(residual, codebook).argmin(dim=1)
    return code, F.embedding(code, codebook)


def descend(hidden: Tensor, codebooks: Sequence[Tensor], epsilon: float = 0.0, every_level: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden: [n, dim] → codes int64 [n, levels], their sum [n, dim], what is left over [n, dim], and each level's loss [levels].

    epsilon: of the last level. Unless `every_level`, only the first level's commitment reaches `hidden`, and none reaches it through what is left.
    """
    residual, total = hidden, torch.zeros_like(hidden)
    codes, losses = torch.empty((len(hidden), len(codebooks)), dtype=torch.int64), []
    for level, codebook in enumerate(codebooks):
        codes[:, level], chosen = quantize(residual, codebook, epsilon if level == len(codebooks) - 1 else 0.0)
        losses.append(F.mse_loss(chosen, residual.detach()) + COMMITMENT * F.mse_loss(residual, chosen.detach()))
        total = total + chosen.detach()
        residual = residual - chosen.detach() if every_level else (residual - chosen).detach()
    return codes, total, residual, torch.stack(losses) if losses else hidden.new_zeros(0)


def descend_sides(
    hidden: Sequence[Tensor], shared: Sequence[Tensor], own: Sequence[Sequence[Tensor]], epsilon: float = 0.0, every_level: bool = False
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """hidden: of each side [n, latent] → of each side its codes int64 [n, levels], the shared ones first, and their sum [n, latent]; all levels' losses."""
    both, total, left, losses = descend(torch.cat(list(hidden), dim=1), shared, 0.0 if own[0] else epsilon, every_level)
    widths = [side.shape[1] for side in hidden]
    parts = [descend(side, books, epsilon, every_level) for side, books in zip(left.split(widths, dim=1), own, strict=True)]
    codes = [torch.cat([both, part[0]], dim=1) for part in parts]
    totals = [known + part[1] for known, part in zip(total.split(widths, dim=1), parts, strict=True)]
    return codes, totals, torch.cat([losses, *(part[3] for part in parts)])


def begin(hidden: Tensor, levels: int, codes: int, seed: int) -> list[nn.Parameter]:
    """A stack of codebooks: k-means of what each level's predecessors leave of the hidden vectors."""
    residual, books = hidden.detach(), []
    for level in range(levels):
        books.append(nn.Parameter(torch.from_numpy(kmeans(residual.numpy(), codes, seed + level).copy())))
        residual = descend(residual, books[-1:])[2]
    return books


def network(first: Sequence[Tensor], shared_levels: int, own_levels: int, codes: int, seed: int, plan: Plan) -> Network:
    """first: of each side the first batch [n, dim], of which the codebooks begin. Draws from torch's global generator."""
    encoders = [mlp((side.shape[1], *plan.hidden, plan.latent)) for side in first]
    decoders = [mlp((plan.latent, *plan.hidden[::-1], side.shape[1])) for side in first]
    both = torch.cat([encoder(side) for encoder, side in zip(encoders, first, strict=True)], dim=1)
    shared = begin(both, shared_levels, codes, seed)
    left = descend(both.detach(), shared)[2].split(plan.latent, dim=1)
    own = [begin(side, own_levels, codes, seed + shared_levels + own_levels * number) for number, side in enumerate(left)]
    return Network(encoders, decoders, shared, own)


def losses_of(net: Network, batch: Sequence[Tensor], plan: Plan) -> tuple[Tensor, Tensor]:
    """batch: of each side [n, dim] → reconstruction, the sides' sum, and the mean of the levels' losses."""
    hidden = [encoder(side) for encoder, side in zip(net.encoders, batch, strict=True)]
    _, totals, losses = descend_sides(hidden, net.shared, net.own, plan.sinkhorn, plan.every_level)
    sides = zip(net.decoders, hidden, totals, batch, strict=True)
    errors = [F.mse_loss(decoder(z + (total - z).detach()), side) for decoder, z, total, side in sides]
    return torch.stack(errors).sum(), losses.mean()


@torch.no_grad()
def colliding(net: Network, data: Sequence[Tensor]) -> float:
    """(n - distinct identifiers) / n, the mean over the sides, by the nearest codes."""
    held: list[list[Tensor]] = [[] for _ in data]
    for start in range(0, len(data[0]), ROWS):
        hidden = [encoder(side[start : start + ROWS]) for encoder, side in zip(net.encoders, data, strict=True)]
        for kept, codes in zip(held, descend_sides(hidden, net.shared, net.own)[0], strict=True):
            kept.append(codes)
    return float(np.mean([1 - len(torch.unique(torch.cat(codes), dim=0)) / len(data[0]) for codes in held]))


def train(sides: Sequence[np.ndarray], shared_levels: int, own_levels: int, codes: int, seed: int, plan: Plan, steps: int, check: int = 0) -> Network:
    """sides: float32 [n, dim], row by row about the same items. check: steps between two looks at the collisions, the fewest are kept; 0 keeps the end.

    The same vectors and seed give the same network on the same machine.
    """
    n, data = len(sides[0]), [torch.from_numpy(side) for side in sides]
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network([side[order[:BATCH]] for side in data], shared_levels, own_levels, codes, seed, plan)
    parameters = net.parameters
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    warmup = max(1, round(WARMUP_SHARE * steps))
    fewest, best, told = np.inf, None, time.monotonic()
    for step in range(steps):
        if len(order) < min(BATCH, n):
            order = np.concatenate([order, rng.permutation(n)])
        batch, order = [side[order[:BATCH]] for side in data], order[BATCH:]
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        error, codebook_loss = losses_of(net, batch, plan)
        optimizer.zero_grad()
        (error + codebook_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        # In the second half alone: of few items the codes of an untrained encoder collide least, and say nothing (1.2 of the variance unexplained).
        looked = check and step >= steps // 2 and ((step + 1) % check == 0 or step + 1 == steps)
        if looked and (share := colliding(net, data)) < fewest:
            fewest, best = share, [parameter.detach().clone() for parameter in parameters]
        if time.monotonic() - told > 10:
            told = time.monotonic()
            log.info("rq-vae: step %d of %d, reconstruction %.4f, codebooks %.4f, fewest collisions %.4f", step + 1, steps, error, codebook_loss, fewest)
    if best is not None:
        with torch.no_grad():
            for parameter, kept in zip(parameters, best, strict=True):
                parameter.copy_(kept)
    return net


def fit(vectors: np.ndarray, levels: int, codes: int, seed: int) -> Quantizer:
    """The plain one. vectors: float32 [n, dim]."""
    data, scale = scaled(vectors)
    net = train([data], levels, 0, codes, seed, PLAIN, STEPS)
    return Quantizer("rq_vae", arrays(net.shared), *layers(net, 0, scale))


def fit_sides(sides: dict[str, np.ndarray], shared_levels: int, own_levels: int, codes: int, seed: int, plan: Plan, epochs: int) -> dict[str, Quantizer]:
    """sides: by name float32 [n, dim] → by name its encoder, decoder and own codebooks, and `shared`: the codebooks of both hidden vectors end to end."""
    held = [scaled(side) for side in sides.values()]
    n = len(held[0][0])
    net = train([data for data, _ in held], shared_levels, own_levels, codes, seed, plan, -(-epochs * n // BATCH), max(1, CHECK_EPOCHS * n // BATCH))
    own = {name: Quantizer("rq_vae", arrays(net.own[i]), *layers(net, i, held[i][1])) for i, name in enumerate(sides)}
    return {"shared": Quantizer("rq_vae", arrays(net.shared))} | own


def scaled(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Elements of unit vectors are small: their error would weigh nothing beside the codes', and a wide side's less than a narrow one's."""
    scale = float(np.sqrt((vectors**2).mean())) or 1.0
    return (vectors / scale).astype(np.float32), scale


def arrays(books: Sequence[nn.Parameter]) -> tuple[np.ndarray, ...]:
    return tuple(book.detach().numpy() for book in books)


def layers(net: Network, side: int, scale: float) -> tuple[Layers, Layers]:
    """A side's encoder and decoder, for vectors as they were before they were scaled."""
    into, out_of = (
        [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in part[side] if isinstance(layer, nn.Linear)]
        for part in (net.encoders, net.decoders)
    )
    into[0] = (into[0][0] / scale, into[0][1])
    out_of[-1] = (out_of[-1][0] * scale, out_of[-1][1] * scale)
    return tuple(into), tuple(out_of)
