"""What gensr asks: would this user like this item, is it relevant to this query (arXiv 2504.06714, reference gensr 1.3).

One prompt per task with slots (`model.slots`) for the user's history and for the candidate, and two words to answer with. `Form` holds the paper's choices and
their ablations as values. Two of them make what the paper compares itself with: `prompts = "shared"` gives both tasks one prompt, and with `answers =
"per_task"` besides, each task has its own pair of answer rows: a discriminative twin of the same size, two heads on a shared trunk.

Knows tokens and item numbers; no weights, no table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data import Ragged
from model.slots import mark
from model.vocabulary import EOS, PAD, Vocabulary

TASKS = ("recommend", "search")
VIEWS = ("collaborative", "semantic")
# {user} and {item} are the slots of the history and of the candidate, {match} is how the candidate meets the query. They stand before the query, at places
# that only the task decides; every word more is one more that the slots look at in vain (with 27 words instead of 8 the answer stayed the prior three times
# as long).
PROMPTS = {
    "recommend": "recommend: user {user} like {item}",
    "search": "search: user {user} find {item} {match} {query}",
    "shared": "user {user} item {item} {match} {query}",
}
NO, YES = 0, 1


@dataclass(frozen=True)
class Form:
    """What a gensr is. filter: of `views.FILTERS`. prompts: `per_task` or `shared`. answers: `shared` or `per_task`. weight: of the contrastive loss.
    match: a slot of the candidate's text met with the query's, where there is a semantic view (ours, not the paper's: see `views.Match`)."""

    views: tuple[str, ...] = VIEWS
    filter: str = "bilinear"
    prompts: str = "per_task"
    answers: str = "shared"
    weight: float = 0.01
    match: bool = True

    @property
    def matches(self) -> bool:
        return self.match and "semantic" in self.views

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Of the model's tokens behind the text: No and Yes, of everyone or of each task."""
        return (2,) if self.answers == "shared" else (2,) * len(TASKS)


class Prompts:
    """The prompts of a form, as tokens. longest: tokens of a query at most."""

    def __init__(self, vocabulary: Vocabulary, form: Form, longest: int):
        self.form, self.longest = form, longest
        views = len(form.views)
        marks = {"user": [mark(n) for n in range(views)], "item": [mark(n) for n in range(views, 2 * views)]}
        marks["match"] = [mark(2 * views)] if form.matches else []
        self.parts: dict[str, tuple[list[int], list[int]]] = {}
        for task in TASKS:
            before, _, after = PROMPTS[task if form.prompts == "per_task" else "shared"].partition("{query}")
            held = []
            for text in (before, after):
                pieces = re.split(r"\{(\w+)\}", text)
                held.append([token for n, piece in enumerate(pieces) for token in (marks[piece] if n % 2 else words(vocabulary, piece))])
            self.parts[task] = (held[0], [*held[1], EOS])

    def source(self, task: str, query: Sequence[int]) -> list[int]:
        """query: text tokens; only a search has some, whatever is given."""
        before, after = self.parts[task]
        return [*before, *(list(query)[: self.longest] if task == "search" else []), *after]

    def slots(self, task: str) -> int:
        """How many slots the task's prompt has."""
        return sum(token < PAD for token in self.parts[task][0])

    def queries(self, tasks: np.ndarray, queries: Ragged) -> np.ndarray:
        """int64 [R, longest], PAD behind them: the words of searches, none for other tasks."""
        rows = text_rows(queries, self.longest)
        rows[tasks != TASKS.index("search")] = PAD
        return rows

    def sources(self, tasks: np.ndarray, queries: Ragged) -> np.ndarray:
        """tasks: int [R], of TASKS → int64 [R, longest], PAD on the right."""
        rows = [self.source(TASKS[task], queries[i].tolist()) for i, task in enumerate(tasks)]
        source = np.full((len(rows), max(map(len, rows), default=1)), PAD, dtype=np.int64)
        for i, row in enumerate(rows):
            source[i, : len(row)] = row
        return source


def words(vocabulary: Vocabulary, text: str) -> list[int]:
    """A piece of a prompt, which may begin with the task's word."""
    return vocabulary.tokenizer.encode(text.strip(), add_special_tokens=False).ids


def text_rows(texts: Ragged, limit: int) -> np.ndarray:
    """int64 [items, limit]: each item's first tokens, PAD behind them."""
    rows = np.full((len(texts), limit), PAD, dtype=np.int64)
    width = np.minimum(texts.lengths, limit)
    place = np.arange(limit) < width[:, None]
    rows[place] = texts.values[(texts.offsets[:-1, None] + np.arange(limit))[place]]
    return rows
