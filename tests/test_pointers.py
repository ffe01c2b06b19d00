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
from scipy import sparse
from test_decode import CODES, decoder_of, random_model, sources
from test_valid import FIRST, vocabulary_of
from worlds import ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from model import rank, train, trie
from model.decode import Constraint, beam_search
from model.neighbours import FOLDS, Neighbours
from model.pointers import COMMON, K1, UNKNOWN, Pointed, Pointers, Pointing, carried, pointing
from model.prompts import Ask
from model.recipes import SERVED
from model.spread import Spread
from model.train_unified import TRUSTS, UnifiedTraining
from model.valid import Valid
from model.vocabulary import Vocabulary, train_tokenizer

TOKENS = FIRST  # as `sources` draws them
TEXTS = st.lists(st.lists(st.integers(3, TOKENS - 1), max_size=8), min_size=2, max_size=9)


def said(words: Sequence[Sequence[int]], had: Sequence[Sequence[int]] | None = None, task: str = "search") -> Pointing:
    had = [[]] * len(words) if had is None else had
    return pointing([Ask(task, np.array(items, np.int64), (), tokens) for tokens, items in zip(words, had, strict=True)])


@given(texts=TEXTS, query=st.lists(st.integers(3, TOKENS - 1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_before_training_it_is_bm25(texts: list[list[int]], query: list[int]) -> None:
    """The library's numbers times K1 + 1; but for words that most items carry, and for tokens that are no words. What was had tells nothing yet."""
    pointers = Pointers.of(texts, TOKENS)
    told = of_items(pointers(said([query, [1, 2]], [[0], [1]])), 2, len(texts)).detach().numpy()
    few = [token for token in query if 0 < sum(token in text for text in texts) <= COMMON * len(texts)]
    expected = np.zeros(len(texts), np.float32)
    if few:
        index = bm25s.BM25(method="lucene", k1=K1)
        index.index([[str(token) for token in text] for text in texts], show_progress=False)
        expected = (K1 + 1) * index.get_scores([str(token) for token in few])
    np.testing.assert_allclose(told[0], expected, rtol=1e-4, atol=1e-5)
    assert not told[1].any()


@given(texts=TEXTS, queries=st.lists(st.lists(st.integers(0, TOKENS - 1), max_size=4), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_who_holds_every_word_of_a_query(texts: list[list[int]], queries: list[list[int]]) -> None:
    """Words that nobody carries, or most, do not count; where none is left, nobody holds them."""
    offered = [np.arange(len(texts))[::-1]] * len(queries)
    for query, held in zip(queries, Pointers.of(texts, TOKENS).every_word(queries, offered), strict=True):
        counted = {token for token in query if token > UNKNOWN and 0 < sum(token in text for text in texts) <= COMMON * len(texts)}
        assert held.tolist() == [float(bool(counted) and counted <= set(text)) for text in texts[::-1]]


def of_items(pointed: Pointed, requests: int, items: int) -> torch.Tensor:
    """fp32 [requests, items]."""
    return torch.zeros(requests * items).index_add(0, pointed.rows * items + pointed.items, pointed.told).view(requests, items)


def learned(texts: Sequence[Sequence[int]], seed: int) -> Pointers:
    """With weights as if they had been, and neighbours by chance."""
    rng, size = np.random.default_rng(seed), len(texts)
    near = sparse.random_array(((1 + FOLDS) * size, size), density=0.3, format="csr", rng=rng)
    pointers = Pointers.of(texts, TOKENS, Neighbours(near.indptr.astype(np.int64), near.indices.astype(np.int64), near.data.astype(np.float32)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pointers.parameters():
            parameter += torch.randn(len(parameter), generator=generator)
    return pointers


@given(codes=CODES, flat=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_training_and_answers_have_the_same_probabilities(codes: list[tuple[int, ...]], flat: bool, seed: int) -> None:
    """Every item's score is minus its training loss, of names of one code and of several; they sum to 1; so does what an artifact kept."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(codes))[rng.permutation(len(codes))][:, None] if flat else np.array([*codes, (4, 3, 2)] if (4, 3, 2) not in codes else codes)
    vocabulary = vocabulary_of({"joint": rows})
    model = random_model(level_sizes=vocabulary.level_sizes)
    model.valid, model.pointers = Valid(vocabulary), learned([rng.integers(3, TOKENS, 4).tolist() for _ in rows], seed)
    asked = said(rng.integers(3, TOKENS, (2, 3)).tolist(), rng.integers(0, len(rows), (2, 2)).tolist())
    weights = {f"pointers.{name}": held for name, held in model.pointers.named_parameters()} | model.pointers.kept()
    source, start = sources(2, 12), torch.zeros(2, rows.shape[1], dtype=torch.int64)
    built = trie.build(rows)
    constraint = Constraint(built, vocabulary.offsets("joint").tolist())
    pointed = Spread(built).dense(Pointers.loaded(weights, len(rows))(asked), 2)
    leaves, scores = beam_search(decoder_of(model), constraint, source, start, len(rows), len(rows), among="valid", pointed=pointed)
    target, nodes = torch.from_numpy(vocabulary.item_tokens["joint"]), None if flat else torch.from_numpy(model.valid.above["joint"])
    for row in range(2):
        of_row = Pointing(*(part[row : row + 1].expand(len(rows), *part.shape[1:]) for part in asked))
        same = source[row].expand(len(rows), -1), start[row].expand(len(rows), -1), target, 0.0
        with torch.no_grad():
            losses = model(*same, nodes, of_row, torch.zeros(len(rows), dtype=torch.int64))
        np.testing.assert_allclose(scores[row], -losses[built.items[leaves[row].numpy()]], atol=2e-4)
    np.testing.assert_allclose(scores.exp().sum(dim=1), 1, atol=1e-4)


def test_a_model_of_before_neighbours_answers_as_it_did() -> None:
    """Its artifact has none of their names: words and what was had count as ever, neighbours tell nothing."""
    pointers = learned([[5, 6], [6, 7], [7, 5]], 0)
    weights = {f"pointers.{name}": held.detach() for name, held in pointers.named_parameters()} | pointers.kept()
    before = {name: held for name, held in weights.items() if "near" not in name and "trust" not in name}
    asked = said([[5], [6, 7]], [[0, 2], [1]])
    told = [of_items(made(asked), 2, 3) for made in (Pointers.loaded(weights, 3), Pointers.loaded(before, 3))]
    with torch.no_grad():
        pointers.near.zero_()
    assert torch.equal(told[1], of_items(pointers(asked), 2, 3)) and not torch.equal(told[0], told[1])


def test_validation_chooses_how_far_answers_trust_neighbours(tmp_path: Path) -> None:
    """A walk's next item is a neighbour of its latest ones, and the decoder knows nothing yet: neighbours that count for an item are trusted most where it is
    recommended, and those that count against it least where it is searched. The artifact answers by it."""
    write_lake(tmp_path, checkerboard_rows())
    training = UnifiedTraining(training_spec(tmp_path, history_in_search=1.0))
    with torch.no_grad():
        training.model.pointers.near.copy_(torch.tensor([0.05, -0.05]))
    training.settle()
    assert SERVED == ("recommend", "search") and training.model.pointers.trust.tolist() == [max(TRUSTS), min(TRUSTS)]
    assert Pointers.loaded(training.kept(), 12).trust.tolist() == [max(TRUSTS), min(TRUSTS)]


def everything(told: torch.Tensor) -> Pointed:
    """Each item pointed at, by two that tell half of it."""
    rows, items = (torch.ones_like(told).nonzero()[:, place].repeat(2) for place in (0, 1))
    return Pointed(rows, items, told.flatten().repeat(2) / 2)


@given(codes=CODES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_codes_come_to_what_items_are_told(codes: list[tuple[int, ...]], seed: int) -> None:
    """Where a decoder would find all items alike, its codes have the probabilities of a softmax over what the items are told."""
    built, told = trie.build(np.array(codes)), 2 * torch.randn(2, len(codes), generator=torch.Generator().manual_seed(seed))
    whole = torch.zeros(2, len(codes))
    for level, (of_level, above) in enumerate(zip(Spread(built).dense(everything(told), 2), trie.above_leaves(built), strict=True)):
        alike = np.log(np.bincount(above))
        for node in range(len(built.first_child[level]) - 1):
            children = slice(built.first_child[level][node], built.first_child[level][node + 1])
            among = (of_level[:, children] + torch.from_numpy(alike[children]).float()).log_softmax(-1)
            below = (above >= children.start) & (above < children.stop)
            whole[:, below] += among[:, above[below] - children.start]
    np.testing.assert_allclose(whole, told[:, built.items.astype(np.int64)].log_softmax(-1), rtol=1e-3, atol=1e-3)


def test_what_is_no_request_for_an_item_points_at_none() -> None:
    """An item's own text would be the answer; and whose prompt does not point has neither words nor items."""
    items = np.array([2, 0, 2])
    asks = [Ask(task, items, (), [5, 6]) for task in ("search", "pseudo_search", "recommend", "text_to_item", "next_query", "search")]
    words, had, latest, lists, served = pointing(asks, [True, True, True, True, True, False], np.array([0, 1, 4, 5, -1, 2]))
    assert words.tolist() == [[5, 6], [5, 6], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert had.tolist() == [[0, 2], [-1, -1], [0, 2], [-1, -1], [-1, -1], [-1, -1]]
    assert latest.tolist() == [[2, 0, 2], [-1, -1, -1], [2, 0, 2], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    assert lists.tolist() == [1, 2, 1, 2, 4, 3] and pointing(asks).lists.tolist() == [0] * 6
    assert served.tolist() == [1, -1, 0, -1, -1, 1]


def test_a_singular_finds_the_plural() -> None:
    vocabulary = Vocabulary.build(train_tokenizer(["dolls doll houses house us"] * 2, 400), 400, {"joint": np.arange(3)[:, None]})
    doll, house, us = vocabulary.encode(["doll", "house", "us"], 9)
    texts = carried(vocabulary, ["Dolls & houses", "doll house", "us"], 9)
    assert set(doll + house) < set(texts[0]) and sorted(texts[1]) == sorted(doll + house) and texts[2] == us


def test_weights_are_learned() -> None:
    """A loss on one answer raises the weight of the word that it alone carries, and lowers that of what was had; other words and tasks stay."""
    pointers = Pointers.of([[5], [6], [7]], TOKENS)
    torch.nn.functional.cross_entropy(of_items(pointers(said([[5, 6]], [[2]])), 1, 3), torch.tensor([0])).backward()
    weight, again = pointers.weight.grad, pointers.again.grad
    assert weight is not None and again is not None
    assert weight[5] < 0 < weight[6] and not weight[7:].any() and not weight[:5].any()
    assert again[SERVED.index("search")] > 0 and not again[SERVED.index("recommend")].any()


def test_gradients_are_the_same_every_time() -> None:
    """To the bit, of a batch so large that threads share the work: a training that goes on must end where one that was never stopped does."""
    rng = np.random.default_rng(0)
    codes = np.stack(np.divmod(np.arange(2000), 50), axis=1)
    pointers, valid = Pointers.of([rng.integers(5, 500, 12).tolist() for _ in range(2000)], 500), Valid(vocabulary_of({"joint": codes}))
    asked = said(rng.integers(5, 500, (1024, 40)).tolist(), rng.integers(0, 2000, (1024, 60)).tolist())
    views, hidden, weight = torch.zeros(1024, dtype=torch.int64), torch.randn(1024, 16), torch.randn(FIRST + 90, 16)
    follows, target = torch.from_numpy(valid.above["joint"][:1024, 1]), torch.from_numpy(FIRST + 40 + codes[:1024, 1])
    threads, gradients = torch.get_num_threads(), []
    torch.set_num_threads(2)
    for _ in range(6):
        pointers.zero_grad()
        valid(hidden, follows, target, weight, 0.0, valid.told(pointers(asked), views), torch.arange(1024)).sum().backward()
        gradients.append(torch.cat([parameter.grad for parameter in pointers.parameters()]))
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
    weights = dict(zip(SERVED, ranker.pointers.again.tolist(), strict=True))
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
    assert found[0.5] == ITEMS


def first_by_name(root: Path, rows: Sequence[dict], scheme: str, pointers: float) -> list[str]:
    codes = np.arange(12)[:, None] if scheme == "atomic" else np.stack(np.divmod(np.arange(12), 4), axis=1)
    write_lake(root, list(rows), codes, scheme)
    (root / "spec.json").write_text(json.dumps(training_spec(root, scheme, pointers=pointers, epochs=4)))
    assert train.main([str(root / "spec.json")]) == 0
    ranker = rank.load(str(root / "artifact"))
    answers = ranker.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1, beams=12)
    return [ranker.item_ids[items[0]] for items, _ in answers]
