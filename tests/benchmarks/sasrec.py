"""SASRec, a rival: causal self-attention over a user's items (Kang & McAuley 2018), full-softmax cross-entropy (Klenitskiy & Vasilev 2023).

Learns from the same training examples as tandem's model, from every position of a user's sequence at once, and answers the same test
examples. Torch alone; knows no file.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, LENGTH, DROPOUT = 128, 2, 2, 20, 0.5


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout.p if self.training else 0.0)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(rows, length, width)))
        return x + self.dropout(self.narrow(self.dropout(F.gelu(self.widen(self.between(x))))))


class SASRec(nn.Module):
    """items: catalogue size; row `items` of the embedding is padding, on the left."""

    def __init__(self, items: int, width: int, layers: int, heads: int, length: int, dropout: float):
        super().__init__()
        self.items, self.length = items, length
        self.item, self.position = nn.Embedding(items + 1, width, padding_idx=items), nn.Embedding(length, width)
        nn.init.normal_(self.item.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.last, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """history: int64 [B, T ≤ length]. Returns states [B, T, width]: each position's view of what comes next."""
        length = history.shape[1]
        x = self.dropout(self.item(history) * math.sqrt(self.item.embedding_dim) * 0.5 + self.position.weight[-length:])
        causal = torch.tril(torch.ones(length, length, dtype=torch.bool))
        mask = (causal & (history != self.items)[:, None, :]) | torch.eye(length, dtype=torch.bool)
        for block in self.blocks:
            x = block(x, mask[:, None])
        return self.last(x)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return states @ self.item.weight[: self.items].T


def padded(sequences: Sequence[np.ndarray], length: int, padding: int) -> torch.Tensor:
    rows = np.full((len(sequences), min(length, max(map(len, sequences)))), padding, np.int64)
    for i, sequence in enumerate(sequences):
        kept = sequence[-rows.shape[1] :]
        rows[i, rows.shape[1] - len(kept) :] = kept
    return torch.from_numpy(rows)


@torch.inference_mode()
def scores(model: SASRec, histories: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [n, items]; the history's items at -inf."""
    model.eval()
    found = model.logits(model(padded(histories, model.length, model.items))[:, -1]).numpy()
    for row, history in zip(found, histories, strict=True):
        row[history] = -np.inf
    return found


def ranks(model: SASRec, histories: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """int64 [n], 1 is best; one beyond the catalogue where the target stands in the history, and so is never answered."""
    made = []
    for first in range(0, len(histories), 512):
        found = scores(model, histories[first : first + 512])
        target = targets[first : first + 512]
        own = found[np.arange(len(target)), target]
        made.append(np.where(np.isfinite(own), 1 + (found > own[:, None]).sum(axis=1), model.items + 1))
    return np.concatenate(made)


def save(model: SASRec, path: Path) -> None:
    save_file(model.state_dict(), path)


def load(path: Path, items: int) -> SASRec:
    """A model of the default sizes."""
    model = SASRec(items, WIDTH, LAYERS, HEADS, LENGTH, DROPOUT)
    model.load_state_dict(load_file(path))
    return model


def train(
    sequences: Sequence[np.ndarray],
    valid: tuple[Sequence[np.ndarray], np.ndarray],
    items: int,
    seed: int,
    width: int = WIDTH,
    layers: int = LAYERS,
    heads: int = HEADS,
    length: int = LENGTH,
    dropout: float = DROPOUT,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    batch_size: int = 128,
    epochs: int = 60,
    patience: int = 4,
    look: int = 4,
    smoothing: float = 0.0,
) -> tuple[SASRec, list[dict[str, float]]]:
    """The model at its best validation NDCG@10 (whole catalogue), looked at every `look` epochs, and the curve."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SASRec(items, width, layers, heads, length, dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    usable = [sequence for sequence in sequences if len(sequence) > 1]
    best, kept, curve, started = -1.0, None, [], time.monotonic()
    for epoch in range(1, epochs + 1):
        model.train()
        order, total = rng.permutation(len(usable)), 0.0
        for first in range(0, len(order), batch_size):
            chosen = [usable[i][-length - 1 :] for i in order[first : first + batch_size]]
            history, target = (padded(part, length, items) for part in ([s[:-1] for s in chosen], [s[1:] for s in chosen]))
            held = target != items
            loss = F.cross_entropy(model.logits(model(history)[held]), target[held], label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        if epoch % look and epoch != epochs:
            continue
        found = ranks(model, *valid)
        point = {"epoch": epoch, "loss": total / len(order), "recall@10": float((found <= 10).mean()), "seconds": round(time.monotonic() - started, 1)}
        point["ndcg@10"] = float(np.where(found <= 10, 1 / np.log2(found + 1), 0).mean())
        curve.append(point)
        print(f"sasrec seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in point.items()), flush=True)
        if point["ndcg@10"] > best:
            best, kept = point["ndcg@10"], {name: weight.clone() for name, weight in model.state_dict().items()}
        elif point["ndcg@10"] < best and len(curve) - 1 - max(range(len(curve)), key=lambda i: curve[i]["ndcg@10"]) >= patience:
            break
    model.load_state_dict(kept)
    return model, curve
