"""The contrastive loss between two views of the same row (arXiv 2504.06714; reference gensr 1.3): symmetric, in the batch.     torch only.

Both sides have unit length, and nothing after it: a LayerNorm behind the normalisation, as in the official code, undoes it (logits of ± 390 at τ = .07,
an initial loss of 850 instead of ln B).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07


def contrast(left: Tensor, right: Tensor, owner: Tensor) -> Tensor:
    """Mean over both directions of each row's cross-entropy of its own partner among the batch's; 0 where all rows are one owner's.

    left, right: [B, d]. owner: int64 [B]; another row of the same owner is no wrong answer: its history is nearly the same.
    """
    scores = F.normalize(left.float(), dim=1) @ F.normalize(right.float(), dim=1).T / TEMPERATURE
    same = owner[:, None] == owner
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -torch.inf)
    own = torch.arange(len(owner), device=owner.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
