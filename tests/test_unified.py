"""The model's two matrices of tokens: one where they are tied, two where they are not, a checkpoint's own where it brings one."""

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from model.unified import from_checkpoint, from_sizes

TEXT, LEVELS = 20, (5, 4)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_an_untied_model_has_a_matrix_more_and_training_parts_the_two() -> None:
    torch.manual_seed(0)
    tied, untied = (from_sizes("micro", TEXT, LEVELS, 0.0, tied) for tied in (True, False))
    rows = untied.t5.shared.weight
    assert tied.t5.lm_head.weight is tied.t5.shared.weight and untied.t5.lm_head.weight is not rows
    assert parameters(untied) == parameters(tied) + rows.numel()
    source, target = torch.tensor([[3, 4, 5]]), torch.tensor([[TEXT, TEXT + 5]])
    untied(source, torch.zeros_like(target), target).mean().backward()
    head = untied.t5.lm_head.weight.grad
    # An answer that no prompt shows moves its output row alone; the decoder is told the first token, never the last.
    assert head[TEXT + 5].abs().sum() > 0 and rows.grad[TEXT + 5].abs().sum() == 0
    assert untied.shape()["tie_word_embeddings"] is False and untied.shape()["scale_decoder_outputs"] is False


@pytest.mark.parametrize("own_head", [False, True])
def test_a_checkpoint_keeps_its_own_head(tmp_path: Path, own_head: bool) -> None:
    torch.manual_seed(1)
    config = T5Config(vocab_size=TEXT, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1, tie_word_embeddings=not own_head)
    backbone = T5ForConditionalGeneration(config)
    if own_head:
        backbone.lm_head.weight = torch.nn.Parameter(torch.randn(TEXT, 8))
    backbone.save_pretrained(tmp_path)
    model = from_checkpoint(str(tmp_path), LEVELS, 0.0, TEXT)
    shared, head = model.t5.shared.weight, model.t5.lm_head.weight
    assert shared.shape == head.shape == (TEXT + sum(LEVELS), 8) and (head is shared) == (not own_head)
    torch.testing.assert_close(shared[:TEXT], backbone.shared.weight)
    torch.testing.assert_close(head[:TEXT], backbone.lm_head.weight)
    assert model.shape()["tie_word_embeddings"] == (not own_head)
