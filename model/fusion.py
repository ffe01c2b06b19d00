"""Two vectors of an item into one (arXiv 2508.10478, section on fusion).     numpy only; knows no item, no table.

Each side comes to unit length first, so that neither outweighs the other; a side of zeros (nothing known) adds nothing.
"""

import numpy as np

from model.encoders import unit


def concatenated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [n, d1 + d2]."""
    return np.concatenate([unit(first), unit(second)], axis=1)


def added(first: np.ndarray, second: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """float32 [n, dim]: the wider one brought to the other's dimension by `axes` (float [wider, dim]) and to unit length again; then the sum."""
    wide, narrow = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    return unit(unit(wide) @ axes) + unit(narrow)


def principal_axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [wider, narrower dimension]: the first right singular vectors of the wider one's rows (of unit length, not centred), each turned
    so that its largest part is positive."""
    wide, narrow = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    rows = unit(wide).astype(np.float64)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, : narrow.shape[1]]
    return (axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])).astype(np.float32)
