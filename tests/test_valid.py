"""A softmax over what may follow: in training what decoding with the same trie makes of it, and a literal case."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from test_decode import CODES, STARTS, random_model, sources
from tokenizers import Tokenizer, models
from torch.nn import functional as F

from model import trie
from model.artifact import weights_of
from model.decode import Constraint, Decoder, beam_search
from model.valid import CERTAIN, FREE, Valid
from model.vocabulary import MARKS, Vocabulary

FIRST = 20  # rows of words and marks
WHOLE = random_model()  # its softmax runs over text and identifiers
WHOLE.first_answer = 0


def vocabulary_of(codes: dict[str, list[tuple[int, ...]]], shared: int = 0) -> Vocabulary:
    held = {view: np.array(rows) for view, rows in codes.items()}
    return Vocabulary.build(Tokenizer(models.WordLevel({}, "")), FIRST - len(MARKS), held, shared)


def test_nodes_and_children_of_two_views_that_share_a_level() -> None:
    """Items 0 and 1 begin alike; by search item 2 is named like neither."""
    vocabulary = vocabulary_of({"recommend": [(0, 1), (0, 0), (1, 1)], "search": [(0, 2), (0, 1), (1, 0)]}, shared=1)
    assert vocabulary.level_sizes == (2, 2, 3)  # shared, recommend's own, search's own
    valid = Valid(vocabulary)
    follow = [valid.tokens[a:b].tolist() for a, b in zip(valid.first_child[:-1], valid.first_child[1:], strict=True)]
    assert follow == [[20, 21], [22, 23], [23], [20, 21], [25, 26], [24]]
    assert valid.above["recommend"].tolist() == [[0, 1], [0, 1], [0, 2]] and valid.above["search"].tolist() == [[3, 4], [3, 4], [3, 5]]
    hidden, weight = torch.zeros(3, 16), torch.randn(27, 16)
    losses = valid(hidden, torch.tensor([0, 1, 2]), torch.tensor([21, 23, 23]), weight, 0.0)
    np.testing.assert_allclose(losses, [np.log(2), np.log(2), 0.0], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_among_children(smoothing: float) -> None:
    codes = [(a, b) for a in range(3) for b in range(a, 4)]
    valid, generator = Valid(vocabulary_of({"joint": codes})), torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(rows, 16, generator=generator) for rows in (len(codes), FIRST + 7))
    losses = valid(hidden, torch.from_numpy(valid.above["joint"][:, 1]), torch.tensor([FIRST + 3 + b for _, b in codes]), weight, smoothing)
    for row, (a, b) in enumerate(codes):
        logits = hidden[row] @ weight[FIRST + 3 + a : FIRST + 7].T
        expected = F.cross_entropy(logits[None], torch.tensor([b - a]), label_smoothing=smoothing)
        torch.testing.assert_close(losses[row], expected)


@given(codes=CODES)
@settings(max_examples=30, deadline=None)
def test_training_and_decoding_have_the_same_probabilities(codes: list[tuple[int, ...]]) -> None:
    """Every item's beam score is minus its training loss, and they are a distribution over the catalogue; who is away leaves it as it is."""
    vocabulary = vocabulary_of({"joint": [*codes, (4, 3, 2)] if (4, 3, 2) not in codes else codes})  # of level sizes 5, 4, 3
    rows, source = vocabulary.codes["joint"], sources(1, 12)
    built = trie.build(rows)
    decoder = Decoder({name.removeprefix("t5."): weight for name, weight in weights_of(WHOLE).items()}, WHOLE.t5.config.to_dict(), 0)
    asked = {"opening": [7], "closing": [1], "among": "valid"}
    leaves, scores = beam_search(decoder, Constraint(built, [20, 25, 29]), source, STARTS[:1], len(rows), len(rows), **asked)
    answers = torch.from_numpy(np.concatenate([np.full((len(rows), 1), 7), vocabulary.item_tokens["joint"], np.ones((len(rows), 1), np.int64)], axis=1))
    valid = Valid(vocabulary)
    nodes = torch.full_like(answers, CERTAIN)
    nodes[:, 1:-1] = torch.from_numpy(valid.above["joint"])
    WHOLE.valid = valid
    with torch.no_grad():
        same = source.expand(len(rows), -1), STARTS[:1].expand(len(rows), -1), answers, 0.0
        expected = -WHOLE(*same, nodes).numpy()
        torch.testing.assert_close(WHOLE(*same, torch.full_like(answers, FREE)), WHOLE(*same))
    np.testing.assert_allclose(scores[0], expected[built.items[leaves[0].numpy()]], atol=1e-4)
    np.testing.assert_allclose(scores.exp().sum(), 1, atol=1e-4)
    if len(rows) > 1:
        present = np.arange(len(rows)) > 0
        fewer, of_fewer = beam_search(decoder, Constraint(built.allow(present), [20, 25, 29]), source, STARTS[:1], len(rows), len(rows), **asked)
        found = torch.isfinite(of_fewer[0])
        np.testing.assert_allclose(of_fewer[0][found], expected[built.items[fewer[0][found].numpy()]], atol=1e-4)
