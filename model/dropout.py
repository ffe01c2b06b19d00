"""Dropout whose mask is drawn eight elements per random number.     torch only.

On a CPU torch draws a mask element by element on one thread: a quarter of a training step of the tiny model, more beside a busy process
(measured on two cores: 852k elements with gradient, 1.6 ms instead of 8 to 64). On a GPU torch's own is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def random_bytes(x: Tensor) -> Tensor:
    """uint8, a random byte per element of x."""
    return torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)


# To a compiler one operation: one that looks into it makes a loop of it that draws element by element.
opaque_bytes = torch.library.custom_op("tandem::random_bytes", random_bytes, mutates_args=())
opaque_bytes.register_fake(lambda x: torch.empty(x.shape, dtype=torch.uint8, device=x.device))


def dropped(x: Tensor, p: float) -> Tensor:
    """F.dropout with `p` rounded to 1/256 on a CPU, so that one random byte decides an element. Draws from torch's global generator."""
    if not p:
        return x
    if not x.is_cpu:
        return F.dropout(x, p)
    out_of_256 = round(p * 256)
    if torch.compiler.is_compiling():
        return DroppedByNumbers.apply(x, opaque_bytes(x), out_of_256)
    return x * (random_bytes(x) >= out_of_256).to(x.dtype).mul_(256 / (256 - out_of_256))


class DroppedByNumbers(torch.autograd.Function):
    """`dropped` of these bytes, in numbers alone and keeping nothing but the bytes: compiled loops over booleans are several times as slow (torch 2.15)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, drawn: Tensor, out_of_256: int) -> Tensor:
        ctx.save_for_backward(drawn)
        ctx.out_of_256 = out_of_256
        return x * factor(drawn, out_of_256, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (drawn,) = ctx.saved_tensors
        return gradient * factor(drawn, ctx.out_of_256, gradient.dtype), None, None


def factor(drawn: Tensor, out_of_256: int, dtype: torch.dtype) -> Tensor:
    """0 where a byte is below `out_of_256`, else what keeps the mean."""
    return ((drawn.float() - (out_of_256 - 1)).clamp(0, 1) * (256 / (256 - out_of_256))).to(dtype)


class Dropout(nn.Module):
    """nn.Dropout by `dropped`."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.p) if self.training else x


def replace_dropout(model: nn.Module) -> None:
    """Put it in the place of every nn.Dropout of the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))
