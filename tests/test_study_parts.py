"""Which models the studies of gensar and gensr compare, and what they make of their figures."""

import math
from datetime import date

import pytest

from jobs import study_page
from jobs.config import load
from jobs.errors import BadArgument
from jobs.study import run
from jobs.study_parts import as_stated, gains_of, variants
from jobs.sweep import interval
from jobs.train import of_first_stage


def test_every_part_of_gensar_is_a_value() -> None:
    whole = load(None, ["train.recipe=gensar", "train.epochs=5"])
    asked = variants(whole, 3)
    assert asked["model"].train == whole.train.model_copy(update={"seed": 3, "warm_start": False, "patience": 5})
    changed = {
        name: {
            (section, key)
            for section in ("train", "identifiers")
            for key, value in getattr(variant, section)
            if value != getattr(getattr(asked["model"], section), key)
        }
        for name, variant in asked.items()
    }
    assert changed == {
        "model": set(),
        "without_marks": {("train", "behaviour_tokens")},
        "recommend_alone": {("train", "tasks")},
        "search_alone": {("train", "tasks")},
        **{f"without_{task}": {("train", "tasks")} for task in ("next_query", "pseudo_search", "text_to_item", "item_to_text")},
        "semantic_only": {("identifiers", "construction")},
        "collaborative_only": {("identifiers", "construction")},
        "without_shared": {("identifiers", "shared_levels")},
        "shared_1_of_4": {("identifiers", "shared_levels")},
        "shared_3_of_4": {("identifiers", "shared_levels")},
        "softmax_of_all": {("train", "softmax")},
        "bridge": {("train", "recipe"), ("train", "tasks"), ("train", "mixing"), ("identifiers", "scheme")},
    }
    assert all(type(variant).model_validate(variant.model_dump()) == variant for variant in asked.values()), "each is a configuration that loads"
    assert set(variants(load(None, ["train.recipe=gensar", 'study.variants=["bridge"]']), 0)) == {"model", "bridge"}
    with pytest.raises(BadArgument, match="found swimming, allowed are model, without_marks"):
        variants(load(None, ["train.recipe=gensar", 'study.variants=["swimming"]']), 0)


def test_a_variant_has_settings_to_itself() -> None:
    """E.g. a rival at its own best dropout, which is not the whole model's."""
    words = ["train.recipe=gensar", "train.dropout=0.1", 'study.variants=["bridge", "semantic_only"]']
    asked = variants(load(None, [*words, "study.own={ bridge = { dropout = 0.3, epochs = 4 } }"]), 0)
    assert {name: (held.train.dropout, held.train.epochs) for name, held in asked.items()} == {
        "model": (0.1, 12),
        "bridge": (0.3, 4),
        "semantic_only": (0.1, 12),
    }
    plain = variants(load(None, words), 0)
    assert all(asked[name] == plain[name].model_copy(update={"study": asked[name].study}) for name in ("model", "semantic_only"))
    for own, told in (
        ("{ swimming = {} }", "study.own: found swimming"),
        ("{ bridge = { dropout = 2 } }", "dropout = 2"),
        ("{ bridge = { drop = 1 } }", "drop = 1"),
    ):
        with pytest.raises(BadArgument, match=told):
            variants(load(None, [*words, f"study.own={own}"]), 0)


def test_gensr_behind_gensar_begins_with_the_model_of_gensars_own_study() -> None:
    """Both are asked for by the same settings, and so found under one version: it is trained once."""
    words = ["train.dropout=0.1", "train.epochs=3"]
    behind = variants(load(None, ["train.recipe=gensr", "gensr.candidates_from=gensar", *words]), 2)["model"]
    own = variants(load(None, ["train.recipe=gensar", *words]), 2)["model"]
    first = of_first_stage(behind)
    assert (first.train, first.identifiers) == (own.train, own.identifiers) and first.hash("identifiers", "embed") == own.hash("identifiers", "embed")


def test_every_part_of_gensr_is_a_value() -> None:
    whole = load(None, ["train.recipe=gensr"])
    asked = variants(whole, 0)
    own = {name: {key: value for key, value in variant.gensr if value != getattr(whole.gensr, key)} for name, variant in asked.items()}
    assert own == {
        "model": {},
        "without_collaborative": {"views": ("semantic",)},
        "without_semantic": {"views": ("collaborative",)},
        "without_filter": {"filter": "mean"},
        "without_contrast": {"contrast": 0.0},
        "unmatched": {"match": False},
        "one_prompt": {"prompts": "shared"},
        "twin": {"prompts": "shared", "answers": "per_task"},
        "recommend_alone": {},
        "search_alone": {},
    }
    assert [asked[f"{task}_alone"].train.tasks for task in ("recommend", "search")] == [("recommend",), ("search",)]
    assert all(type(variant).model_validate(variant.model_dump()) == variant for variant in asked.values())
    one_view = variants(load(None, ["train.recipe=gensr", 'gensr.views=["semantic"]']), 0)
    assert not {"without_semantic", "without_collaborative"} & set(one_view)


def figures(**reached: tuple[float | None, float | None]) -> dict:
    """Variant → NDCG@10 of recommend and search."""
    held = {
        (task, "all", name, "ndcg", 10): (value, None, None, 5)
        for name, pair in reached.items()
        for task, value in zip(("recommend", "search"), pair, strict=True)
    }
    return {key: value for key, value in held.items() if value[0] is not None}


def test_gains_over_seeds_and_the_signs_stated() -> None:
    per_seed = [
        figures(model=(0.2, 0.4), without_marks=(0.1, 0.5), search_alone=(None, 0.2), semantic_only=(0.1, 0.3), bridge=(0.4, 0.1)),
        figures(model=(0.4, 0.4), without_marks=(0.1, 0.5), search_alone=(None, 0.4), semantic_only=(0.2, 0.2), bridge=(0.4, 0.1)),
    ]
    names = ["without_marks", "search_alone", "semantic_only", "bridge"]
    gains = gains_of(per_seed, names)
    assert gains["recommend", "without_marks"][0] == pytest.approx(2.0) and gains["search", "without_marks"][0] == pytest.approx(-0.2)
    assert ("recommend", "search_alone") not in gains and gains["search", "search_alone"][0] == pytest.approx(0.5)
    assert not math.isnan(gains["recommend", "without_marks"][1])
    assert as_stated(gains) == (4, 5)  # search without marks is better; bridge is no ablation
    reached = {(task, name): interval(f[task, "all", name, "ndcg", 10][0] for f in per_seed if (task, "all", name, "ndcg", 10) in f)
               for name in ("model", *names) for task in ("recommend", "search") if (task, name) != ("recommend", "search_alone")}  # fmt: skip
    page = study_page.parts(date(2026, 11, 21), "gensar", reached, gains, 2, (4, 5), {"bridge": {"dropout": 0.3}, "not_asked": {"epochs": 1}})
    assert "but for its part, bridge with dropout = 0.3." in page
    assert "4 of 5 signs" in page and "without marks" in page and "whole 0.300, 0.400" in page and "–" in page


def test_it_takes_its_recipe_apart_and_nothing_else() -> None:
    for subject in ("gensar", "gensr"):
        with pytest.raises(BadArgument, match=rf"study {subject} takes {subject} apart: found train\.recipe = 'bridge'"):
            run(load(), date(2026, 11, 21), "r", subject)
