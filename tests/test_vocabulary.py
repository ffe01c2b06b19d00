"""Tokens of identifiers: one name per item, or one per task."""

import numpy as np
import pytest

from model.vocabulary import Vocabulary, train_tokenizer

RECOMMEND, SEARCH = np.array([[0, 2, 0], [1, 0, 0]]), np.array([[0, 0, 1], [1, 4, 0]])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["red apple"], 300)


def test_one_name(tokenizer) -> None:
    vocabulary = Vocabulary.build(tokenizer, 100, {"joint": RECOMMEND})
    assert vocabulary.level_sizes == (2, 3, 1) and vocabulary.size == 109
    assert vocabulary.marks == {"recommended": 100, "queried": 101, "clicked": 102}
    assert vocabulary.item_tokens["joint"].tolist() == [[103, 107, 108], [104, 105, 108]]
    assert vocabulary.view("search") == vocabulary.view("recommend") == "joint"


@pytest.mark.parametrize(
    ("shared", "sizes", "recommend", "search"),
    [
        (0, (2, 3, 1, 2, 5, 2), [[0, 4, 5], [1, 2, 5]], [[6, 8, 14], [7, 12, 13]]),
        (1, (2, 3, 1, 5, 2), [[0, 4, 5], [1, 2, 5]], [[0, 6, 12], [1, 10, 11]]),
        (2, (2, 5, 1, 2), [[0, 4, 7], [1, 2, 7]], [[0, 2, 9], [1, 6, 8]]),
    ],
)
def test_a_name_per_task(tokenizer, shared, sizes, recommend, search) -> None:
    """Counted by hand: the shared levels' tokens, then recommend's own, then search's."""
    vocabulary = Vocabulary.build(tokenizer, -3, {"search": SEARCH, "recommend": RECOMMEND}, shared)  # three marks fewer: tokens count from 0
    assert vocabulary.level_sizes == sizes and vocabulary.size == sum(sizes) and vocabulary.depth == 3
    assert vocabulary.view("search") == "search" and vocabulary.view("recommend") == "recommend"
    assert vocabulary.item_tokens["recommend"].tolist() == recommend
    assert vocabulary.item_tokens["search"].tolist() == search


def test_a_shrunken_catalogue_keeps_its_parents_tokens(tokenizer) -> None:
    held = Vocabulary.build(tokenizer, 10, {"search": SEARCH, "recommend": RECOMMEND}, 1)
    smaller = Vocabulary.build(tokenizer, 10, {"search": SEARCH[:1], "recommend": RECOMMEND[:1]}, 1, held.level_sizes)
    assert smaller.level_sizes == held.level_sizes
    assert all(np.array_equal(smaller.item_tokens[view], held.item_tokens[view][:1]) for view in ("recommend", "search"))
