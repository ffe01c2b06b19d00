"""Slots: places of a prompt that hold given vectors instead of words.     torch only; knows tokens, neither items nor tasks.

A source is int64 [B, T] of vocabulary tokens; the numbers -1, -2, … in it are slots 0, 1, …. They are no rows of the vocabulary, so that a model with slots has
the same vocabulary as one without.

Words do not look at slots, slots look at everything. What the words of a prompt become is then the same for every candidate whose vectors fill its slots:
a scorer encodes a request's words once, exactly, and not once per candidate. Nor does a slot look at itself: nothing is as like it as it is, so that it would
see little of what else is like it, and its residual carries it anyway.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.vocabulary import PAD


def mark(slot: int) -> int:
    """The number that stands for the slot in a source."""
    return -1 - slot


def embed(shared: Tensor, source: Tensor, slots: Tensor) -> Tensor:
    """shared: [vocabulary, d]. source: int64 [B, T]. slots: [B, slots, d] → [B, T, d], every place filled in one pass."""
    words = F.embedding(source.clamp(min=0), shared)
    number = (-1 - source).clamp(min=0)
    given = slots.to(words.dtype).gather(1, number[..., None].expand(*number.shape, slots.shape[-1]))
    return torch.where((source < 0)[..., None], given, words)


def sight(source: Tensor, dtype: torch.dtype) -> Tensor:
    """What the encoder's attention adds to its scores, [B, 1, T, T]: 0 where a place (row) may look at another (column), else the dtype's least number."""
    slot = source < 0
    own = torch.eye(source.shape[1], dtype=torch.bool, device=source.device) & slot[:, :, None]
    open_ = (source != PAD)[:, None, :] & (slot[:, :, None] | ~slot[:, None, :]) & ~own
    return torch.zeros(open_.shape, dtype=dtype, device=source.device).masked_fill_(~open_, torch.finfo(dtype).min)[:, None]
