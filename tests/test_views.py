"""The views' filters on vectors whose weights are known, what fills an empty place, and that slots stand where the prompt says."""

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from model.contrast import contrast
from model.slots import embed, mark, sight
from model.unified import from_sizes
from model.views import FILTERS, Views, pooled, weighed
from model.vocabulary import PAD

WIDTH, D, LIMIT = 8, 16, 5


def views(kind: str, names: tuple[str, ...] = ("collaborative", "semantic")) -> Views:
    torch.manual_seed(0)
    return Views({name: {"collaborative": WIDTH, "semantic": D}[name] for name in names}, D, LIMIT, kind, 0.0, 0.1).eval()


def given(seed: int = 0, requests: int = 3, candidates: int = 4) -> tuple[dict, dict, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    widths = {"collaborative": WIDTH, "semantic": D}
    history = {name: torch.randn(requests, LIMIT, width, generator=made) for name, width in widths.items()}
    items = {name: torch.randn(requests, candidates, width, generator=made) for name, width in widths.items()}
    return history, items, torch.arange(LIMIT) < torch.tensor([[5], [2], [0]])


def test_weights_by_hand() -> None:
    """One head, two of three items present; scores 0 and ln 3: weights 1/4 and 3/4. None present: all on the first."""
    scores = torch.tensor([0.0, np.log(3.0), 50.0]).expand(2, 1, 1, 3)
    present = torch.tensor([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(weighed(scores, present)[:, 0, 0], [[0.25, 0.75, 0], [1, 0, 0]], atol=1e-6)
    two_heads = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # the first head takes item 0, the second item 1
    np.testing.assert_allclose(pooled(two_heads, torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]]))[0, 0], [1, 2, 7, 8])


@pytest.mark.parametrize("kind", FILTERS)
def test_padding_and_neighbours_change_nothing(kind: str) -> None:
    """A request answered alone, without its padding, and one candidate at a time: the same slots."""
    made, (history, items, present) = views(kind), given()
    together = made(made.contexts(history, present), items, present)
    assert together.shape == (3, 4, 4, D)
    for row, length in enumerate([5, 2, 1]):
        alone = {name: x[row : row + 1, :length] for name, x in history.items()}
        here = present[row : row + 1, :length]
        for one in range(4):
            candidate = {name: x[row : row + 1, one : one + 1] for name, x in items.items()}
            torch.testing.assert_close(made(made.contexts(alone, here), candidate, here)[0, 0], together[row, one])


@pytest.mark.parametrize(("kind", "aware"), [("bilinear", True), ("cross_attention", True), ("mean", False)])
def test_only_the_mean_is_blind_to_the_candidate(kind: str, aware: bool) -> None:
    made, (history, items, present) = views(kind), given()
    slots = made(made.contexts(history, present), items, present)
    seen = (slots[0, 0, :2] - slots[0, 1, :2]).abs().amax(dim=-1) > 1e-4
    assert seen.tolist() == [aware, aware]
    # A history of one item, or of none, leaves nothing to filter.
    assert torch.allclose(slots[2, 0, :2], slots[2, 3, :2])


def test_it_begins_by_taking_what_is_like_the_candidate() -> None:
    made, (history, items, present) = views("bilinear"), given()
    items["collaborative"][0, 0] = 4 * history["collaborative"][0, 3]
    context = made.contexts(history, present)
    torch.testing.assert_close(context["collaborative"][0], history["collaborative"][0])
    weights = made.view["collaborative"].weights(context["collaborative"], items["collaborative"], present)
    assert weights[0, 0, 0].argmax() == 3


def test_unknown_items_and_empty_histories_have_vectors_of_their_own() -> None:
    made, (history, items, present) = views("bilinear"), given()
    items["semantic"][0, 1] = 0
    slots = made(made.contexts(history, present), items, present)
    view = made.view["semantic"]
    torch.testing.assert_close(slots[0, 1, 3], view.slot(view.unknown))
    torch.testing.assert_close(slots[2, 0, 1], view.slot(view.empty))
    assert torch.isfinite(slots).all()
    slots.square().sum().backward()
    assert view.unknown.grad.any() and view.empty.grad.any() and all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_later_items_are_told_from_earlier_ones() -> None:
    made, (history, items, present) = views("bilinear"), given()
    with torch.no_grad():
        for view in made.view.values():
            view.age.normal_()
    turned = {name: torch.cat([x[:1].flip(1), x[1:]]) for name, x in history.items()}
    first, second = (made(made.contexts(x, present), items, present)[:, :, :2] for x in (history, turned))
    assert not torch.allclose(first[0], second[0]) and torch.equal(first[1:], second[1:])


def test_a_filter_that_is_none() -> None:
    with pytest.raises(ValueError, match="bilinear, cross_attention, mean"):
        views("hard")


def test_slots_stand_where_their_marks_stand() -> None:
    shared, slots = torch.arange(10.0)[:, None] * torch.ones(4), torch.tensor([[[100.0] * 4, [200.0] * 4], [[300.0] * 4, [400.0] * 4]])
    source = torch.tensor([[3, mark(1), mark(0), 1], [mark(0), 5, PAD, PAD]])
    assert embed(shared, source, slots)[..., 0].tolist() == [[3, 200, 100, 1], [300, 5, 0, 0]]
    open_ = (sight(source, torch.float32) == 0)[:, 0].int()
    assert open_[0].tolist() == [[1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1]]
    assert open_[1].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_one_pass_of_the_model_is_the_plain_t5s() -> None:
    """Slots filled with the rows of words: what T5 itself makes of those words, where only the attention is kept from the slots."""
    torch.manual_seed(1)
    model = from_sizes("micro", 30, (2,), 0.0, False).eval()
    source = torch.tensor([[3, 7, mark(0), 8, 1], [3, mark(0), 9, 1, PAD]])
    told = torch.where(source < 0, torch.tensor([[20], [21]]), source)
    t5: T5ForConditionalGeneration = model.t5
    with torch.no_grad():
        hidden = model.first_step(source, t5.shared.weight[torch.tensor([[20], [21]])])
        states = t5.encoder(input_ids=told, attention_mask=sight(source, torch.float32)).last_hidden_state
        plain = t5(encoder_outputs=(states,), attention_mask=(source != PAD).long(), decoder_input_ids=torch.zeros(2, 1, dtype=torch.int64)).logits[:, 0]
    torch.testing.assert_close(hidden @ t5.lm_head.weight.T, plain)


def test_contrast_of_random_vectors_is_near_ln_b() -> None:
    """200 rows of 768 dimensions: 5.39, and ln 200 = 5.30 (reference gensr 5, item 6); with a LayerNorm behind it, it was 1,046."""
    torch.manual_seed(0)
    loss = contrast(torch.randn(200, 768), torch.randn(200, 768), torch.arange(200))
    assert np.log(200) < float(loss) < np.log(200) + 0.2


def test_contrast_by_hand() -> None:
    """Two owners of two rows each; partners alike, owners at right angles: one wrong answer each, e^-(1/τ) of the right one's weight."""
    left = torch.eye(2).repeat_interleave(2, dim=0)
    owner = torch.tensor([7, 7, 9, 9])
    np.testing.assert_allclose(float(contrast(left, left, owner)), np.log1p(2 * np.exp(-1 / 0.07)), atol=1e-6)
    crossed = contrast(left, left.flip(0), owner)
    np.testing.assert_allclose(float(crossed), np.log(2 * np.exp(1 / 0.07) + 1), rtol=1e-6)
    assert float(contrast(left[:2], left[:2], owner[:2])) == 0.0
