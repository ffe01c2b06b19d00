"""Semantic identifiers: residual k-means, vector → one code per level.

Level by level, the nearest centroid of what the levels before left over. A quantizer is fitted once and then frozen: it encodes items that
it never saw, and a vector's codes do not change. Two vectors may get the same codes; whoever names items by them adds one more code that parts them.

numpy and faiss only (faiss for fitting alone). Knows no item, no table, no Spark.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.encoders import content_hash, read_folder, write_folder

ITERATIONS = 25
CELLS = 16_000_000  # distances held at a time: 128 MB


@dataclass(frozen=True)
class Quantizer:
    codebooks: np.ndarray  # float32 [levels, codes, dim]
    settings: dict  # what it was fitted with, JSON-able

    @property
    def version(self) -> str:
        """Names the content: two quantizers of one version give the same codes."""
        return f"residual_kmeans-{content_hash({'codebooks': self.codebooks}, {'settings': self.settings})}"


def fit(vectors: np.ndarray, levels: int, codes: int, seed: int, **settings: object) -> Quantizer:
    """Fit on float32 [n, dim].

    No level gets more than n / 2 codes (at least one): with a code per vector the first level would be an atomic name, and nothing would be shared.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # sums in one order: the same vectors give the same quantizer
    n, dim = vectors.shape
    used = max(1, min(codes, n // 2))
    # Seeded with k-means++: from random centroids, clusters known to be apart shared a code in the test.
    settled = {"niter": ITERATIONS, "init_method": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS, "min_points_per_centroid": 1}
    residual, codebooks = np.ascontiguousarray(vectors, dtype=np.float32), []
    for level in range(levels):
        kmeans = faiss.Kmeans(dim, used, seed=seed + level, max_points_per_centroid=max(256, -(-n // used)), **settled)
        kmeans.train(residual)
        codebook = np.asarray(kmeans.centroids, dtype=np.float32).reshape(used, dim)
        codebooks.append(codebook)
        residual = residual - codebook[nearest(residual, codebook)]
    return Quantizer(np.stack(codebooks), {"levels": levels, "codes": codes, "seed": seed, **settings})


def encode(quantizer: Quantizer, vectors: np.ndarray) -> np.ndarray:
    """int32 [n, levels]; raises ValueError for vectors of another dimension."""
    if vectors.ndim != 2 or vectors.shape[1] != quantizer.codebooks.shape[2]:
        raise ValueError(f"vectors of shape {vectors.shape}: expected [n, {quantizer.codebooks.shape[2]}], what the quantizer was fitted on")
    residual, levels = vectors.astype(np.float32), []
    for codebook in quantizer.codebooks:
        code = nearest(residual, codebook)
        levels.append(code)
        residual = residual - codebook[code]
    return np.stack(levels, axis=1).astype(np.int32)


def nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """int64 [n]: index of the nearest centroid, the first of equally near ones."""
    # In double precision: the products' last bits depend on the batch, and an item's codes must not.
    wide, found = codebook.astype(np.float64), []
    half_norms = (wide**2).sum(1) / 2
    step = max(1, CELLS // len(codebook))
    for start in range(0, len(vectors), step):
        found.append(np.argmax(vectors[start : start + step].astype(np.float64) @ wide.T - half_norms, axis=1))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def save(quantizer: Quantizer, folder: str | Path) -> None:
    write_folder(Path(folder), {"codebooks": quantizer.codebooks}, {"settings": quantizer.settings})


def load(folder: str | Path) -> Quantizer:
    arrays, about = read_folder(Path(folder))
    return Quantizer(arrays["codebooks"], about["settings"])
