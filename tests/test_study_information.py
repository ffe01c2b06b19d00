"""What the study of information makes of its cells' figures, and a whole one of two steps."""

import json
import math
from datetime import date

import pytest
from deltalake import DeltaTable

from jobs import study_information, study_page
from jobs.config import load
from jobs.study import run
from jobs.study_information import CLAIM, cells_of, rows_of, summary, verdict
from jobs.sweep import Sweep, finished, interval
from model import pair_study
from model.pair_study import ARMS


def figures(bound: float, cosine: float) -> dict[str, float]:
    made = {f"{kind}.{task}": bound for kind in ("bound", "critic", "information") for task in ("recommend", "search")}
    made |= {"cosine_first": cosine, "cosine_all": cosine, "seconds": 1.0}
    return made | {f"{name}@{step}": bound + step for name in ("valid_recommend", "valid_search", "cosine_all") for step in (1, 50)}


def test_gensr_is_held_against_the_twin_of_its_own_seed() -> None:
    """Bounds of .30 and .40 over twins of .20 and .32: .10 and .08 more, however far the seeds are apart."""
    bounds = dict.fromkeys(((arm, seed) for arm in ARMS for seed in (0, 1)), 0.2)
    bounds |= {("gensr", 0): 0.30, ("gensr", 1): 0.40, ("twin", 0): 0.20, ("twin", 1): 0.32}
    cells = [{"arm": arm, "seed": seed} for arm, seed in bounds]
    made = [figures(bound, {"gensr": 0.3}.get(arm, 0.1)) for (arm, _), bound in bounds.items()]
    of_search = [
        {name: value for name, value in of.items() if cell["arm"] != "search_alone" or name.endswith("search")} for cell, of in zip(cells, made, strict=True)
    ]
    found = summary(cells, of_search)
    assert found["twin"]["lost.search"] == pytest.approx(interval([0.10, 0.08]))
    assert "lost.search" not in found["gensr"] and found["gensr"]["cosine_all@50"][0] == pytest.approx(50.35)
    assert "neither measurably more nor less than the twin (+90 thousandths" in verdict(found) and "gradients are least at odds" in verdict(found)
    page = study_page.information(date(2026, 11, 21), found, "<said>", 2)
    assert "&lt;said&gt;" in page and page.count("<svg") == 3 and "what the world tells" in page
    assert ">without collaborative<" in page
    alone = page[page.index(">search alone<") : page.index("</tr>", page.index(">search alone<"))]
    assert alone.count("<td>–</td>") == 2 and alone.count("0.150") == 1  # less than gensr: .10 and .20


def test_rows_tell_task_step_and_arm() -> None:
    told = {"bound.search": 0.2, "valid_recommend@50": 0.3, "cosine_all@50": 0.1, "cosine_all": 0.4, "bound_error.search": math.nan, "seconds": 3.0}
    assert rows_of({"arm": "twin", "seed": 1}, told) == [
        ("search", math.inf, "twin.bound", 0.2),
        ("recommend", 50.0, "twin.valid", 0.3),
        ("both", 50.0, "twin.cosine_all", 0.1),
        ("both", math.inf, "twin.cosine_all", 0.4),
    ]


def test_a_study_whose_cells_are_done_becomes_rows_and_a_page(spark, config) -> None:
    asked = load(None, [f"lake.root={config.lake.root}", "study.seeds=[0]", "study.points=ends"])
    assert {cell["arm"] for cell in cells_of(asked)} == set(ARMS) > set(CLAIM)
    sweep = Sweep("information", pair_study.train_cell, study_information.MADE_BY)
    for cell in cells_of(asked):
        path = finished(asked, sweep, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures(0.1 * list(ARMS).index(cell["arm"]) + 0.1, 0.5)))
    told = run(asked, date(2026, 11, 21), "r", "information")
    assert told["core_seconds"] == len(ARMS) and told["figures"]["twin"]["bound.search"][0] == pytest.approx(0.3)
    rows = DeltaTable(f"{config.lake.root}/studies").to_pyarrow_table().to_pylist()
    assert len(rows) == told["rows"] == len(ARMS) * (len(figures(0, 0)) - 1) and {row["study"] for row in rows} == {"information"}
