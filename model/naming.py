"""Item vectors → identifiers: the constructions of "Semantic IDs for Joint Generative Search and Recommendation" (arXiv 2508.10478, table of constructions).

construction   vectors it takes           identifiers of an item
content        text                       one, for both tasks
search         search (tuned on queries)  one
rec            behaviour                  one
multi_task     multi_task                 one
fused_concat   text side and behaviour    one, of both end to end
fused_svd      the same                   one, of their sum
separate       the same                   one per task: search by the text side, recommend by behaviour; no code in common
prefix_share   the same                   one per task: first codes of both end to end, then codes of what these leave of the task's own side
dual           the same                   the same of one RQ-VAE of both sides, its codebooks trained together (GenSAR, arXiv 2504.05730)

A `Naming` is fitted once and frozen with all that it needs; codes of one identifier need not be unique (see `model.identifiers`; those of dual are
parted by their own last code, see `model.collisions`). The text side is the untuned text or the search-tuned vector. numpy alone, but for fitting.
Knows no item, no table, no Spark.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model import collisions, identifiers
from model.encoders import content_hash, read_folder, unit, write_folder
from model.fusion import added, concatenated, principal_axes
from model.identifiers import Quantizer
from model.vocabulary import JOINT

PER_TASK = ("recommend", "search")
ALONE = {"content": "text", "search": "search", "rec": "behaviour", "multi_task": "multi_task"}

Vectors = Mapping[str, np.ndarray]  # view → float32 [n, dim of the view], the same rows in each


@dataclass(frozen=True)
class Naming:
    settings: dict  # what it was fitted with, JSON-able
    quantizers: dict[str, Quantizer]  # by identifier, and `shared`
    axes: np.ndarray  # float32 [wider, narrower], of fused_svd; empty for the others

    @property
    def version(self) -> str:
        """Names the content: two of one version give the same codes."""
        return f"{self.settings['quantizer']}-{content_hash(*self.parts())}"

    def parts(self) -> tuple[dict[str, np.ndarray], dict]:
        named = {f"{name}/{part}": array for name, held in self.quantizers.items() for part, array in identifiers.arrays_of(held).items()}
        return named | {"axes": self.axes}, {"settings": self.settings}

    def level_sizes(self, name: str) -> list[int]:
        """Codes of each level of an identifier."""
        held = [self.quantizers["shared"]] if "shared" in self.quantizers else []
        return [len(book) for quantizer in (*held, self.quantizers[name]) for book in quantizer.codebooks]


def inputs(construction: str, text_side: str) -> tuple[str, ...]:
    """The views that a construction takes; where it takes two, the text side first."""
    return (ALONE[construction],) if construction in ALONE else (text_side, "behaviour")


def fit(
    vectors: Vectors, construction: str, text_side: str, quantizer: str, levels: int, shared_levels: int, codes: int, seed: int, **settings: object
) -> Naming:
    """vectors: of a sample of items. shared_levels: of `levels`, the first that prefix_share gives to both tasks."""
    told = {"construction": construction, "text_side": text_side, "quantizer": quantizer, "levels": levels, "shared_levels": shared_levels}
    settings = {**told, "codes": codes, "seed": seed, **settings}
    first, second = sides(vectors, construction, text_side)
    axes = principal_axes(first, second) if construction == "fused_svd" else np.zeros((0, 0), np.float32)
    if construction == "dual":
        from model import rqvae

        plan = rqvae.Plan(rqvae.PUBLISHED, sinkhorn=settings["sinkhorn"], every_level=settings["every_level"])
        tasks = {"search": unit(first), "recommend": unit(second)}
        made = Naming(settings, rqvae.fit_sides(tasks, shared_levels, levels - shared_levels, codes, seed, plan, settings["epochs"]), axes)
        lost = {task: round(share, 6) for task, share in unexplained(made, first, second).items()}
        return replace(made, settings=settings | {"unexplained": lost})
    if construction == "prefix_share":
        shared = identifiers.fit(quantizer, concatenated(first, second), shared_levels, codes, seed)
        left, _ = sides_left(shared, first, second)
        own = {task: identifiers.fit(quantizer, left[task], levels - shared_levels, codes, seed + levels) for task in PER_TASK}
        return Naming(settings, {"shared": shared} | own, axes)
    whole = fused(construction, first, second, axes)
    return Naming(settings, {name: identifiers.fit(quantizer, x, levels, codes, seed) for name, x in whole.items()}, axes)


def encode(naming: Naming, vectors: Vectors) -> dict[str, np.ndarray]:
    """Identifier (`joint`, or each task's) → codes int32 [n, levels]. Raises ValueError for vectors of another dimension."""
    construction, text_side = naming.settings["construction"], naming.settings["text_side"]
    first, second = sides(vectors, construction, text_side)
    if construction == "dual":
        return {task: codes for task, (codes, _) in descended(naming, first, second).items()}
    if construction == "prefix_share":
        left, codes = sides_left(naming.quantizers["shared"], first, second)
        return {task: np.concatenate([codes, identifiers.encode(naming.quantizers[task], left[task])], axis=1) for task in PER_TASK}
    return {name: identifiers.encode(naming.quantizers[name], x) for name, x in fused(construction, first, second, naming.axes).items()}


def sides(vectors: Vectors, construction: str, text_side: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The vectors that the construction takes: one, or the text side and behaviour."""
    taken = [vectors[view] for view in inputs(construction, text_side)]
    return taken[0], taken[1] if len(taken) > 1 else None


def fused(construction: str, first: np.ndarray, second: np.ndarray | None, axes: np.ndarray) -> dict[str, np.ndarray]:
    """Identifier → the vectors that it quantizes."""
    if second is None:
        return {JOINT: unit(first)}
    if construction == "separate":
        return {"recommend": unit(second), "search": unit(first)}
    return {JOINT: added(first, second, axes) if construction == "fused_svd" else concatenated(first, second)}


def descended(naming: Naming, first: np.ndarray, second: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of dual: task → codes int32 [n, levels], and what all but the last of them leave over, float64 [n, latent]."""
    held = naming.quantizers
    hidden = {"search": identifiers.through(held["search"].encoder, unit(first)), "recommend": identifiers.through(held["recommend"].encoder, unit(second))}
    books = held["shared"].codebooks if "shared" in held else ()  # no shared levels, no arrays
    left = np.concatenate(list(hidden.values()), axis=1)
    shared = identifiers.descend(books, left)
    made = {}
    for task, rest in zip(hidden, np.split(left, len(hidden), axis=1), strict=True):
        *before, final = held[task].codebooks
        codes = identifiers.descend(before, rest)
        last = identifiers.nearest(rest, final)[:, None].astype(np.int32)
        made[task] = (np.concatenate([shared, codes, last], axis=1), rest)
    return made


def unexplained(naming: Naming, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Of dual: task → squared error of what its codes say of its side, as a share of the side's variance."""
    lost = {}
    for task, side in (("search", unit(first)), ("recommend", unit(second))):
        held, (codes, left) = naming.quantizers[task], descended(naming, first, second)[task]
        hidden = identifiers.through(held.encoder, side)
        left = left - held.codebooks[-1][codes[:, -1]]
        error = side - identifiers.through(held.decoder, hidden - left)
        lost[task] = float((error**2).sum() / max(float(((side - side.mean(axis=0)) ** 2).sum()), 1e-12))
    return lost


def rest(naming: Naming, vectors: Vectors) -> dict[str, np.ndarray]:
    """Of dual: task → float32 [n, latent], by which `part` tells items of equal codes apart."""
    found = descended(naming, *sides(vectors, "dual", naming.settings["text_side"]))
    return {task: left.astype(np.float32) for task, (_, left) in found.items()}


def part(naming: Naming, task: str, rest: np.ndarray, last: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of dual, and of items that share all codes but the last: their last codes after the official repair, and after it with no two alike.

    rest: float [n, latent]. last: int [n]. taken: last codes that other items have already. Rows in the order of their claim.
    """
    distances = collisions.squared_distances(rest, naming.quantizers[task].codebooks[-1])
    repaired = collisions.repaired(distances, last, naming.settings["sinkhorn"])
    return repaired, collisions.parted(distances, repaired, taken.tolist())


def sides_left(shared: Quantizer, first: np.ndarray, second: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Task → what the shared codes leave of its side, and these codes."""
    both = concatenated(first, second)
    codes = identifiers.encode(shared, both)
    left = both - identifiers.decode(shared, codes)
    return {"recommend": left[:, first.shape[1] :], "search": left[:, : first.shape[1]]}, codes


def save(naming: Naming, folder: str | Path) -> None:
    write_folder(Path(folder), *naming.parts())


def load(folder: str | Path) -> Naming:
    arrays, about = read_folder(Path(folder))
    quantizers = {}
    for name in sorted({key.split("/")[0] for key in arrays if "/" in key}):
        parts = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
        quantizers[name] = identifiers.from_arrays(about["settings"]["quantizer"], parts)
    return Naming(about["settings"], quantizers, arrays["axes"])
