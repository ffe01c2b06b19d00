"""A token begins at the mean vector of the items that carry it."""

import numpy as np
import pytest

from model.initial import to_width, token_rows
from model.vocabulary import Vocabulary, train_tokenizer

TEXTS = ["red apple", "red cherry", "green apple", "blue whale"]
VECTORS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.float32)


def row(vocabulary: Vocabulary, word: str) -> int:
    (tokens,) = vocabulary.encode([word], 5)
    assert len(tokens) == 1
    return tokens[0]


@pytest.mark.parametrize("codes", [[[0], [1], [2], [3]], [[0, 0], [0, 1], [1, 0], [1, 1]]])
def test_rows_point_where_their_items_do(codes: list[list[int]]) -> None:
    tokenizer = train_tokenizer(TEXTS * 5, 600)
    vocabulary = Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), {"joint": np.array(codes)})
    rows = token_rows(VECTORS, TEXTS, vocabulary, std=0.1)
    known = np.linalg.norm(rows, axis=1) > 0
    np.testing.assert_allclose(np.linalg.norm(rows[known], axis=1), 0.1 * 2, rtol=1e-5)
    half = np.sqrt(0.5) * 0.2
    np.testing.assert_allclose(rows[row(vocabulary, "red")], [half, half, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rows[row(vocabulary, "apple")], [half, 0, half, 0], atol=1e-6)
    assert not rows[row(vocabulary, "whale")].any(), "nothing is known of the only item that says so"
    first = vocabulary.item_tokens["joint"][0]
    expected = [0.2, 0, 0, 0] if len(first) == 1 else [half, half, 0, 0]
    np.testing.assert_allclose(rows[first[0]], expected, atol=1e-6)


def test_width_keeps_inner_products() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    wide = to_width(vectors, 16, seed=1)
    np.testing.assert_allclose(wide @ wide.T, vectors @ vectors.T, atol=1e-4)
    flat = np.concatenate([vectors, 1e-4 * vectors], axis=1)
    narrow = to_width(flat, 6, seed=1)
    np.testing.assert_allclose(narrow @ narrow.T, vectors @ vectors.T, atol=1e-3)
