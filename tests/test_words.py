"""What a query's words tell of an item: BM25 before training, the same in training and in answers, and items found by name that nobody searched."""

import json
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import decoder_of, random_model, sources
from worlds import ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from model import rank, train, trie
from model.decode import Constraint, beam_search
from model.vocabulary import Vocabulary, train_tokenizer
from model.words import COMMON, K1, Words, carried

TOKENS = 20  # as `sources` draws them
TEXTS = st.lists(st.lists(st.integers(3, TOKENS - 1), max_size=8), min_size=2, max_size=9)


@given(texts=TEXTS, query=st.lists(st.integers(3, TOKENS + 9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_before_training_it_is_bm25(texts: list[list[int]], query: list[int]) -> None:
    """The library's numbers times K1 + 1, in the order of the answers; but for words that most items carry, and for tokens that are no words."""
    columns = np.random.default_rng(len(texts)).permutation(len(texts))
    told = Words.of(texts, columns, TOKENS, len(texts))(torch.tensor([query, [1] * len(query)])).detach().numpy()
    few = [token for token in query if token < TOKENS and 0 < sum(token in text for text in texts) <= COMMON * len(texts)]
    expected = np.zeros(len(texts), np.float32)
    if few:
        index = bm25s.BM25(method="lucene", k1=K1)
        index.index([[str(token) for token in text] for text in texts], show_progress=False)
        expected = (K1 + 1) * index.get_scores([str(token) for token in few])
    np.testing.assert_allclose(told[0, columns], expected, rtol=1e-4, atol=1e-5)
    assert not told[1].any()


@given(texts=TEXTS, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_training_and_answers_have_the_same_probabilities(texts: list[list[int]], seed: int) -> None:
    """Every item's score is minus its training loss, of learned weights too; they sum to 1; so does what an artifact kept."""
    model = random_model(level_sizes=(len(texts),))
    model.words = Words.of(texts, np.arange(len(texts)), TOKENS, len(texts))
    with torch.no_grad():
        model.words.weight += torch.randn(TOKENS, generator=torch.Generator().manual_seed(seed))
    source, start, items = sources(2, 12), torch.zeros(2, 1, dtype=torch.int64), torch.arange(len(texts))[:, None]
    kept = Words.loaded({f"words.{name}": held for name, held in model.words.named_parameters()} | model.words.kept(), len(texts))
    constraint = Constraint(trie.build(items.numpy()), [0])
    leaves, scores = beam_search(decoder_of(model), constraint, source, start, len(texts), len(texts), told=kept(source))
    for row in range(2):
        with torch.no_grad():
            losses = model(source[row].expand(len(texts), -1), start[row].expand(len(texts), -1), TOKENS + items)
        np.testing.assert_allclose(scores[row], -losses[leaves[row]], atol=1e-4)
    np.testing.assert_allclose(scores.exp().sum(dim=1), 1, atol=1e-4)


def test_a_singular_finds_the_plural() -> None:
    vocabulary = Vocabulary.build(train_tokenizer(["dolls doll houses house us"] * 2, 400), 400, {"joint": np.arange(3)[:, None]})
    doll, house, us = vocabulary.encode(["doll", "house", "us"], 9)
    texts = carried(vocabulary, ["Dolls & houses", "doll house", "us"], 9)
    assert set(doll + house) < set(texts[0]) and sorted(texts[1]) == sorted(doll + house) and texts[2] == us


def test_weights_are_learned() -> None:
    """A loss on one answer raises the weight of the word that it alone carries, and leaves the words of no query."""
    words = Words.of([[3], [4], [5]], np.arange(3), TOKENS, 3)
    torch.nn.functional.cross_entropy(words(torch.tensor([[3, 4]])), torch.tensor([0])).backward()
    assert words.weight.grad is not None and words.weight.grad[3] < 0 < words.weight.grad[4] and not words.weight.grad[5:].any()


@pytest.mark.parametrize("scheme", ["atomic", "semantic"])
def test_items_that_nobody_searched_are_found_by_name(tmp_path: Path, scheme: str) -> None:
    """A third of the twelve is never searched: by the words all are found, without them those alone that were."""
    unsearched = ITEMS[::3]
    rows = [row for row in checkerboard_rows() if row["task"] == "recommend" or row["target_item_id"] not in unsearched]
    found = {words: first_by_name(tmp_path / str(words), rows, scheme, words) for words in (True, False)}
    seen = [item for item in ITEMS if item not in unsearched]
    assert [item for item, by_name in zip(ITEMS, found[False], strict=True) if item == by_name] == seen
    # A name of several tokens has no term of its own: the setting changes nothing there.
    assert found[True] == (ITEMS if scheme == "atomic" else found[False])


def first_by_name(root: Path, rows: Sequence[dict], scheme: str, words: bool) -> list[str]:
    codes = np.arange(12)[:, None] if scheme == "atomic" else np.stack(np.divmod(np.arange(12), 4), axis=1)
    write_lake(root, list(rows), codes, scheme)
    (root / "spec.json").write_text(json.dumps(training_spec(root, scheme, words=words, epochs=15)))
    assert train.main([str(root / "spec.json")]) == 0
    ranker = rank.load(str(root / "artifact"))
    answers = ranker.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1, beams=12)
    return [ranker.item_ids[items[0]] for items, _ in answers]
