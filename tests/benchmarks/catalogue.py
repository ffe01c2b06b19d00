"""What a large catalogue costs: its trie, the nightly mask over it, and its codes.

    python tests/benchmarks/catalogue.py

Trie: 1,000,000 items of 4 random codes of 256, against a dict of prefixes as `prefix_allowed_tokens_fn` wants it; the mask of who is available, of 10,000,000.
Codes: residual k-means of 50,000 vectors of 768 dimensions, 4 levels of 256, against faiss's k-means level by level as it comes (25 iterations, random
centroids to begin with); the error is the share of the variance that the codes leave over. Codes on all cores, the rest in one thread; in turns. Writes
tests/benchmarks/results/catalogue.json and a file per headline figure.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from figures import keep, origin, write

from model import identifiers, trie

ITEMS, LEVELS, CODES, ROUNDS = 1_000_000, 4, 256, 5
VECTORS, WIDTH, CENTRES = 50_000, 768, 2_000


def distinct(count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [count, LEVELS], every row once, in no order."""
    codes = np.unique(rng.integers(0, CODES, (count + count // 50, LEVELS)), axis=0)
    return codes[rng.permutation(len(codes))[:count]]


def prefixes(codes: np.ndarray) -> dict[tuple[int, ...], set[int]]:
    following: dict[tuple[int, ...], set[int]] = {}
    for item in codes.tolist():
        for level in range(LEVELS):
            following.setdefault(tuple(item[:level]), set()).add(item[level])
    return following


def vectors(rng: np.random.Generator) -> np.ndarray:
    """Vectors of unit length in clusters of clusters, as texts are."""
    centres = rng.normal(size=(40, WIDTH))[rng.integers(0, 40, CENTRES)] + rng.normal(size=(CENTRES, WIDTH)) * 0.7
    made = centres[rng.integers(0, CENTRES, VECTORS)] + rng.normal(size=(VECTORS, WIDTH)) * 0.7
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def plain_faiss(data: np.ndarray) -> np.ndarray:
    """What four k-means of faiss leave over."""
    residual = data
    for level in range(LEVELS):
        clustering = faiss.Kmeans(WIDTH, CODES, seed=level, niter=25)
        clustering.train(residual)
        residual = residual - clustering.centroids[clustering.index.search(residual, 1)[1][:, 0]]
    return residual


def ours(data: np.ndarray) -> np.ndarray:
    quantizer = identifiers.fit("residual_kmeans", data, LEVELS, CODES, 0)
    return data - identifiers.decode(quantizer, identifiers.encode(quantizer, data))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def main() -> int:
    rng = np.random.default_rng(0)
    common = origin("python tests/benchmarks/catalogue.py", "random codes, clustered random vectors", [0])
    codes = distinct(ITEMS, rng)
    trie.build(codes)  # once before it counts: memory is fetched from the system
    rounds = [(timed(lambda: trie.build(codes)), timed(lambda: prefixes(codes))) for _ in range(ROUNDS)]
    built = [ours_[0] for ours_, _ in rounds]
    held = rounds[0][0][1]
    megabytes = sum(part.nbytes for parts in (held.tokens, held.first_child, held.alive) for part in parts) / 1e6 + held.items.nbytes / 1e6
    large = trie.build(distinct(10 * ITEMS, rng))
    allowed = rng.random(10 * ITEMS) < 0.9
    masks = [timed(lambda: large.allow(allowed))[0] for _ in range(ROUNDS)]
    data = vectors(rng)
    spread = float(((data - data.mean(axis=0)) ** 2).sum())
    for side in (ours, plain_faiss):
        side(data[:2000])  # once before it counts: libraries are imported
    codings = [(timed(lambda: ours(data)), timed(lambda: plain_faiss(data))) for _ in range(3)]
    seconds = [[round(pair[side][0], 3) for pair in codings] for side in (0, 1)]
    errors = [float((codings[0][side][1] ** 2).sum()) / spread for side in (0, 1)]
    found = {
        "trie": {"seconds": [round(s, 3) for s in built], "dict_seconds": [round(theirs[0], 3) for _, theirs in rounds], "megabytes": round(megabytes, 1)},
        "mask_of_10_million": {"seconds": [round(s, 3) for s in masks]},
        "codes": {"seconds": seconds[0], "faiss_seconds": seconds[1], "unexplained": round(errors[0], 4), "faiss_unexplained": round(errors[1], 4)},
    }
    keep("catalogue", {**found, **common})
    dict_seconds = float(np.median(found["trie"]["dict_seconds"]))
    write(
        [
            figure("trie_million_seconds", built, "seconds", "dict of prefixes", dict_seconds),
            figure("codes_50k_seconds_vs_faiss", [a / b for a, b in zip(*seconds, strict=True)], "ratio", "faiss, seconds", float(np.median(seconds[1]))),
        ],
        common,
    )
    print(json.dumps(found, indent=1))
    return 0


def figure(name: str, values: list[float], unit: str, rival: str, rival_value: float) -> dict[str, Any]:
    return {"figure": name, "value": float(np.median(values)), "unit": unit, "ci": [min(values), max(values)], "rival": rival, "rival_value": rival_value}


if __name__ == "__main__":
    sys.exit(main())
