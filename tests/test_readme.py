"""What the README says of tables and numbers is what the code and the result files say."""

import importlib.util
import json
import math
from datetime import date
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from deltalake import write_deltalake

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "tests" / "benchmarks" / "results"
# and faults: results from which the README makes tables; the others are figures
TABLES = (
    "night_",
    "study_",
    "identifiers",
    "quality_",
    "dual_names",
    "decoding_",
    "gensr_plateau",
    "information",
    "parts_",
    "joint_",
    "catalogue",
    "precision",
    "speed_",
)
FIGURE = {"figure", "value", "unit", "ci", "rival", "rival_value", "command", "data", "seeds", "machine", "date", "commit"}


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tests" / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "benchmarks")
    assert benchmark("readme").main(["--check"]) == 0


def test_a_study_becomes_figures_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of `studies` of two seeds: gains of .5 and .7 at KL 0, of .1 and .2 at the highest."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "benchmarks")
    studies, day = benchmark("studies"), date(2026, 11, 21)
    gains = {(0.0, 0): 0.5, (0.0, 1): 0.7, (math.inf, 0): 0.1, (math.inf, 1): 0.2}
    of_cell = {"kl": 0.0, "examples_search": 9.0, "single.recommend": 1.0, "same_steps.recommend": 1.0}
    rows = [
        {"ds": day, "study": "h1", "side": "recommend", "knob": knob, "seed": seed, "figure": figure, "value": value}
        for (knob, seed), gain in gains.items()
        for figure, value in {**of_cell, "kl": min(knob, 1.5), "joint.recommend": 1 + gain}.items()
    ]
    write_deltalake(str(tmp_path / "studies"), pa.Table.from_pylist(rows), partition_by=["ds", "study"])
    found = studies.points(tmp_path, "h1", day)
    first, last = studies.headlines("h1", found)
    assert (first["figure"], first["value"], first["rival_value"]) == ("h1_gain_at_kl0", 0.6, 0.6)
    assert (last["figure"], last["value"]) == ("h1_gain_at_max_kl", 0.15) and last["ci"] == pytest.approx([0.15 - 0.6353, 0.15 + 0.6353], abs=1e-3)
    held = {
        "study": "h1",
        "command": "c",
        "machine": "m",
        "core_seconds": 90,
        "seeds": [0, 1],
        "date": "d",
        "commit": "x",
        "points": studies.bare(tuple(found)),
    }
    (tmp_path / "study_h1.json").write_text(json.dumps(held))
    table = benchmark("readme").study(tmp_path / "study_h1.json")
    assert "| recommend | 0 | +60 % [-67 %, +187 %] | +60 % [-67 %, +187 %] | +45 % [-19 %, +109 %] |" in table
    assert "| recommend | 1.50 | +15 % [-49 %, +79 %] |" in table and "seeds 0, 1" in table


def test_a_joint_study_becomes_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds, joint .2 and .4, alone .1: what each reached comes from the lake's rows, slices that no page shows are left out."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "benchmarks")
    joint, day = benchmark("joint"), date(2026, 11, 21)
    values = {"model": (0.2, 0.4), "TASK_same_epochs": (0.1, 0.1), "TASK_same_steps": (0.1, 0.1)}
    rows = [
        {"ds": day, "study": "joint", "side": task, "seed": seed, "figure": f"{model.replace('TASK', task)}.{figure}", "value": held[seed]}
        for task in ("recommend", "search")
        for model, held in values.items()
        for seed in (1, 0)
        for figure in ("all.ndcg@10", "all.recall@30", "item:head.ndcg@10")
    ]
    write_deltalake(str(tmp_path / "studies"), pa.Table.from_pylist(rows), partition_by=["ds", "study"])
    reached = joint.reached(tmp_path, day)
    assert reached["search"]["model.ndcg@10"] == [0.2, 0.4] and set(reached["recommend"]) == {
        f"{model}.{figure}" for model in ("model", "recommend_same_epochs", "recommend_same_steps") for figure in ("ndcg@10", "recall@30")
    }
    gains = {f"{task}.{name}.{task}_same_steps": [2.0, 1.0, 3.0] for task in ("recommend", "search") for name in ("item:head", "all", "history:0")}
    told = {"command": "c", "machine": "m", "seeds": [0, 1], "date": "d", "commit": "x", "advice": "joint", "logs": {"kl": 0.5}}
    path = tmp_path / "joint_x.json"
    path.write_text(json.dumps(told | {"reached": reached, "gains": gains}))
    lines = benchmark("readme").joint(path).splitlines()
    assert lines[2] == "KL(recommend to search), nats: 0.50. The study's advice: *joint*"
    assert [line for line in lines if line.startswith("| **joint** | 0.3000 [")] and "| alone, same steps | 0.1000 [0.1000, 0.1000]" in "\n".join(lines)
    assert lines[-2:] == [
        "| all | – | +200 % [+100 %, +300 %] | – | +200 % [+100 %, +300 %] |",
        "| item:head | – | +200 % [+100 %, +300 %] | – | +200 % [+100 %, +300 %] |",
    ]


def test_seeds_measured_on_two_machines_become_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 twice, the second time with another variant alone, and seed 1: nothing is lost, what is newer counts, and gains are of seeds that have both."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "benchmarks")
    parts = benchmark("parts")

    def measured(seed: str, commit: str, **ndcg: float) -> dict:
        figures = {name: {"recommend.ndcg@10": value, "search.mrr@20": value / 2} for name, value in ndcg.items()}
        few = {name: {"recommend.hitrate@1": 0.5} for name in ndcg}
        return {"settings": [], "seeds": [int(seed)], "commit": commit, "catalogue": {seed: figures}, "candidates": {seed: few}}

    first = measured("0", "a", model=0.2, bridge=0.4)
    then = parts.joined(first, measured("0", "b", model=0.3, without_shared=0.1))
    held = parts.joined(then, measured("1", "b", model=0.6, bridge=0.3))
    assert held["seeds"] == [0, 1] and held["commit"] == "a, b"
    found = parts.gains(held["catalogue"])
    assert found["recommend", "bridge"][0] == pytest.approx((0.3 / 0.4 - 1 + 0.6 / 0.3 - 1) / 2)
    assert found["recommend", "without_shared"][0] == pytest.approx(2.0) and math.isnan(found["recommend", "without_shared"][1])
    with pytest.raises(ValueError, match="settings are"):
        parts.joined(held, measured("2", "c", model=0.1) | {"settings": ["train.epochs=9"]})

    told = {"command": "parts.py gensar", "data": "amazon_toys", "machine": "m", "date": "d"}
    monkeypatch.setattr("figures.HERE", tmp_path)
    (tmp_path / "results").mkdir()
    parts.headlines("gensar", held | told)
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    assert written["gensar_toys_rec_ndcg10"]["value"] == pytest.approx(0.45) and written["gensar_toys_rec_ndcg10"]["rival_value"] == pytest.approx(0.35)
    assert written["bridge_toys_hem_mrr"]["value"] == pytest.approx(0.175) and written["gensar_ablations_as_stated"]["rival_value"] == 1
    two = measured("0", "a", model=0.3, first_stage=0.2) | told
    for over, made in (("bridge", False), ("gensar", True)):
        parts.headlines("gensr", two | {"settings": [f"gensr.candidates_from={over}"]})
        assert (tmp_path / "results" / "two_stage_rec_ndcg10.json").exists() == made, "the figures are of gensar → gensr"
    path = tmp_path / "parts_gensar.json"
    path.write_text(json.dumps(held | told))
    rows = [line for line in benchmark("readme").parts(path).splitlines() if line.startswith("| **whole**")]
    assert rows[0].startswith("| **whole** | 2 | – | 0.4500 [") and rows[0].endswith("] | – | 0.5000 [0.5000, 0.5000] | – | – | – | – |")
    assert "0.2250 [" in rows[1]


@pytest.mark.parametrize("path", sorted(p for p in RESULTS.glob("*.json") if not p.stem.startswith(TABLES) and p.stem != "faults"), ids=lambda path: path.stem)
def test_a_figure_says_all_that_it_must(path: Path) -> None:
    held = json.loads(path.read_text())
    assert set(held) == FIGURE and held["figure"] == path.stem and isinstance(held["value"], (int, float)) and len(held["seeds"]) >= 1
