"""Items of one identifier, told apart by their last code (GenSAR, arXiv 2504.05730, reference gensar 1.5 and 1.6).

Two steps, each within the items that share all codes but the last, since nothing else can change:
repaired   items of one code are coded again, they alone, by Sinkhorn balancing: at most 20 rounds, as in the official code
parted     ours, for what is left: the first item of a code keeps it, each other takes the nearest code that no item has; where none is left, the
           next number past the codebook

numpy alone: distances and codes, no network, no item_id.
"""

from collections.abc import Iterable

import numpy as np

ROUNDS = 20
ITERATIONS = 50


def squared_distances(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """float64 [n, codes] of float [n, dim] and float [codes, dim]."""
    wide, rows = codebook.astype(np.float64), vectors.astype(np.float64)
    return (rows**2).sum(axis=1, keepdims=True) - 2 * rows @ wide.T + (wide**2).sum(axis=1)


def sinkhorn(distances: np.ndarray, epsilon: float) -> np.ndarray:
    """float64 [n, codes]: how much of each code a row gets, so that every code is given out alike (columns sum to n / codes, rows near 1).

    distances: float [n, codes], brought to about [-1, 1] over all of them first. A row's code is its largest element.
    """
    n, codes = distances.shape
    middle = (distances.max() + distances.min()) / 2
    cost = (distances.astype(np.float64) - middle) / (distances.max() - middle + 1e-5)
    # Rows and columns are scaled by vectors beside one fixed matrix: two products an iteration, where dividing the matrix itself took 3 times as long.
    kernel = np.exp((cost.min(axis=1, keepdims=True) - cost) / epsilon)
    of_code = np.ones(codes)
    least = np.finfo(np.float64).tiny
    for _ in range(ITERATIONS):
        of_row = 1 / np.maximum(n * (kernel @ of_code), least)
        of_code = 1 / np.maximum(codes * (of_row @ kernel), least)
    return n * of_row[:, None] * kernel * of_code


def repaired(distances: np.ndarray, codes: np.ndarray, epsilon: float) -> np.ndarray:
    """int [n]: the codes after the repair; those that no two rows share stay. epsilon 0 repairs nothing. distances: [n, codes of the book]."""
    codes = codes.copy()
    for _ in range(ROUNDS if epsilon else 0):
        before = codes.copy()
        values, counts = np.unique(before, return_counts=True)
        for code in values[counts > 1]:
            rows = np.flatnonzero(before == code)
            codes[rows] = sinkhorn(distances[rows], epsilon).argmax(axis=1)
        if np.array_equal(codes, before):
            break
    return codes


def parted(distances: np.ndarray, codes: np.ndarray, taken: Iterable[int]) -> np.ndarray:
    """int [n], all different and none of them in `taken`. Rows in the order of their claim: the first of a code keeps it."""
    used, codes, waiting = set(taken), codes.copy(), []
    for row, code in enumerate(codes.tolist()):
        if code in used:
            waiting.append(row)
        used.add(code)
    for row in waiting:
        nearest = (code for code in np.argsort(distances[row], kind="stable").tolist() if code not in used)
        codes[row] = next(nearest, max(*used, distances.shape[1] - 1) + 1)
        used.add(int(codes[row]))
    return codes
