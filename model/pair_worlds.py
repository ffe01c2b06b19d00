"""A world in which it is known how much a pair of (request, item) tells of its answer, in nats.     numpy only, but for the tokenizer.

An item has a taste (who takes it) and a topic (what its text says), each independent of the other; every cell of tastes × topics holds as many items.
A user has a taste, and a history of items of it. A recommendation's target has the user's taste; a search's target has its query's topic and, where searches
are personal, the user's taste: without it, the two tasks have to look at different things. Wrong candidates are drawn evenly. An answer is then known to the
extent that no wrong candidate looks like a right one.
"""

from dataclasses import dataclass

import numpy as np

from model.data import Examples, Ragged, ragged
from model.information import entropy
from model.pairs import Requests
from model.questions import TASKS
from model.vocabulary import Vocabulary, train_tokenizer

HISTORY = 6
WORDS = 4  # of a topic; an item's text and a query have two of them


@dataclass(frozen=True)
class PairWorld:
    """vocabulary: of the texts, and the two answers. texts: each item's tokens. pairs: int64 [n, 2], training interactions (user, item)."""

    vocabulary: Vocabulary
    texts: Ragged
    taste: np.ndarray
    topic: np.ndarray
    train: Requests
    test: Requests
    users: int
    personal: bool
    pairs: np.ndarray

    def looks_right(self, task: str) -> float:
        """The chance that an item other than the target, drawn evenly, has all that the target is known by."""
        cell = len(self.taste) // (int(self.taste.max() + 1) * int(self.topic.max() + 1))
        alike = cell * (int(self.topic.max()) + 1) if task == "recommend" else cell if self.personal else cell * (int(self.taste.max()) + 1)
        return (alike - 1) / (len(self.taste) - 1)

    def information(self, task: str, per: int) -> float:
        """I(pair; answer) in nats with `per` wrong candidates for each right one, for who knows tastes and topics."""
        wrong = per * self.looks_right(task)
        return entropy(1 / (1 + per)) - (1 + wrong) / (1 + per) * entropy(1 / (1 + wrong))


def tastes_and_topics(seed: int, users: int = 400, tastes: int = 8, topics: int = 8, cell: int = 4, personal: bool = True) -> PairWorld:
    """Each user gives two requests of each task; the first of each is for training, the other for tests."""
    rng = np.random.default_rng((seed, 1))
    items = tastes * topics * cell
    kinds = rng.permutation(np.repeat(np.arange(tastes * topics), cell))
    taste, topic = kinds // topics, kinds % topics
    word = [[spelled(topic * WORDS + n) for n in range(WORDS)] for topic in range(topics)]

    def said(topic: int) -> str:
        return " ".join(word[topic][n] for n in rng.permutation(WORDS)[:2])

    texts = [said(t) for t in topic]
    queries = [[said(int(t)) for t in rng.integers(0, topics, 2)] for _ in range(users)]
    tokenizer = train_tokenizer([*texts, *(query for two in queries for query in two)] * 2, 600)
    codes = {"joint": np.arange(2)[:, None]}
    vocabulary = Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), codes)
    spoken = {text: n for n, words in enumerate(word) for text in words}
    own = rng.integers(0, tastes, users)
    of_taste = [np.flatnonzero(taste == t) for t in range(tastes)]
    histories = [rng.choice(of_taste[t], HISTORY, replace=False).tolist() for t in own]
    rows: dict[bool, list[tuple[int, int, list[int], str, int]]] = {True: [], False: []}
    for user in range(users):
        for n, query in enumerate(queries[user]):
            meant = spoken[query.split()[0]]
            wanted = rng.choice(np.flatnonzero(((taste == own[user]) | (not personal)) & (topic == meant)))
            liked = rng.choice(np.setdiff1d(of_taste[own[user]], histories[user]))
            rows[n == 0] += [(0, user, histories[user], "", int(liked)), (1, user, histories[user], query, int(wanted))]
    pairs = [(user, item) for user, history in enumerate(histories) for item in history] + [(user, target) for _, user, _, _, target in rows[True]]
    made = [requests(rows[part], vocabulary, topic, spoken) for part in (True, False)]
    texts_of = ragged([list(tokens) for tokens in vocabulary.encode(texts, 16)])
    assert items == len(texts)
    return PairWorld(vocabulary, texts_of, taste, topic, *made, users, personal, np.asarray(pairs, np.int64))


def spelled(number: int) -> str:
    """A word of three syllables, another one for each number."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    return "".join(syllables[(number * step + shift) % 70] for step, shift in ((1, 3), (11, 17), (29, 41)))


def requests(rows: list[tuple[int, int, list[int], str, int]], vocabulary: Vocabulary, topic: np.ndarray, spoken: dict[str, int]) -> Requests:
    """A search's pool is the items of its query's topic: what a word search would find."""
    task, user, history, query, target = zip(*rows, strict=True)
    pools = [np.flatnonzero(topic == spoken[q.split()[0]]).tolist() if q else [] for q in query]
    tokens = [list(row) for row in vocabulary.encode(list(query), 16)]
    at = np.full(len(rows), np.datetime64("2026-01-01", "us"))
    asked = Examples(TASKS, np.asarray(task, np.int8), ragged(list(history)), ragged(tokens), np.asarray(target, np.int64), at, np.asarray(user, np.int64))
    return Requests(**vars(asked), pool=ragged(pools))
