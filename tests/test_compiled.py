"""Compiled blocks are the same model: the same loss and gradients, the same dropout; and a machine that cannot compile trains all the same."""

import json
import logging
from pathlib import Path

import pytest
import torch
from worlds import checkerboard_rows, training_spec, write_lake

from model import artifact, compiled, train
from model.dropout import dropped
from model.unified import UnifiedModel, from_sizes
from model.vocabulary import PAD

needs_compiler = pytest.mark.skipif(compiled.missing() is not None, reason=f"{compiled.missing()}")


def step(model: UnifiedModel, length: int) -> list[torch.Tensor]:
    """The loss and the gradients of a batch of this length."""
    torch.manual_seed(length)
    source, start, target = torch.randint(5, 80, (6, length)), torch.randint(40, 80, (6, 2)), torch.randint(40, 80, (6, 3))
    source[2, length // 2 :], target[1, 2:] = PAD, PAD
    model.zero_grad()
    loss = model(source, start, target)
    loss.sum().backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


@needs_compiler
def test_loss_and_gradients_are_the_same_for_any_length() -> None:
    torch.manual_seed(0)
    model = from_sizes("micro", 40, (20, 20), dropout=0.0, tied=True)
    expected = {length: step(model, length) for length in (9, 17)}
    compiled.compile_blocks(model)
    for length, as_it_is in expected.items():
        for own, theirs in zip(step(model, length), as_it_is, strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_hides_the_same_elements(dtype: torch.dtype) -> None:
    """61 elements: no multiple of the eight that one random number decides."""
    found = []
    for function in (dropped, torch.compile(dropped)):
        torch.manual_seed(0)
        x = torch.linspace(-1, 1, 61, dtype=dtype, requires_grad=True)
        told = function(x, 0.3)
        told.sum().backward()
        found.append((told.detach(), x.grad))
    assert 0 < int((found[0][0] == 0).sum()) < 61
    torch.testing.assert_close(found[1], found[0])


@needs_compiler
def test_relu_is_torchs_own_at_zero_too() -> None:
    x = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 2.0])
    for function in (compiled.Relu(), torch.nn.ReLU()):
        given = x.clone().requires_grad_()
        function(given).backward(torch.full((5,), 3.0))
        assert given.grad.tolist() == [0, 0, 0, 3, 3]
        assert function(x).tolist() == torch.relu(x).tolist()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled.missing() == "no C++ compiler found (no-such-compiler; CXX names another)"
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert compiled.missing() == f"Python's headers are not here ({tmp_path}/Python.h; on Debian and Ubuntu: python3-dev)"
    (tmp_path / "Python.h").touch()
    assert compiled.missing() is None


def test_without_a_compiler_it_is_the_training_that_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    weights = []
    for name, asked in (("as asked", True), ("without", False)):
        (tmp_path / name).mkdir()
        write_lake(tmp_path / name, checkerboard_rows())
        path = tmp_path / name / "spec.json"
        path.write_text(json.dumps(training_spec(tmp_path / name, epochs=1, compiled=asked)))
        with caplog.at_level(logging.WARNING):
            assert train.main([str(path)]) == 0
        weights.append(artifact.load(tmp_path / name / "artifact")[0])
    assert "train.compiled: no C++ compiler found (no-such-compiler; CXX names another)" in caplog.text
    for tensor, other in zip(weights[0].values(), weights[1].values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=0)
