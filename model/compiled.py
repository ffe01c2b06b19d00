"""The blocks of a model, compiled for training: `train.compiled`.     torch only; knows the backbone's modules, no data.

Left to itself torch 2.15's compiler makes training on a CPU slower: it keeps and reads booleans (which inputs of a ReLU were positive, what a mask
hides) element by element. So what has a mask here says it in numbers: the ReLU below, `model.dropout`, and masks that are added (`model.unified`).
"""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

HUGE = 1e38  # times this, any positive number that is no subnormal is at least 1


class ReluByNumbers(torch.autograd.Function):
    """torch's own, but for what it keeps: its output, not a mask of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (y.float() * HUGE).clamp(0, 1).to(gradient.dtype)


class Relu(nn.Module):
    """nn.ReLU by `ReluByNumbers`."""

    def forward(self, x: Tensor) -> Tensor:
        return ReluByNumbers.apply(x)


def missing() -> str | None:
    """What this machine lacks to compile, in words."""
    compiler, header = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
    if not shutil.which(compiler):
        return f"no C++ compiler found ({compiler}; CXX names another)"
    return None if header.exists() else f"Python's headers are not here ({header}; on Debian and Ubuntu: python3-dev)"


def compile_blocks(model: nn.Module) -> None:
    """Encoder and decoder of the T5 in it; what is around them stays as it is. The first batches take a minute or two."""
    for stack in (stack for t5 in model.modules() if isinstance(t5, T5ForConditionalGeneration) for stack in (t5.encoder, t5.decoder)):
        for module in stack.modules():
            if isinstance(getattr(module, "act", None), nn.ReLU):
                module.act = Relu()
        stack.compile(dynamic=True)  # batches have many lengths
