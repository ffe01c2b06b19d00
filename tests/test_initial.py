"""A token begins where the items that carry it are."""

import numpy as np

from model.initial import to_width, token_rows
from model.vocabulary import Vocabulary, train_tokenizer

TEXTS = ["red apple", "red cherry", "green apple", "blue whale"]
VECTORS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.float32)


def row(vocabulary: Vocabulary, word: str) -> int:
    (tokens,) = vocabulary.encode([word], 5)
    assert len(tokens) == 1
    return tokens[0]


def vocabulary_of(codes: dict[str, list[list[int]]], shared: int = 0) -> Vocabulary:
    tokenizer = train_tokenizer(TEXTS * 5, 600)
    return Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), {view: np.array(rows) for view, rows in codes.items()}, shared)


def test_words_and_atomic_tokens_point_where_their_items_do() -> None:
    vocabulary = vocabulary_of({"joint": [[0], [1], [2], [3]]})
    rows = token_rows(VECTORS, TEXTS, vocabulary, std=0.1)
    known = np.linalg.norm(rows, axis=1) > 0
    np.testing.assert_allclose(np.linalg.norm(rows[known], axis=1), 0.1 * 2, rtol=1e-5)
    half = np.sqrt(0.5) * 0.2
    np.testing.assert_allclose(rows[row(vocabulary, "red")], [half, half, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rows[row(vocabulary, "apple")], [half, 0, half, 0], atol=1e-6)
    assert not rows[row(vocabulary, "whale")].any(), "nothing is known of the only item that says so"
    np.testing.assert_allclose(rows[vocabulary.item_tokens["joint"][:, 0]], 0.2 * VECTORS, atol=1e-6)


def test_the_rows_of_an_identifier_add_up_to_its_item() -> None:
    """Codes that say all: every second code means the same beside either first one. Recommend's and search's second codes differ, their first is one."""
    centres, steps = np.array([[4, 0, 0, 0], [0, 4, 0, 0]], np.float32), np.array([[0, 0, 1, 0], [0, 0, -1, 0]], np.float32)
    vectors = (centres[:, None] + steps[None]).reshape(4, 4)
    vocabulary = vocabulary_of({"recommend": [[0, 0], [0, 1], [1, 0], [1, 1]], "search": [[0, 1], [0, 0], [1, 1], [1, 0]]}, shared=1)
    rows = token_rows(vectors, TEXTS, vocabulary, std=0.1)
    for tokens in vocabulary.item_tokens.values():
        np.testing.assert_allclose(rows[tokens].sum(axis=1), vectors * 0.1 * 2 / 4, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(rows[tokens], axis=2), [[0.2, 0.05]] * 4, atol=1e-6)


def test_width_keeps_inner_products() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    wide = to_width(vectors, 16, seed=1)
    np.testing.assert_allclose(wide @ wide.T, vectors @ vectors.T, atol=1e-4)
    flat = np.concatenate([vectors, 1e-4 * vectors], axis=1)
    narrow = to_width(flat, 6, seed=1)
    np.testing.assert_allclose(narrow @ narrow.T, vectors @ vectors.T, atol=1e-3)
