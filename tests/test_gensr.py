"""gensr's prompts, its first losses, and the scorer's promises: the same numbers as the model's, whatever stands beside a request."""

import numpy as np
import pytest
import torch

from model import pair_worlds, pairs, score
from model.data import Ragged, newest, ragged
from model.gensr import GenSR
from model.information import entropy
from model.pairs import Drawing
from model.questions import TASKS, Form, Prompts, text_rows
from model.slots import mark
from model.unified import from_sizes
from model.vocabulary import EOS

LIMIT, LONGEST, PER = 5, 6, 4
WORLD = pair_worlds.tastes_and_topics(0, users=40, tastes=4, topics=4, cell=3)
TEXTS = text_rows(WORLD.texts, 8)


def model(form: Form, seed: int = 0) -> tuple[GenSR, Prompts]:
    torch.manual_seed(seed)
    unified = from_sizes("micro", WORLD.vocabulary.text_size, form.level_sizes, 0.0, False)
    table = np.random.default_rng(seed).normal(size=(len(WORLD.taste), 8)).astype(np.float32)
    return GenSR(unified, form, table, TEXTS.copy(), LIMIT, 0.0, PER).eval(), Prompts(WORLD.vocabulary, form, LONGEST)


def stirred(form: Form) -> tuple[GenSR, Prompts]:
    """Weights that are no beginning: every part has its say."""
    made, prompts = model(form)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name != "table":
                weight.add_(0.2 * torch.randn_like(weight) * weight.std().nan_to_num().clamp(min=0.3))
    return made, prompts


def scorer(made: GenSR, prompts: Prompts) -> score.Scorer:
    t5 = {key: value for key, value in made.unified.t5.config.to_dict().items() if isinstance(value, int | float | str | bool)}
    config = {"t5": t5, "text_size": WORLD.vocabulary.text_size, "history_length": LIMIT, "form": vars(made.form)}
    return score.Scorer(made.kept(), config, prompts)


HISTORIES = [[1, 2, 3, 4, 5, 6, 7], [], [9], [8, 8, 3]]
QUERIES = [WORLD.test.query[i].tolist() for i in (1, 3, 5)] + [[]]
CANDIDATES = [[4, 11, 30, 7, 2], [3, 5], [40, 41, 42, 43, 44, 45, 46], [0]]


def test_prompts() -> None:
    _, prompts = model(Form())
    for task, slots in (("recommend", 4), ("search", 5)):
        asked = prompts.source(task, [50, 51])
        assert [token for token in asked if token < 0] == [mark(n) for n in range(slots)] and asked[-1] == EOS
        assert prompts.slots(task) == slots
        assert (asked[-3:-1] == [50, 51]) == (task == "search")
    assert len(prompts.source("search", list(range(50, 90)))) == len(prompts.source("search", [])) + LONGEST
    _, one = model(Form(views=("semantic",), prompts="shared"))
    assert one.source("recommend", [50]) == one.source("search", []) and one.slots("search") == 3
    assert [model(form)[1].slots("search") for form in (Form(match=False), Form(views=("collaborative",)))] == [4, 2]
    told = prompts.queries(np.array([0, 1]), ragged([[50], list(range(50, 90))]))
    assert told.tolist() == [[0] * LONGEST, list(range(50, 50 + LONGEST))]


def test_histories_are_distinct_newest_first() -> None:
    histories = Ragged(np.array([5, 6, 5, 7, 1]), np.array([0, 4, 4, 5]))
    assert newest(histories, 2).tolist() == [[7, 5], [-1, -1], [1, -1]]
    assert text_rows(histories, 3).tolist() == [[5, 6, 5], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("form", [Form(), Form(prompts="shared", answers="per_task")], ids=["gensr", "twin"])
def test_first_losses(form: Form) -> None:
    """Cross-entropy begins at the labels' entropy, contrast near ln B: B is every row and the partner of none other of its user."""
    made, prompts = model(form)
    batch = WORLD.train.take(np.arange(40))
    drawn = Drawing(np.zeros(len(WORLD.taste)), PER).candidates(batch, (0,))
    told = pairs.answer(made, prompts, batch, drawn, LIMIT)
    assert told.losses.shape == (40, 1 + PER)
    np.testing.assert_allclose(float(told.losses.mean()), entropy(1 / (1 + PER)), atol=1e-6)
    others = 40 * (1 + PER) - np.bincount(batch.user)[batch.user].mean() * (1 + PER) + 1
    assert np.log(others) - 0.1 < float(told.contrast) < np.log(others) + 1.7  # cosines of random vectors of 64 dimensions, / τ


def test_a_form_is_as_large_as_its_twin() -> None:
    gensr, twin = (sum(p.numel() for p in model(form)[0].parameters()) for form in (Form(), Form(prompts="shared", answers="per_task")))
    assert 0 < twin - gensr <= 2 * 2 * 64 + 1  # the second task's rows


@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form(filter="cross_attention"),
        Form(filter="mean", views=("collaborative",)),
        Form(views=("semantic",)),
        Form(match=False),
        Form(prompts="shared", answers="per_task"),
    ],
    ids=["bilinear", "cross_attention", "mean", "semantic", "no_match", "twin"],
)
@pytest.mark.parametrize("task", TASKS)
def test_the_scorer_is_the_model(form: Form, task: str) -> None:
    """Each pair's log-odds by transformers' T5, pair by pair, and by the scorer, all at once."""
    made, prompts = stirred(form)
    found = scorer(made, prompts).score(task, HISTORIES, QUERIES, CANDIDATES)
    for history, query, candidates, odds in zip(HISTORIES, QUERIES, CANDIDATES, found, strict=True):
        rows = newest(ragged([history]), LIMIT)
        tasks = np.array([TASKS.index(task)])
        told = (np.array([prompts.source(task, query)]), rows, prompts.queries(tasks, ragged([query])), None, tasks)
        with torch.no_grad():
            plain = [float(made(*(torch.from_numpy(np.array([[item]]) if x is None else x) for x in told))[0]) for item in candidates]
        np.testing.assert_allclose(odds, plain, atol=1e-5, rtol=1e-5)
        assert (np.diff(np.sort(plain)) > 1e-5).all()  # they all differ, by more than the tolerance


@pytest.mark.parametrize("task", TASKS)
def test_batched_is_one_by_one(task: str, monkeypatch) -> None:
    answers = scorer(*stirred(Form()))
    together = answers.score(task, HISTORIES, QUERIES, CANDIDATES)
    monkeypatch.setattr(score, "BATCH_TOKENS", 1)
    for alone, beside in zip(answers.score(task, HISTORIES, QUERIES, CANDIDATES), together, strict=True):
        np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_the_query_is_heard_by_searches_alone() -> None:
    answers = scorer(*stirred(Form()))
    others = [QUERIES[1], QUERIES[2], [], QUERIES[0]]
    for task, heard in (("recommend", False), ("search", True)):
        first, second = (answers.score(task, HISTORIES, queries, CANDIDATES) for queries in (QUERIES, others))
        assert all((np.abs(a - b).max() > 1e-3) == heard for a, b in zip(first, second, strict=True))
        assert heard or all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_nothing_known_is_answered() -> None:
    """No history, no query, an item without text and without interactions, an item that the model has never seen, no candidate."""
    made, prompts = stirred(Form())
    with torch.no_grad():
        made.table[5] = 0
    made.texts[5] = 0
    answers = scorer(made, prompts)
    some, none = answers.score("search", [[], []], [[], []], [[5, 6, -1], []])
    assert np.isfinite(some).all() and len(none) == 0
    assert abs(some[0] - some[2]) < 1e-5 < abs(some[0] - some[1])
    with pytest.raises(ValueError, match="recommend, search"):
        answers.score("browse", [[]], [[]], [[1]])


def test_batches_are_bounded_and_whole(monkeypatch) -> None:
    monkeypatch.setattr(score, "BATCH_TOKENS", 20)
    tokens = [4, 30, 5, 6, 7]
    made = score.bounded([0, 2, 3, 4, 1], tokens)
    assert made == [[0, 2, 3], [4], [1]]
