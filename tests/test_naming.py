"""Constructions and their fusions, on vectors small enough to do by hand, and the quantizers they freeze."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import fusion, identifiers, naming

TEXT = np.array([[3, 4, 0], [0, 0, 2], [0, 0, 0]], np.float32)
BEHAVIOUR = np.array([[0, 1], [5, 0], [0, -2]], np.float32)


def test_concatenated_sides_weigh_the_same() -> None:
    expected = np.array([[0.6, 0.8, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, -1]])
    np.testing.assert_allclose(fusion.concatenated(TEXT, BEHAVIOUR), expected, atol=1e-7)


def test_added_sides_meet_in_the_narrower_space() -> None:
    axes = np.array([[1, 0], [0, 0], [0, 1]], np.float32)  # drops the second text dimension
    expected = np.array([[1, 1], [1, 1], [0, -1]])  # [0.6, 0.8, 0] → [0.6, 0] → [1, 0]; + [0, 1]
    np.testing.assert_allclose(fusion.added(TEXT, BEHAVIOUR, axes), expected, atol=1e-7)
    np.testing.assert_allclose(fusion.added(BEHAVIOUR, TEXT, axes), expected, atol=1e-7)  # the wider one, wherever it stands


def test_principal_axes_are_scikit_learns() -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    wide = np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8)
    axes = fusion.principal_axes(wide, np.zeros((40, 3)))
    expected = TruncatedSVD(3, algorithm="arpack", random_state=0).fit(normalize(wide)).components_.T
    np.testing.assert_allclose(np.abs(axes), np.abs(expected), atol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), range(3)] > 0).all()


CONSTRUCTIONS = ["content", "search", "rec", "multi_task", "fused_concat", "fused_svd", "separate", "prefix_share"]
VIEWS = {"text": 6, "search": 6, "multi_task": 6, "behaviour": 4}


def world(n: int = 240, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {view: (rng.normal(size=(8, dim)).repeat(n // 8, axis=0) + 0.3 * rng.normal(size=(n, dim))).astype(np.float32) for view, dim in VIEWS.items()}


def fitted(construction: str, quantizer: str = "residual_kmeans", side: str = "search", **facts: object) -> naming.Naming:
    return naming.fit(world(), construction, side, quantizer, levels=2, shared_levels=1, codes=8, seed=3, **facts)


@pytest.mark.parametrize("quantizer", ["residual_kmeans", "rq_vae", "product"])
@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_every_construction_is_frozen_and_keeps_its_codes(tmp_path, monkeypatch, construction: str, quantizer: str) -> None:
    monkeypatch.setattr("model.rqvae.STEPS", 20)
    held = fitted(construction, quantizer)
    codes = naming.encode(held, world())
    per_task = construction in ("separate", "prefix_share")
    assert codes.keys() == ({"recommend", "search"} if per_task else {"joint"})
    for view, of_view in codes.items():
        assert of_view.shape == (240, 2) and of_view.dtype == np.int32 and held.level_sizes(view) == [8, 8]
        assert of_view.min() >= 0 and of_view.max() < 8 and len(np.unique(of_view, axis=0)) > 4
    unseen = {view: vectors[5:6] + 0.1 for view, vectors in world(seed=1).items()}
    assert all(of_view.shape == (1, 2) for of_view in naming.encode(held, unseen).values())
    alone = [naming.encode(held, {view: vectors[i : i + 1] for view, vectors in world().items()}) for i in range(0, 240, 40)]
    assert all(np.array_equal(found[view][0], codes[view][40 * n]) for n, found in enumerate(alone) for view in codes)
    naming.save(held, tmp_path / "naming")
    loaded = naming.load(tmp_path / "naming")
    assert loaded.version == held.version == fitted(construction, quantizer).version != fitted(construction, quantizer, fitted_on="later").version
    again = naming.encode(loaded, world())
    assert all(np.array_equal(again[view], codes[view]) for view in codes)


@pytest.mark.parametrize(
    ("construction", "side", "taken"),
    [
        ("content", "search", {"text"}),
        ("search", "text", {"search"}),
        ("rec", "text", {"behaviour"}),
        ("multi_task", "text", {"multi_task"}),
        ("fused_concat", "text", {"text", "behaviour"}),
        ("fused_svd", "search", {"search", "behaviour"}),
        ("separate", "search", {"search", "behaviour"}),
        ("prefix_share", "text", {"text", "behaviour"}),
    ],
)
def test_a_construction_takes_its_views_and_no_other(construction: str, side: str, taken: set[str]) -> None:
    held = fitted(construction, side=side)
    codes = naming.encode(held, world())
    other = world(seed=9)
    for view in VIEWS:
        changed = naming.encode(held, world() | {view: other[view]})
        assert any(not np.array_equal(changed[name], codes[name]) for name in codes) == (view in taken)
    assert set(naming.inputs(construction, side)) == taken


def test_separate_sides_do_not_meet() -> None:
    held, other = fitted("separate"), world(seed=9)
    codes = naming.encode(held, world())
    changed = naming.encode(held, world() | {"behaviour": other["behaviour"]})
    assert np.array_equal(changed["search"], codes["search"]) and not np.array_equal(changed["recommend"], codes["recommend"])


def test_prefix_share_shares_the_first_codes_and_then_tells_its_own_side() -> None:
    vectors = world()
    held = naming.fit(vectors, "prefix_share", "text", "residual_kmeans", levels=3, shared_levels=2, codes=8, seed=3)
    codes = naming.encode(held, vectors)
    assert np.array_equal(codes["search"][:, :2], codes["recommend"][:, :2]) and not np.array_equal(codes["search"], codes["recommend"])
    both = fusion.concatenated(vectors["text"], vectors["behaviour"])
    left = both - identifiers.decode(held.quantizers["shared"], codes["search"][:, :2])
    for task, side in (("search", left[:, :6]), ("recommend", left[:, 6:])):
        nearer = side - identifiers.decode(held.quantizers[task], codes[task][:, 2:])
        assert (nearer**2).sum() < 0.8 * (side**2).sum()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["residual_kmeans", "product"]),
    n=st.integers(1, 40),
    dim=st.integers(3, 6),
    levels=st.integers(1, 3),
    codes=st.integers(2, 9),
    seed=st.integers(0, 99),
    zeros=st.booleans(),
)
def test_any_vectors_get_codes_in_range_and_alone_the_same_as_together(kind, n, dim, levels, codes, seed, zeros) -> None:
    vectors = np.zeros((n, dim), np.float32) if zeros else np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    quantizer = identifiers.fit(kind, vectors, levels, codes, seed)
    assert quantizer.width == dim
    assert all(len(book) == max(1, min(codes, n // 2)) and np.isfinite(book).all() for book in quantizer.codebooks) and len(quantizer.codebooks) == levels
    together = identifiers.encode(quantizer, vectors)
    assert together.min() >= 0 and together.max() < len(quantizer.codebooks[0])
    assert np.array_equal(np.concatenate([identifiers.encode(quantizer, vector[None]) for vector in vectors]), together)
    assert identifiers.decode(quantizer, together).shape == vectors.shape


def test_product_codes_are_independent_of_each_other() -> None:
    """A grid of two dimensions: each level names one coordinate, and decoding gives the point back."""
    vectors = np.array([[x, y] for x in (0, 5, 11) for y in (0, 7, 20)] * 4, np.float32)
    quantizer = identifiers.fit("product", vectors, levels=2, codes=3, seed=0)
    codes = identifiers.encode(quantizer, vectors)
    np.testing.assert_allclose(identifiers.decode(quantizer, codes), vectors, atol=1e-5)
    assert all(len(set(zip(codes[:, level], vectors[:, level], strict=True))) == 3 for level in (0, 1))
    with pytest.raises(ValueError, match="at most one for each of the 2 dimensions"):
        identifiers.fit("product", vectors, levels=3, codes=3, seed=0)


def dual(shared_levels: int = 1, vectors: dict[str, np.ndarray] | None = None, epochs: int = 60) -> naming.Naming:
    told = {"sinkhorn": 0.003, "every_level": False, "epochs": epochs}
    return naming.fit(vectors or world(), "dual", "text", "rq_vae", levels=2 + shared_levels, shared_levels=shared_levels, codes=8, seed=3, **told)


@pytest.mark.parametrize("shared_levels", [0, 1])
def test_dual_names_share_a_prefix_and_are_frozen(tmp_path, shared_levels: int) -> None:
    held = dual(shared_levels)
    codes = naming.encode(held, world())
    assert codes.keys() == {"recommend", "search"} and all(of_view.shape == (240, 2 + shared_levels) for of_view in codes.values())
    assert np.array_equal(codes["recommend"][:, :shared_levels], codes["search"][:, :shared_levels])
    assert held.level_sizes("search") == [8] * (2 + shared_levels)
    naming.save(held, tmp_path / "naming")
    loaded = naming.load(tmp_path / "naming")
    assert loaded.version == held.version == dual(shared_levels).version
    alone = [naming.encode(loaded, {view: x[i : i + 1] for view, x in world().items()}) for i in range(0, 240, 40)]
    assert all(np.array_equal(found[view][0], codes[view][40 * n]) for n, found in enumerate(alone) for view in codes)


def test_dual_sides_say_what_their_vectors_say() -> None:
    """Clusters of text and other clusters of behaviour: the codes explain most of either side; without shared levels, neither says anything of the other."""
    rng = np.random.default_rng(0)
    text, behaviour = np.arange(240) % 4, np.arange(240) // 60
    vectors = {
        "text": (rng.normal(size=(4, 6))[text] + 0.05 * rng.normal(size=(240, 6))).astype(np.float32),
        "behaviour": (rng.normal(size=(4, 4))[behaviour] + 0.05 * rng.normal(size=(240, 4))).astype(np.float32),
    }
    held = dual(0, vectors, epochs=2000)  # at 1,000 rounding alone decides whether a side is told: .04 to .54 unexplained
    assert all(0 < lost < 0.4 for lost in held.settings["unexplained"].values()), held.settings["unexplained"]
    mixed = rng.permutation(240)
    again = naming.unexplained(held, vectors["text"][mixed], vectors["behaviour"][mixed])
    assert again == pytest.approx(held.settings["unexplained"], abs=1e-5)
    codes = naming.encode(held, vectors)
    for view, side in (("search", "text"), ("recommend", "behaviour")):
        other = naming.encode(held, vectors | {side: vectors[side][mixed]})
        assert np.array_equal(other[view], codes[view][mixed])
        unchanged = "recommend" if view == "search" else "search"
        assert np.array_equal(other[unchanged], codes[unchanged])


def test_parted_codes_are_the_codes_where_nothing_collides() -> None:
    held = dual()
    codes, rest = naming.encode(held, world()), naming.rest(held, world())
    for view in codes:
        rows = np.arange(3)
        last = np.array([0, 1, 2])
        repaired, after = naming.part(held, view, rest[view][rows], last, np.array([5]))
        assert repaired.tolist() == after.tolist() == [0, 1, 2]
        _, after = naming.part(held, view, rest[view][rows], codes[view][rows, -1].astype(np.int64), codes[view][rows, -1])
        assert len(set(after.tolist())) == 3 and not set(after.tolist()) & set(codes[view][rows, -1].tolist())
