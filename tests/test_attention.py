"""The attention that trains on a CPU is T5's own: the same loss, the same gradients, and dropout that leaves the mean where it was."""

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model import attention
from model.dropout import dropped
from model.unified import from_sizes
from model.vocabulary import PAD


def test_loss_and_gradients_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model = from_sizes("micro", 40, (20, 20), dropout=0.0, tied=True).double()
    source, start, target = torch.randint(5, 80, (6, 17)), torch.randint(40, 80, (6, 2)), torch.randint(40, 80, (6, 5))
    source[2, 9:], source[4, 3:], target[1, 3:] = PAD, PAD, PAD
    found = {}
    for name in (attention.NAME, "eager"):
        model.t5.set_attn_implementation(name)
        model.zero_grad()
        loss = model(source, start, target)
        loss.sum().backward()
        found[name] = [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    for own, theirs in zip(found[attention.NAME], found["eager"], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9)


def test_a_gpu_is_given_the_same_masks() -> None:
    """Where the tensors are elsewhere, transformers' sdpa gets what ours got: bias and mask as numbers to add, and T5's scale of 1."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 7, 8, dtype=torch.double)
    bias, mask = torch.randn(1, 4, 7, 7, dtype=torch.double), torch.zeros(2, 1, 7, 7, dtype=torch.double)
    mask[1, ..., 5:] = torch.finfo(torch.double).min
    module = from_sizes("micro", 40, (20,), dropout=0.0, tied=True).t5.encoder.block[0].layer[0].SelfAttention
    told = {"attention_mask": mask, "position_bias": bias, "scaling": module.scaling}
    own, _ = attention.attention(module, query, key, value, **told)
    theirs, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, **told)
    torch.testing.assert_close(own, theirs)


def test_dropout_of_weights_keeps_their_mean_and_takes_its_share() -> None:
    torch.manual_seed(0)
    told = dropped(torch.ones(400, 500), 0.3)
    assert abs(float((told == 0).float().mean()) - 77 / 256) < 0.005  # .3 to the next 1/256
    assert abs(float(told.mean()) - 1) < 0.01
    assert sorted(told.unique().tolist()) == [0.0, torch.tensor(256 / (256 - 77)).item()]
