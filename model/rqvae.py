"""RQ-VAE: an auto-encoder whose hidden vector is a sum of codes, trained together with its codebooks.

The form of GenSAR's official code (arXiv 2504.05730, reference gensar 1.4): L = MSE(v, v̂) + mean over levels of
MSE(sg[r], e) + α MSE(r, sg[e]), straight-through from ẑ to z, each level's residual detached from the one before, codebooks begun by k-means.
The pieces (`descend`, `begin`, `mlp`) take one stack of codebooks each: shared and specific stacks are several calls.

torch, for fitting alone: what it gives is a `Quantizer` of arrays. Knows vectors, no item and no table.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.identifiers import Layers, Quantizer, kmeans

HIDDEN = (256, 128)
LATENT = 32
COMMITMENT = 0.25
BATCH, RATE, DECAY = 1024, 1e-3, 1e-5
STEPS = 1500
WARMUP = 100


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, Xavier-normal weights, zero biases. Draws from torch's global generator."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def quantize(residual: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """residual: [n, dim], codebook: [codes, dim] → the nearest code int64 [n], and its row [n, dim], through which gradients reach the codebook."""
    code = torch.cdist(residual, codebook).argmin(dim=1)
    return code, F.embedding(code, codebook)


def descend(hidden: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden: [n, dim] → codes int64 [n, levels], their sum [n, dim], what is left over [n, dim], and each level's loss [levels].

    Only the first level's commitment reaches the encoder: the later residuals are detached, as in the official code.
    """
    residual, total = hidden, torch.zeros_like(hidden)
    codes, losses = [], []
    for codebook in codebooks:
        code, chosen = quantize(residual, codebook)
        losses.append(F.mse_loss(chosen, residual.detach()) + COMMITMENT * F.mse_loss(residual, chosen.detach()))
        codes.append(code)
        total = total + chosen.detach()
        residual = (residual - chosen).detach()
    return torch.stack(codes, dim=1), total, residual, torch.stack(losses)


def begin(hidden: Tensor, levels: int, codes: int, seed: int) -> list[nn.Parameter]:
    """A stack of codebooks: k-means of what each level's predecessors leave of the hidden vectors."""
    residual, books = hidden.detach().numpy(), []
    for level in range(levels):
        books.append(nn.Parameter(torch.from_numpy(kmeans(residual, codes, seed + level).copy())))
        residual = descend(torch.from_numpy(residual), books[-1:])[2].numpy()
    return books


def fit(vectors: np.ndarray, levels: int, codes: int, seed: int) -> Quantizer:
    """vectors: float32 [n, dim]. The same vectors and seed give the same quantizer on the same machine."""
    n, dim = vectors.shape
    scale = float(np.sqrt((vectors**2).mean())) or 1.0  # elements of unit vectors are small: their error would weigh nothing beside the codes'
    data = torch.from_numpy(vectors / scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = mlp((dim, *HIDDEN, LATENT)), mlp((LATENT, *HIDDEN[::-1], dim))
        books = begin(encoder(data), levels, codes, seed)
    groups = [*encoder.parameters(), *decoder.parameters(), *books]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY)
    rng, order = np.random.default_rng(seed), np.empty(0, np.int64)
    for step in range(STEPS):
        if len(order) < min(BATCH, n):
            order = np.concatenate([order, rng.permutation(n)])
        batch, order = data[order[:BATCH]], order[BATCH:]
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))
        hidden = encoder(batch)
        _, total, _, losses = descend(hidden, books)
        loss = F.mse_loss(decoder(hidden + (total - hidden).detach()), batch) + losses.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(groups, 1.0)
        optimizer.step()
    into, out_of = layers_of(encoder), layers_of(decoder)
    into = ((into[0][0] / scale, into[0][1]), *into[1:])
    out_of = (*out_of[:-1], (out_of[-1][0] * scale, out_of[-1][1] * scale))
    return Quantizer("rq_vae", tuple(book.detach().numpy() for book in books), into, out_of)


def layers_of(network: nn.Sequential) -> Layers:
    return tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in network if isinstance(layer, nn.Linear))
