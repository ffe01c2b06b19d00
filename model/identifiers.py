"""Quantizers: vector → one code per level, and back.

residual_kmeans   level by level, the nearest centroid of what the levels before left over (arXiv 2508.10478: faiss RQ-KMeans)
rq_vae            the same in the hidden space of an auto-encoder trained with its codebooks (`model.rqvae`)
product           k-means of a part of the dimensions each: levels are independent, none is coarser than another (Jégou et al. 2011)

A quantizer is fitted once and then frozen: it encodes vectors that it never saw, and a vector's codes do not change. Two vectors may get the
same codes; whoever names items by them adds one more code that parts them.

numpy alone, but for fitting (faiss, torch). Knows no item, no table, no Spark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ITERATIONS = 10  # with all of them in all dimensions, 25 left over as much (.3744 of the variance of 50,000 × 768; 10 left .3742) and took 1.4 times as long
# Centroids are found among the first principal components, of a sample, and then settle for some iterations in all dimensions: in .4 of the time of faiss's
# k-means, and less is left over (.3745 against .3748: tests/benchmarks/catalogue.py; ten rough iterations left .3742, and with two settling .3753).
NARROW, ROUGH, SAMPLE, SETTLING = 64, 6, 8192, 3
WORTH_THREADS = 1 << 22  # numbers in all vectors: of fewer, threads would but wait for each other
BLOCK = 4096  # vectors worked on at a time, so that what is known of them stays in the cache

Layers = tuple[tuple[np.ndarray, np.ndarray], ...]  # (weight float32 [out, in], bias float32 [out]) of linear layers with ReLU between them


@dataclass(frozen=True)
class Quantizer:
    kind: str
    codebooks: tuple[np.ndarray, ...]  # per level float32 [codes, dim]
    encoder: Layers = ()  # before the codebooks, of rq_vae
    decoder: Layers = ()

    @property
    def width(self) -> int:
        """Dimension of the vectors it takes."""
        if self.encoder:
            return self.encoder[0][0].shape[1]
        return sum(book.shape[1] for book in self.codebooks) if self.kind == "product" else self.codebooks[0].shape[1]


def fit(kind: str, vectors: np.ndarray, levels: int, codes: int, seed: int) -> Quantizer:
    """Fit on float32 [n, dim]; the same vectors give the same quantizer.

    No level gets more than n / 2 codes (at least one): with a code per vector the first level would be an atomic name, and nothing would be shared.
    Raises ValueError for a product quantizer of more levels than dimensions.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if kind == "rq_vae":
        from model import rqvae

        return rqvae.fit(vectors, levels, codes, seed)
    if kind == "product":
        if levels > vectors.shape[1]:
            raise ValueError(f"product quantizer of {levels} levels: expected at most one for each of the {vectors.shape[1]} dimensions")
        return Quantizer(kind, tuple(kmeans(vectors[:, level::levels], codes, seed + level) for level in range(levels)))
    residual, codebooks = np.array(vectors), []
    for level in range(levels):
        descend(codebooks[-1:], residual)
        codebooks.append(kmeans(residual, codes, seed + level))
    return Quantizer(kind, tuple(codebooks))


def kmeans(vectors: np.ndarray, codes: int, seed: int) -> np.ndarray:
    """float32 [min(codes, n / 2), dim]: the centroids of float32 [n, dim], the same with any number of threads: one of them adds up a centroid, in order."""
    import faiss
    from scipy.sparse import csr_array
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    n, dim = vectors.shape
    used = max(1, min(codes, n // 2))
    # Seeded with k-means++: from random centroids, clusters known to be apart shared a code in the test.
    how = {"init_method": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS, "min_points_per_centroid": 1, "max_points_per_centroid": max(256, -(-n // used))}

    def settled(points: np.ndarray, iterations: int, begin: np.ndarray | None = None) -> np.ndarray:
        clustering = faiss.Kmeans(points.shape[1], used, seed=seed, niter=iterations, **how)
        clustering.train(points, init_centroids=begin)
        return np.asarray(clustering.centroids, dtype=np.float32).reshape(used, -1)

    vectors = np.ascontiguousarray(vectors)
    with threadpool_limits(1 if vectors.size < WORTH_THREADS else None):
        if min(n, dim) <= NARROW:
            return settled(vectors, ITERATIONS)
        with threadpool_limits(1, "blas"):  # else the axes' last bits depend on how many
            axes = PCA(NARROW, svd_solver="randomized", iterated_power=2, random_state=seed).fit(vectors[:: max(1, n // SAMPLE)]).components_
            narrow = np.ascontiguousarray(vectors @ axes.T)
        group = nearest(narrow, settled(narrow, ROUGH))
        members = csr_array((np.ones(n, np.float32), (group, np.arange(n))), shape=(used, n))
        means = members @ vectors / np.maximum(np.bincount(group, minlength=used), 1)[:, None]
        return settled(vectors, SETTLING, means.astype(np.float32))


def encode(quantizer: Quantizer, vectors: np.ndarray) -> np.ndarray:
    """int32 [n, levels]; raises ValueError for vectors of another dimension."""
    if vectors.ndim != 2 or vectors.shape[1] != quantizer.width:
        raise ValueError(f"vectors of shape {vectors.shape}: expected [n, {quantizer.width}], what the quantizer was fitted on")
    hidden, books = through(quantizer.encoder, vectors), quantizer.codebooks
    if quantizer.kind == "product":
        return np.stack([nearest(hidden[:, level :: len(books)], book) for level, book in enumerate(books)], axis=1).astype(np.int32)
    return descend(books, hidden)  # in place: `through` has made a new array


def descend(codebooks: Sequence[np.ndarray], residual: np.ndarray) -> np.ndarray:
    """residual: float [n, dim], in place less what the codes say of it. Returns the nearest codes level by level, int32 [n, levels]."""
    codes = np.zeros((len(residual), len(codebooks)), np.int32)
    for start in range(0, len(residual) if codebooks else 0, BLOCK):
        block = residual[start : start + BLOCK]
        for level, codebook in enumerate(codebooks):
            codes[start : start + BLOCK, level] = found = nearest(block, codebook)
            block -= codebook[found]
    return codes


def decode(quantizer: Quantizer, codes: np.ndarray) -> np.ndarray:
    """float32 [n, dim]: what the codes (int [n, levels]) say of their vectors."""
    books = quantizer.codebooks
    if quantizer.kind == "product":
        vectors = np.empty((len(codes), quantizer.width), np.float32)
        for level, book in enumerate(books):
            vectors[:, level :: len(books)] = book[codes[:, level]]
        return vectors
    total = books[0][codes[:, 0]].astype(np.float32)
    for level, book in enumerate(books[1:], 1):
        total += book[codes[:, level]]
    return through(quantizer.decoder, total).astype(np.float32)


def through(layers: Layers, x: np.ndarray) -> np.ndarray:
    """x: float [n, in] → a new [n, out], in double precision where there are layers: a product's last bits depend on the batch, an item's codes must not."""
    for depth, (weight, bias) in enumerate(layers):
        x = (np.maximum(x, 0) if depth else x).astype(np.float64) @ weight.T.astype(np.float64) + bias
    return x if layers else x.astype(np.float32)


def nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """int64 [n]: index of the nearest centroid, the first of equally near ones. In double precision (see `through`), where single cannot tell."""
    wide, found = codebook.astype(np.float64), np.zeros(len(vectors), np.int64)
    half_norms = (wide**2).sum(1) / 2
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        scores = block.astype(np.float32, copy=False) @ codebook.astype(np.float32, copy=False).T - half_norms.astype(np.float32)
        first = scores.argmax(axis=1)
        ahead = np.take_along_axis(scores, first[:, None], axis=1)
        np.put_along_axis(scores, first[:, None], -np.inf, axis=1)
        # What single precision may be off by: a rounding per product and sum, and of what goes in.
        lengths = np.linalg.norm(block, axis=1)[:, None] + np.sqrt(2 * half_norms.max(initial=0))
        open_ = np.flatnonzero(ahead - scores.max(axis=1, keepdims=True) <= (block.shape[1] + 2) * np.finfo(np.float32).eps * lengths**2)
        first[open_] = np.argmax(block[open_].astype(np.float64) @ wide.T - half_norms, axis=1)
        found[start : start + BLOCK] = first
    return found


def arrays_of(quantizer: Quantizer) -> dict[str, np.ndarray]:
    """Its parts by name, as they lie on disk."""
    arrays = {f"codebooks.{level}": book for level, book in enumerate(quantizer.codebooks)}
    for part in ("encoder", "decoder"):
        for depth, (weight, bias) in enumerate(getattr(quantizer, part)):
            arrays |= {f"{part}.{depth}.weight": weight, f"{part}.{depth}.bias": bias}
    return arrays


def from_arrays(kind: str, arrays: Mapping[str, np.ndarray]) -> Quantizer:
    def count(prefix: str) -> range:
        return range(len({name.split(".")[1] for name in arrays if name.startswith(f"{prefix}.")}))

    def layers(part: str) -> Layers:
        return tuple((arrays[f"{part}.{depth}.weight"], arrays[f"{part}.{depth}.bias"]) for depth in count(part))

    return Quantizer(kind, tuple(arrays[f"codebooks.{level}"] for level in count("codebooks")), layers("encoder"), layers("decoder"))
