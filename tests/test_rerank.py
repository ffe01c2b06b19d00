"""A gensr model on disk and what a worker makes of it: the contract of the second stage."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model import artifact
from model.data import ragged
from model.gensr import GenSR
from model.prompts import padded
from model.questions import Form, text_rows
from model.rerank import Reranker, best
from model.unified import from_sizes
from model.views import bag
from model.vocabulary import Vocabulary, train_tokenizer

ITEMS = [f"item{n:02d}" for n in range(12)]
TEXTS = ["red ball", "red car", "blue car", "green kite", "", "old drum", "new drum", "blue ball", "red kite", "old car", "green drum", "new kite"]
ACTS = [[{"item_id": "item03"}, {"item_id": "gone"}, {"item_id": "item07"}], [], [{"item_id": "item01"}] * 9]
QUERIES = ["red car", "unheard of", None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of random weights, as a trainer would leave it. Item 4 has no text, item 5 no interactions."""
    torch.manual_seed(3)
    tokenizer = train_tokenizer(TEXTS * 3, 400)
    vocabulary = Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), {"joint": np.arange(2)[:, None]})
    table = np.random.default_rng(0).normal(size=(len(ITEMS), 8))
    table[5] = 0
    texts = text_rows(ragged([list(tokens) for tokens in vocabulary.encode(TEXTS, 4)]), 4)
    model = GenSR(from_sizes("micro", vocabulary.text_size, (2,), 0.0, False), Form(), table, texts, 5, 0.0, 4)
    with torch.no_grad():
        model.unified.t5.lm_head.weight.normal_()
    t5 = model.unified.shape()
    config = {"t5": t5, "recipe": "gensr", "tasks": ["recommend", "search"], "history_length": 5, "max_query_tokens": 4, "form": vars(model.form)}
    path = tmp_path_factory.mktemp("gensr") / "artifact"
    artifact.save(path, model.kept(), vocabulary, ITEMS, config, [], {"model_version": "test"})
    return path


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Reranker:
    weights, vocabulary, item_ids, config, _ = artifact.load(folder)
    return Reranker(weights, vocabulary, item_ids, config)


WEIGHTS = {"score": 1.0, "odds": 0.3, "collaborative nearest": 2.0, "semantic mean": -1.5, "query": 4.0}


def ranked(reranker: Reranker, task: str, candidates: list[list[str]], queries: list[str | None] = QUERIES, k: int = 20) -> list:
    return reranker.rank(task, ACTS, queries, candidates, k)


def test_what_is_saved_is_what_answers(folder: Path, reranker: Reranker) -> None:
    weights, vocabulary, item_ids, config, _ = artifact.load(folder)
    again = Reranker(weights, vocabulary, item_ids, config)
    for (items, scores), (items_again, scores_again) in zip(*(ranked(r, "search", [ITEMS] * 3) for r in (reranker, again)), strict=True):
        assert items == items_again and np.array_equal(scores, scores_again)
        assert sorted(items) == ITEMS and (np.diff(scores) <= 0).all() and scores[0] > scores[-1]


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_what_is_told_of_a_candidate_by_loops(reranker: Reranker, task: str) -> None:
    """Cosines with the five latest distinct items of a history; 0 for an item without text or interactions, one never seen, and where there is no history."""
    scorer, histories = reranker.scorer, [[3, 7], [], [1, 2, 3, 4, 5, 1, 6]]
    queries, candidates = reranker.vocabulary.encode(["red car", "", "drum"], 4), [[1, 4, -1], [], [5, 6]]
    rows = {name: table.numpy() for name, table in scorer.table.items()}
    query = bag(scorer.t5.weights["shared.weight"], torch.from_numpy(padded(queries))).numpy()
    told = scorer.features(task, histories, queries, candidates, [[0.5] * len(offered) for offered in candidates])
    for i, (offered, latest) in enumerate(zip(candidates, ([7, 3], [], [6, 1, 5, 4, 3]), strict=True)):
        assert told[i].shape == (len(offered), len(scorer.feature_names(task))) and scorer.feature_names(task)[:2] == ["score", "odds"]
        assert (told[i][:, 0] == 0.5).all()
        np.testing.assert_array_equal(told[i][:, 1], scorer.score(task, histories, queries, candidates)[i])
        for item, found in zip(offered, told[i], strict=True):
            expected = []
            for name in ("collaborative", "semantic"):
                near = [cosine(rows[name][item], rows[name][other]) for other in latest] or [0.0]
                expected += [np.mean(near), max(near), near[0]]
            expected += [cosine(rows["semantic"][item], query[i])] if task == "search" else []
            np.testing.assert_allclose(found[2:], expected, atol=2e-5)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_the_order_of_the_candidates_has_no_say(reranker: Reranker, task: str) -> None:
    rng = np.random.default_rng(0)
    shuffled = [[*rng.permutation(ITEMS).tolist(), ITEMS[4]] for _ in range(3)]
    for (items, scores), (others, other_scores) in zip(ranked(reranker, task, [ITEMS] * 3), ranked(reranker, task, shuffled), strict=True):
        assert items == others and np.array_equal(scores, other_scores)
    before = [{item: -0.1 * i for i, item in enumerate(ITEMS)}] * 3
    for orders in (ITEMS, ITEMS[::-1]):
        (items, scores), *_ = reranker.rank(task, ACTS, QUERIES, [orders] * 3, 20, before, WEIGHTS)
        assert items == reranker.rank(task, ACTS[:1], QUERIES[:1], [ITEMS], 20, before[:1], WEIGHTS)[0][0] and (np.diff(scores) <= 0).all()


def test_a_query_changes_searches_and_no_recommendation(reranker: Reranker) -> None:
    others = ["green kite", "red car", "old drum"]
    for task, heard in (("search", True), ("recommend", False)):
        pairs = zip(ranked(reranker, task, [ITEMS] * 3), ranked(reranker, task, [ITEMS] * 3, others), strict=True)
        assert [not np.array_equal(a[1], b[1]) for a, b in pairs] == [heard] * 3


def test_ties_go_to_the_first_item_id(reranker: Reranker) -> None:
    """Items that the model has never seen are all the same to it."""
    (items, scores), *_ = ranked(reranker, "recommend", [["zeta", "alpha", "item02", "mu"], [], []])
    known = items.index("item02")
    assert [item for item in items if item != "item02"] == ["alpha", "mu", "zeta"] and len(set(np.delete(scores, known))) == 1
    assert best(["a", "b", "c"], np.array([1.0, 2.0, 2.0 + 1e-7]), 2)[0] == ["b", "c"]


def test_every_request_is_answered(reranker: Reranker) -> None:
    answers = ranked(reranker, "search", [["item04", "item05"], ["item05", "unseen"], []], k=1)
    assert [len(items) for items, _ in answers] == [1, 1, 0] and all(np.isfinite(scores).all() for _, scores in answers)
