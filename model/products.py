"""Matrix products as fast as this machine has them, with the same digits: on a CPU by oneDNN, where torch's default, MKL, takes its AVX2 path on AMD.

Knows torch, the C library and the machine, no model.
"""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F


def has_bf16() -> bool:
    """Whether oneDNN multiplies bf16 on this CPU; torch's own loops take ten times as long as in fp32 (Zen 2: 4 GFLOP/s instead of 47)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(matrix: Tensor, relu: bool = False) -> Callable[[Tensor], Tensor]:
    """x ↦ x @ matrix.T, and max(0, ·) of it; on a CPU with the matrix packed once."""
    if matrix.is_cpu and (matrix.dtype == torch.float32 or has_bf16()):
        packed = torch.ops.mkldnn._reorder_linear_weight(matrix)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "relu" if relu else "none", [], "")
    return lambda x: F.linear(x, matrix).relu_() if relu else F.linear(x, matrix)


def same_by_onednn() -> bool:
    """Whether oneDNN, allowed to take bf16 for fp32, has nothing to take it with: it then multiplies in true fp32. Of other machines that is not known."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not (able["amx_bf16"] or able["avx10_2"])


@contextmanager
def by_onednn() -> Iterator[None]:
    """Products of two batches, as in attention, also go to oneDNN: 64 x 64 x 64, 62 GFLOP/s by MKL, 170 by oneDNN (one thread, Zen 5)."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if same_by_onednn() else before
    try:
        yield
    finally:
        matmul.fp32_precision = before


def one_worker() -> None:
    """This process is one of a core each: one thread, and what it frees it keeps.

    glibc else gives large blocks back to the kernel at every product, and takes them anew, page by page: 3 to 10 % of a beam search's time.
    """
    torch.set_num_threads(1)
    if platform.libc_ver()[0] == "glibc":
        most, trim = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(most, 0)
        ctypes.CDLL(None).mallopt(trim, 1 << 30)
