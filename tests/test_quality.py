"""The quality benchmark's table grows by a seed at a time: what is kept of earlier seeds, and what is compared user by user."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from seeds import SCORE_ALONE, gains, joined, less, over_seeds, summary


def told(*rows: tuple[str, dict[int, float]], seeds: list[int], machine: str, config_hash: str = "s") -> dict:
    """A results file whose rows are (method, seed → MRR)."""
    made = [{"task": "search", "method": method, "seeds": [*of], "metrics": {"mrr": over_seeds([*of.values()], [[0, 1]] * len(of))}} for method, of in rows]
    rival = {"task": "search", "method": "bm25", "metrics": {"mrr": {"value": 0.5, "ci": [0.4, 0.6]}}}
    return {"quality": [*made, rival], "seeds": seeds, "machine": machine, "commit": machine, "config_hash": config_hash}


def test_a_seed_joins_those_before_it_and_a_comparison_those_it_was_made_for():
    first = told(("model", {0: 0.1}), seeds=[0], machine="a")
    second = joined(first, told(("model", {1: 0.2}), ("model less x", {1: 0.02}), seeds=[1], machine="b"))
    third = joined(second, told(("model", {2: 0.6}), ("model less x", {2: 0.04}), seeds=[2], machine="b"))
    again = joined(third, told(("model", {1: 0.5}), ("model less x", {1: 0.0}), seeds=[1], machine="b"))
    held = {row["method"]: (row.get("seeds"), row["metrics"]["mrr"]) for row in third["quality"]}
    assert held["model"][0] == [0, 1, 2] and held["model"][1]["seeds"] == [0.1, 0.2, 0.6] and held["model"][1]["value"] == pytest.approx(0.3)
    assert held["model less x"][0] == [1, 2] and held["model less x"][1]["seeds"] == [0.02, 0.04]
    assert held["bm25"] == (None, {"value": 0.5, "ci": [0.4, 0.6]})
    assert (third["seeds"], third["machine"], third["commit"]) == ([0, 1, 2], "a; b", "a; b")
    of_seed = [dict(zip(row["seeds"], row["metrics"]["mrr"]["seeds"], strict=True)) for row in again["quality"][:2]]
    assert of_seed == [{0: 0.1, 2: 0.6, 1: 0.5}, {2: 0.04, 1: 0.0}]


def test_a_new_model_stands_beside_the_rivals_of_before():
    """Not beside what an earlier model was compared with, nor with its seeds: these are no figures of this one. A rival measured again joins its own."""
    of_model = ("model", {0: 0.1, 1: 0.2}), (SCORE_ALONE, {0: 0.1}), ("model less sasrec", {0: -0.2})
    before = told(*of_model, ("sasrec", {0: 0.3, 1: 0.3}), seeds=[0, 1], machine="a")
    now = told(("model", {2: 0.4}), seeds=[2], machine="b", config_hash="other")
    now["quality"] = now["quality"][:1]
    held = joined(before, now)
    assert {row["method"]: row["metrics"]["mrr"]["value"] for row in held["quality"]} == {"model": 0.4, "sasrec": 0.3, "bm25": 0.5}
    assert (held["seeds"], held["machine"], held["commit"]) == ([2], "a; b", "a; b")
    more = told(("model", {3: 0.6}), ("sasrec", {3: 0.6}), ("model less sasrec", {3: 0.1}), seeds=[3], machine="b", config_hash="other")
    found = {row["method"]: (row.get("seeds"), row["metrics"]["mrr"]["value"]) for row in joined(held, more)["quality"]}
    assert found["model"] == ([2, 3], pytest.approx(0.5)) and found["sasrec"] == ([0, 1, 3], pytest.approx(0.4)) and found["model less sasrec"] == ([3], 0.1)
    same = {row["method"]: row.get("seeds") for row in joined(before, now | {"config_hash": "s"})["quality"]}
    assert same == {"model": [0, 1, 2], SCORE_ALONE: [0], "sasrec": [0, 1], "model less sasrec": [0], "bm25": None}, (
        "a seed more of the model of before loses nothing"
    )


def test_what_users_gain_is_told_apart_where_their_own_spread_would_hide_it():
    """Half of the users are answered at once by both methods; of the others, ours has one rank better for all."""
    theirs = np.array([1] * 500 + [4] * 500)
    ours = np.where(theirs == 4, 3, theirs)
    assert less(ours, theirs)["mrr"].tolist() == [0.0] * 500 + [1 / 3 - 1 / 4] * 500
    apart, alone = summary([less(ours, theirs)])["mrr"], [summary([gains(ranks)])["mrr"] for ranks in (ours, theirs)]
    assert apart["value"] == pytest.approx(alone[0]["value"] - alone[1]["value"]) and 0 < apart["ci"][0] < apart["value"] < apart["ci"][1]
    assert alone[0]["ci"][0] < alone[1]["ci"][1], "by their own intervals they are level"
