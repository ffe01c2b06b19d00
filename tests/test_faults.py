"""The fault table R1 to R50: every row is injected by a marked test (`pytest -k R12`, `pytest -m fault`), or faults.toml says why it is not."""

import ast
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROWS = {f"R{n}" for n in range(1, 51)}


def marked(path: Path) -> set[str]:
    """The rows that the file's tests carry: the arguments of its `pytest.mark.fault(…)`."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {argument.value for call in calls if ast.unparse(call.func) == "pytest.mark.fault" for argument in call.args if isinstance(argument, ast.Constant)}


def test_every_row_is_injected_or_named() -> None:
    named = tomllib.loads((HERE / "faults.toml").read_text(encoding="utf-8"))
    injected = set().union(*(marked(path) for path in HERE.glob("test_*.py")))
    assert injected - ROWS == set()
    assert ROWS - injected - set(named["uncovered"]) == set(), "neither injected nor named"
    assert set(named["uncovered"]) & injected == set(), "injected by now: take it out of the table"
    assert set(named["partly"]) <= injected, "what is partly covered has a test"
    assert all(len(reason) > 20 for rows in named.values() for reason in rows.values())


def test_a_planted_mark_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text('@pytest.mark.slow\n@pytest.mark.fault("R7", "R99")\ndef test_it(): pass\n')
    assert marked(tmp_path / "test_planted.py") == {"R7", "R99"}
