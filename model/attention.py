"""T5's attention for training, where torch has no fused kernel for it: on a CPU, with dropout, and a position bias that is learnt.

Knows tensors and transformers' register of attentions; nothing of what attends to what.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model.dropout import dropped

NAME = "tandem"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query, key, value: [B, heads, T, d]. Masks are added to the scores (T5 scales none). Returns [B, T, heads, d].

    With a bias that takes a gradient, torch's fused kernels stand back, and what it does instead takes twice as long (256 × 112 tokens, 4 heads of 32);
    a whole step of gensar's training 1.3 times.
    """
    if not query.is_cpu:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, dropout=dropout, position_bias=position_bias, **others)
    scores = query @ key.transpose(2, 3)
    for bias in (position_bias, attention_mask):
        if bias is not None:
            scores += bias
    weights = dropped(torch.softmax(scores, dim=-1), dropout)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
