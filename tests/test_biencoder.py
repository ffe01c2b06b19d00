"""The bi-encoder on texts whose partners are known."""

import numpy as np
import pytest
import torch

from model import biencoder, encoders

THINGS = ["dog", "cat", "car", "train", "apple", "pear", "violin", "drum"]
CALLED = ["hound", "kitten", "auto", "railway", "fruit", "juicy", "fiddle", "beat"]  # no query has a word of its item
TEXTS = [f"{thing} toy shop" for thing in THINGS] + CALLED
CLICKS = np.array([(8 + n, n) for n in range(8)] * 20)
TOGETHER = np.array([(n, n ^ 1) for n in range(8)] * 20)  # dog with cat, car with train, …


def first(encoder: encoders.TfidfEncoder, asked: list[str], skip_self: bool = False) -> list[int]:
    scores = encoder.encode(asked) @ encoder.encode(TEXTS[:8]).T
    if skip_self:
        np.fill_diagonal(scores, -1)
    return scores.argmax(axis=1).tolist()


def test_it_learns_words_that_no_item_has(tmp_path) -> None:
    untuned = biencoder.fit(TEXTS, [CLICKS[:0]], [1.0], 8, 1)
    tuned = biencoder.fit(TEXTS, [CLICKS], [1.0], 8, 1, view="search")
    assert first(tuned, CALLED) == list(range(8)) != first(untuned, CALLED)
    again = biencoder.fit(TEXTS, [CLICKS], [1.0], 8, 1, view="search")
    assert again.version == tuned.version and np.array_equal(again.encode(TEXTS), tuned.encode(TEXTS))
    assert biencoder.fit(TEXTS, [CLICKS], [1.0], 8, 2, view="search").version != tuned.version
    tuned.save(tmp_path / "encoder")
    loaded = encoders.load(tmp_path / "encoder")
    assert np.array_equal(loaded.encode(TEXTS), tuned.encode(TEXTS)) and loaded.settings == {"text_dim": 8, "seed": 1, "view": "search"}


def test_the_second_loss_brings_items_of_one_user_together() -> None:
    alone, both = (biencoder.fit(TEXTS, [CLICKS, TOGETHER], [1.0, weight], 8, 1) for weight in (0.0, 1.0))
    partners = [n ^ 1 for n in range(8)]
    assert first(both, TEXTS[:8], skip_self=True) == partners != first(alone, TEXTS[:8], skip_self=True)
    assert {n // 2 for n in first(both, CALLED)} == set(range(4)) and [n // 2 for n in first(both, CALLED)] == [n // 2 for n in range(8)]


def test_next_to_nothing() -> None:
    for texts in ([""], ["two words"], []):
        assert biencoder.fit(texts, [np.zeros((0, 2), np.int64)], [1.0], 4, 1).encode(["two words"]).shape == (1, 4)
    one = biencoder.fit(["two words", "words"], [np.array([[1, 0]])], [1.0], 4, 1)
    assert np.isfinite(one.components).all()


@pytest.mark.parametrize("pairs", [[[9, 0], [9, 1], [8, 2]], [[9, 0], [8, 0], [7, 2]], [[5, 6], [6, 5], [8, 2]]], ids=["query", "item", "itself"])
def test_partners_in_the_batch_are_not_wrong_answers(pairs: list[list[int]]) -> None:
    """One query of two items, two queries of one item, two items as each other's partners: by hand, the first two rows have one wrong answer to
    compare with (the third's, at right angles), the third row has two."""
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) / biencoder.SCALE**0.5
    expected = np.mean([np.log(1 + np.exp(-1)), np.log(1 + np.exp(-1)), np.log(1 + 2 * np.exp(-1))])
    np.testing.assert_allclose(float(biencoder.contrast(left, left, torch.tensor(pairs))), expected, rtol=1e-5)
