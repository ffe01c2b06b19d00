"""Pointers: BM25 before training, the same in training and in answers, items found by name that nobody searched, and none twice where nobody comes back."""

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
from model.pointers import COMMON, K1, Pointers, carried
from model.vocabulary import Vocabulary, train_tokenizer

TOKENS = 20  # as `sources` draws them
TEXTS = st.lists(st.lists(st.integers(3, TOKENS - 1), max_size=8), min_size=2, max_size=9)


@given(texts=TEXTS, query=st.lists(st.integers(3, TOKENS + 9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_before_training_it_is_bm25(texts: list[list[int]], query: list[int]) -> None:
    """The library's numbers times K1 + 1, in the order of the answers; but for words that most items carry, and for tokens that are no words."""
    columns = np.random.default_rng(len(texts)).permutation(len(texts))
    query = [token for token in query if token < TOKENS + len(texts)]
    told = added(Pointers.of(texts, columns, TOKENS, len(texts)), torch.tensor([[4, *query], [1] * (len(query) + 1)])).numpy()
    few = [token for token in [4, *query] if token < TOKENS and 0 < sum(token in text for text in texts) <= COMMON * len(texts)]
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
    model.pointers = Pointers.of(texts, np.arange(len(texts)), TOKENS, len(texts))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.pointers.parameters():
            parameter += torch.randn(TOKENS, generator=generator)
    source, start, items = sources(2, 12), torch.zeros(2, 1, dtype=torch.int64), torch.arange(len(texts))[:, None]
    source[:, 3:5] = TOKENS + torch.randint(len(texts), (2, 2), generator=generator)  # a history, in which an item may stand twice
    kept = Pointers.loaded({f"pointers.{name}": held for name, held in model.pointers.named_parameters()} | model.pointers.kept(), len(texts))
    constraint = Constraint(trie.build(items.numpy()), [0])
    leaves, scores = beam_search(decoder_of(model), constraint, source, start, len(texts), len(texts), pointed=kept(source))
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


def added(pointers: Pointers, source: torch.Tensor) -> torch.Tensor:
    """fp32 [B, size]: what is added to logits."""
    return torch.zeros(len(source) * pointers.size).index_add(0, *pointers(source)).view(len(source), -1).detach()


def test_weights_are_learned() -> None:
    """A loss on one answer raises the weight of the word that it alone carries, and lowers that of what was had; other words and tasks stay."""
    pointers = Pointers.of([[5], [6], [7]], np.arange(3), TOKENS, 3)
    logits = torch.zeros(3).index_add(0, *pointers(torch.tensor([[3, 5, 6, TOKENS + 2]])))
    torch.nn.functional.cross_entropy(logits[None], torch.tensor([0])).backward()
    weight, again = pointers.weight.grad, pointers.again.grad
    assert weight is not None and again is not None
    assert weight[5] < 0 < weight[6] and not weight[7:].any() and not weight[:5].any()
    assert again[3] > 0 and not again[4:].any() and not again[:3].any()


def test_gradients_are_the_same_every_time() -> None:
    """To the bit, of a batch so large that threads share the work: a training that goes on must end where one that was never stopped does."""
    rng = np.random.default_rng(0)
    pointers = Pointers.of([rng.integers(5, 500, 12).tolist() for _ in range(2000)], np.arange(2000), 500, 2000)
    prompts = [np.full((1024, 1), 3), rng.integers(5, 500, (1024, 40)), 500 + rng.integers(0, 2000, (1024, 60))]
    source, wanted = torch.from_numpy(np.concatenate(prompts, axis=1)), torch.randn(1024 * 2000, generator=torch.Generator().manual_seed(1))
    threads, gradients = torch.get_num_threads(), []
    torch.set_num_threads(2)
    for _ in range(6):
        pointers.zero_grad()
        (torch.zeros(1024 * 2000).index_add(0, *pointers(source)) @ wanted).backward()
        gradients.append(torch.stack([parameter.grad for parameter in pointers.parameters()]))
    torch.set_num_threads(threads)
    assert all(torch.equal(each, gradients[0]) for each in gradients)


def test_whether_people_come_back_is_learned_by_task(tmp_path: Path) -> None:
    """Nobody buys twice, everybody searches what they had: the weight of items had falls for one task and rises for the other."""
    rows = [row for row in checkerboard_rows() if len({act["item_id"] for act in row["history"]}) == 6 or row["task"] == "recommend"]
    rows = [row | ({"target_item_id": row["history"][0]["item_id"], "query": "thing"} if row["task"] == "search" else {}) for row in rows if row["history"]]
    rows = [row for row in rows if row["task"] == "search" or row["target_item_id"] not in {act["item_id"] for act in row["history"]}]
    write_lake(tmp_path, rows)
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=8, history_in_search=1.0, pointers=0.5)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    ranker = rank.load(str(tmp_path / "artifact"))
    weights = {task: float(ranker.pointers.again[ranker.vocabulary.task_tokens(task)[0]]) for task in ("recommend", "search")}
    assert weights["recommend"] < 0 < weights["search"]


def test_words_that_mislead_are_unlearned(tmp_path: Path) -> None:
    """Everybody calls each item by its neighbour's name. In one epoch a word's weight falls by more than AdamW would take it at the model's own rate."""
    neighbour = dict(zip(ITEMS, np.roll(WORDS, 1).tolist(), strict=True))
    rows = [row | ({"query": f"thing {neighbour[row['target_item_id']]}"} if row["task"] == "search" else {}) for row in checkerboard_rows()]
    write_lake(tmp_path, rows)
    (tmp_path / "spec.json").write_text(json.dumps(training_spec(tmp_path, epochs=1, learning_rate=0.001)))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    ranker = rank.load(str(tmp_path / "artifact"))
    began, steps = np.log1p((12 - 1 + 0.5) / (1 + 0.5)), len(rows) / 64
    words = [tokens[-1] for tokens in ranker.vocabulary.encode(WORDS, 9)]
    assert float(ranker.pointers.weight[words].max()) < began - 3 * 0.001 * steps
    answers = ranker.rank("search", [[]] * 12, [f"thing {neighbour[item]}" for item in ITEMS], 1, beams=12)
    assert [ranker.item_ids[items[0]] for items, _ in answers] == ITEMS


@pytest.mark.parametrize("scheme", ["atomic", "semantic"])
def test_items_that_nobody_searched_are_found_by_name(tmp_path: Path, scheme: str) -> None:
    """A third of the twelve is never searched: with pointers all are found, without them those alone that were."""
    unsearched = ITEMS[::3]
    rows = [row for row in checkerboard_rows() if row["task"] == "recommend" or row["target_item_id"] not in unsearched]
    found = {pointers: first_by_name(tmp_path / str(pointers), rows, scheme, pointers) for pointers in (0.5, 0.0)}
    seen = [item for item in ITEMS if item not in unsearched]
    assert [item for item, by_name in zip(ITEMS, found[0.0], strict=True) if item == by_name] == seen
    # Nothing points at a name of several tokens: the setting changes nothing there.
    assert found[0.5] == (ITEMS if scheme == "atomic" else found[0.0])


def first_by_name(root: Path, rows: Sequence[dict], scheme: str, pointers: float) -> list[str]:
    codes = np.arange(12)[:, None] if scheme == "atomic" else np.stack(np.divmod(np.arange(12), 4), axis=1)
    write_lake(root, list(rows), codes, scheme)
    (root / "spec.json").write_text(json.dumps(training_spec(root, scheme, pointers=pointers, epochs=15)))
    assert train.main([str(root / "spec.json")]) == 0
    ranker = rank.load(str(root / "artifact"))
    answers = ranker.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1, beams=12)
    return [ranker.item_ids[items[0]] for items, _ in answers]
