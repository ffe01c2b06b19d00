"""The prompts of gensar, token by token; the examples that no row of corpora states."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import ACT

from model import data, derived
from model.prompts import Ask
from model.sentences import WORDINGS, Sentences, texts
from model.vocabulary import EOS, PAD, Vocabulary, train_tokenizer

ITEMS = ["a", "b", "c"]
CODES = {"recommend": np.array([[0, 0], [0, 1], [1, 0]]), "search": np.array([[0, 2], [0, 0], [1, 1]])}
SETTINGS = {"history_per_behaviour": 2, "behaviour_tokens": True}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = train_tokenizer([*(2 * texts()), *(2 * ["red apple", "green pear", "blue plum"])], 600)
    return Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), CODES, 1)


def words(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encode([text], 64)[0]


def test_a_history_of_both_behaviours(vocabulary: Vocabulary) -> None:
    """The last two of either kind, in the order of time; items off the search surface by one name, on it by the other; each behind its mark."""
    phrasing, mark = Sentences(vocabulary, SETTINGS), vocabulary.marks
    chosen, clicked = vocabulary.item_tokens["recommend"], vocabulary.item_tokens["search"]
    apple, pear = words(vocabulary, "red apple"), words(vocabulary, "green pear")
    ask = Ask("search", np.array([0, 1, 2, 1, 0]), [None, apple, None, None, pear], words(vocabulary, "blue plum"), 2)
    told = [mark["queried"], *apple, mark["clicked"], *clicked[1], mark["recommended"], *chosen[2], mark["recommended"], *chosen[1]]
    told += [mark["queried"], *pear, mark["clicked"], *clicked[0]]
    first = [*words(vocabulary, "so far:"), *told, *words(vocabulary, "now searched:"), *ask.text, *words(vocabulary, "what is clicked?"), EOS]
    assert phrasing.source(ask) == first
    assert phrasing.target(ask) == [mark["clicked"], *clicked[2], EOS]
    assert phrasing.target(ask._replace(task="recommend")) == [mark["recommended"], *chosen[2], EOS]
    assert phrasing.target(ask._replace(task="next_query")) == [mark["queried"], *ask.text, EOS]
    assert phrasing.start(ask).tolist() == clicked[0].tolist() and phrasing.start(ask._replace(items=ask.items[:0], searched=[])).tolist() == [PAD, PAD]
    assert sorted(phrasing.source(ask, draw) == first for draw in range(0, 2 * len(WORDINGS["search"]), 2)) == [False, False, False, True]
    plain = Sentences(vocabulary, SETTINGS | {"behaviour_tokens": False})
    assert plain.source(ask) == [token for token in first if token not in mark.values()] and plain.target(ask) == [*clicked[2], EOS]


def test_a_part_without_its_slot_is_left_out(vocabulary: Vocabulary) -> None:
    phrasing = Sentences(vocabulary, SETTINGS)
    ask = Ask("pseudo_search", np.array([1]), [None], words(vocabulary, "red apple"), 0)
    assert phrasing.source(ask) == [*words(vocabulary, "now searched:"), *ask.text, *words(vocabulary, "what is clicked?"), EOS]


def test_tasks_on_texts_show_either_name_by_turns(vocabulary: Vocabulary) -> None:
    phrasing, ask = Sentences(vocabulary, SETTINGS), Ask("text_to_item", np.array([], int), (), words(vocabulary, "red apple"), 2)
    assert [phrasing.target(ask, draw) for draw in (0, 1)] == [[*vocabulary.item_tokens[view][2], EOS] for view in ("search", "recommend")]
    back = ask._replace(task="item_to_text")
    assert [phrasing.source(back, draw)[-3:-1] for draw in (0, 1)] == [vocabulary.item_tokens[view][2].tolist() for view in ("search", "recommend")]
    assert phrasing.target(back) == [*ask.text, EOS]


def test_derived_examples_are_of_training_rows_and_texts_alone(vocabulary: Vocabulary) -> None:
    at = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    act = [
        {"item_id": item, "surface": surface, "action": "click", "query": query, "event_ts": at[0]}
        for item, surface, query in (("a", "recommendation", None), ("gone", "search", "green pear"), ("b", "search", "red apple"))
    ]
    rows = pa.table(
        {
            "task": ["search", "recommend", "search"],
            "user_id": ["u", "v", "u"],
            "history": pa.array([[], act, act], pa.list_(ACT)),
            "query": pa.array(["red apple", None, "blue plum"], pa.string()),
            "target_item_id": ["a", "b", "c"],
            "event_ts": pa.array(at, pa.timestamp("us", tz="UTC")),
        }
    )
    phrasing = Sentences(vocabulary, SETTINGS)
    examples = data.encode(rows, ("recommend", "search"), ITEMS, vocabulary, 32, phrasing)
    assert [examples.ask(row).searched for row in range(3)] == [[], *[[None, words(vocabulary, "red apple")]] * 2]
    tasks = ("search", "next_query", "pseudo_search", "text_to_item", "item_to_text")
    assert examples.user.tolist() == [0, 1, 0]
    made = derived.derived(examples, tasks, ["red apple", "", "blue plum"], vocabulary, 8, "terms", 2, 0)
    assert [set(made.user[made.task == number].tolist()) for number in range(5)] == [{0}, {0}, {-1}, {-1}, {-1}]
    asks = [made.ask(row) for row in range(len(made))]
    assert [(ask.task, ask.item) for ask in asks] == [
        ("search", 0),
        ("search", 2),
        ("next_query", 2),
        ("pseudo_search", 0),
        ("pseudo_search", 2),
        ("pseudo_search", 0),
        ("pseudo_search", 2),
        ("text_to_item", 0),
        ("text_to_item", 2),
        ("item_to_text", 0),
        ("item_to_text", 2),
    ]
    assert asks[2].text == words(vocabulary, "blue plum") and asks[2].items.tolist() == [0, 1]
    of_apple = [words(vocabulary, said) for said in ("red", "apple", "red apple", "apple red")]
    assert asks[3].text in of_apple and asks[5].text in of_apple and asks[7].text == words(vocabulary, "red apple") and not len(asks[7].items)
    assert made.at[-1] == made.at.max()
    # What they are batched by is what they hold, but for the words around.
    answers = [len(ask.text) if phrasing.named(ask.task) is None else 0 for ask in asks]
    shown = [len(phrasing.history(ask)) + (0 if answer else len(ask.text)) for ask, answer in zip(asks, answers, strict=True)]
    assert phrasing.lengths(made).tolist() == [list(each) for each in zip(answers, shown, strict=True)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from([None, "red apple", "plum"]), max_size=9), min_size=1, max_size=5), st.integers(1, 4), st.booleans())
def test_lengths_are_those_of_the_history_shown(vocabulary: Vocabulary, histories: list[list[str | None]], limit: int, marked: bool) -> None:
    phrasing = Sentences(vocabulary, {"history_per_behaviour": limit, "behaviour_tokens": marked})
    acts = [
        [{"item_id": "a", "surface": "search" if query else "recommendation", "action": "click", "query": query, "event_ts": None} for query in queries]
        for queries in histories
    ]
    n = len(histories)
    rows = pa.table(
        {
            "task": ["search"] * n,
            "user_id": ["u"] * n,
            "history": pa.array(acts, pa.list_(ACT)),
            "query": ["blue plum"] * n,
            "target_item_id": ["b"] * n,
            "event_ts": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * n, pa.timestamp("us", tz="UTC")),
        }
    )
    examples = data.encode(rows, ("recommend", "search"), ITEMS, vocabulary, 32, phrasing)
    told = [len(phrasing.history(examples.ask(row))) + len(words(vocabulary, "blue plum")) for row in range(n)]
    assert phrasing.lengths(examples).tolist() == [[0, each] for each in told]


def test_terms_are_words_that_stand_out() -> None:
    texts = ["the red apple and the pie", "the blue plum", "", "the"]
    said = derived.terms(texts, 2000, seed=1)
    assert len(said) == 2000 and all(each[2:] == ["", "the"] for each in said) and said == derived.terms(texts, 2000, seed=1)
    plums = [each[1].split() for each in said]
    assert {len(query) for query in plums} == {1, 2, 3} and all(set(query) <= {"the", "blue", "plum"} and len(query) == len(set(query)) for query in plums)
    # Of one word: log(5/4) + 1 of every text's "the" against log(5/2) + 1 of each of the other two, drawn in proportion.
    single = [query[0] for query in plums if len(query) == 1]
    assert 430 <= len(single) <= 570 and abs(single.count("the") / len(single) - 0.24) < 0.07


def test_a_doc2query_model_by_path(tmp_path) -> None:
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = train_tokenizer(["red apple", "blue plum"], 300)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1}
    T5ForConditionalGeneration(T5Config(vocab_size=tokenizer.get_vocab_size(), decoder_start_token_id=PAD, **sizes)).save_pretrained(tmp_path)
    said = [derived.pseudo_queries(["red apple", "blue plum"], str(tmp_path), 3, seed) for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2] and [len(each) for each in said[0]] == [2, 2, 2] and said[0][0] != said[0][1]
