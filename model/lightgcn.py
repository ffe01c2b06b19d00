"""LightGCN: vectors of users and items from who acted on what (He et al. 2020, arXiv 2002.02126).

A vector is the mean of its own row and of what one and two hops of the normalised graph bring to it (equations 3, 4 and 8); the rows alone are learnt,
by BPR. The whole is linear in the rows, so the gradient of the rows is the same propagation once more: no sparse product needs autograd.

Arrays in, arrays out. Knows no table; which interactions may be seen (training ones, of both behaviours) is the caller's to choose.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

DIM, LAYERS = 64, 2  # GenSR's (reference gensr 1.2)
BATCH, EPOCHS, RATE, DECAY = 4096, 40, 0.01, 1e-4
FEWEST = 200  # steps, however short the log: a small graph is one batch per epoch
INITIAL_STD = 0.1


def graph(pairs: np.ndarray, users: int, items: int) -> Tensor:
    """float32 sparse [users + items, users + items]: each edge 1 / √(degree · degree), symmetric; a repeated pair is one edge."""
    pairs = np.unique(pairs, axis=0)
    ones = np.ones(2 * len(pairs), np.float32)
    left, right = pairs[:, 0], pairs[:, 1] + users
    edges = sparse.csr_matrix((ones, (np.concatenate([left, right]), np.concatenate([right, left]))), shape=(users + items, users + items))
    scale = sparse.diags(np.maximum(np.asarray(edges.sum(axis=1)).ravel(), 1) ** -0.5)
    normal = (scale @ edges @ scale).tocsr().astype(np.float32)
    return torch.sparse_csr_tensor(torch.from_numpy(normal.indptr), torch.from_numpy(normal.indices), torch.from_numpy(normal.data), normal.shape)


def propagated(rows: Tensor, adjacency: Tensor, layers: int) -> Tensor:
    """float32 [nodes, dim]: the mean over 0 … layers hops. Its own transpose, as the graph is symmetric."""
    total, hop = rows, rows
    for _ in range(layers):
        hop = adjacency @ hop
        total = total + hop
    return total / (layers + 1)


def fit(pairs: np.ndarray, users: int, items: int, seed: int, dim: int = DIM, layers: int = LAYERS) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users float32 [users, dim] and items float32 [items, dim]; zeros for whoever stands in no pair.

    pairs: int64 [n, 2] of user and item numbers. One negative per pair, drawn evenly from the items, as in the paper. The same arguments give the
    same vectors on the same machine. Raises ValueError where there is no pair.
    """
    if not len(pairs):
        raise ValueError("LightGCN was given no interaction to learn from: expected at least one training pair")
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    adjacency = graph(pairs, users, items)
    rows = torch.randn(users + items, dim, generator=generator).mul_(INITIAL_STD).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=RATE, fused=True)
    steps, order = max(FEWEST, EPOCHS * -(-len(pairs) // BATCH)), np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < min(BATCH, len(pairs)):
            order = np.concatenate([order, rng.permutation(len(pairs))])
        chosen, order = pairs[order[:BATCH]], order[BATCH:]
        user, liked = torch.from_numpy(chosen[:, 0]), torch.from_numpy(chosen[:, 1] + users)
        other = torch.from_numpy(rng.integers(0, items, len(chosen)) + users)
        with torch.no_grad():
            vectors = propagated(rows, adjacency, layers)
        vectors.requires_grad_()
        # Not vectors[user]: its gradient is added up by several threads in any order, and no two trainings were alike.
        of_user, of_liked, of_other = (F.embedding(part, vectors) for part in (user, liked, other))
        margin = (of_user * (of_liked - of_other)).sum(dim=1)
        F.softplus(-margin).mean().backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        rows.grad = propagated(vectors.grad, adjacency, layers)
        for part in (user, liked, other):  # the paper's penalty is on the rows of the batch, not on their propagation
            rows.grad.index_add_(0, part, rows.detach()[part], alpha=DECAY / len(chosen))
        optimizer.step()
    with torch.no_grad():
        vectors = propagated(rows, adjacency, layers).numpy().copy()
    known = np.zeros(users + items, dtype=bool)
    known[pairs[:, 0]] = known[pairs[:, 1] + users] = True
    vectors[~known] = 0
    return vectors[:users], vectors[users:]
