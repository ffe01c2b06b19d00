"""What a training example or a request is made of, and the phrasings in which a recipe puts it to the model.

    tasks       bridge: a task word, then items or words; the answer is an identifier        (model.tasks)
    sentences   gensar: sentences with both behaviours of the history; answers are identifiers between marks, or text        (model.sentences)

A phrasing is made for a vocabulary and settings, and tells for an `Ask`: `source`, what the encoder reads; `start`, where the decoder begins; `target`, what
it should say; for a task: `opening` and `closing`, the tokens that every answer has before and after an identifier; and for many examples at once `lengths`, by
which they are batched. `model.phrasings` has them by name.
Knows tokens, no table.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from model.vocabulary import PAD, Vocabulary

if TYPE_CHECKING:
    from model.data import Examples


class Ask(NamedTuple):
    """items: int [actions], item rows of the history, oldest first. searched: of each action the tokens of its query, None off the search surface; empty for
    a phrasing that does not read it. text: tokens of the query, or of an item's text. item: row of the target, -1 in a request."""

    task: str
    items: np.ndarray
    searched: Sequence[Sequence[int] | None]
    text: Sequence[int]
    item: int = -1


def padded(rows: Sequence[Sequence[int] | np.ndarray], value: int = PAD, multiple: int = 1) -> np.ndarray:
    """int64 [rows, longest], at least one column, and as many as make a multiple; filled with `value` on the right."""
    longest = max([1, *map(len, rows)])
    held = np.full((len(rows), longest + -longest % multiple), value, dtype=np.int64)
    for i, row in enumerate(rows):
        held[i, : len(row)] = row
    return held


class Phrasing(Protocol):
    reads_queries: bool  # whether it needs the queries of the history
    whole_vocabulary: bool  # whether the softmax of an answer runs over all tokens, or over identifier tokens alone

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None: ...

    def answerable(self, task: str, history_length: int, text_length: int) -> bool:
        """Whether there is anything to go by: a prompt without history, or without a known word, gets the labelled fallback instead."""
        ...

    def source(self, ask: Ask, draw: int = 0) -> list[int]: ...

    def start(self, ask: Ask) -> np.ndarray:
        """int64 [levels]: an item's tokens, or PAD."""
        ...

    def target(self, ask: Ask, draw: int = 0) -> list[int]: ...

    def named(self, task: str, draw: int = 0) -> str | None:
        """The served task whose identifiers an answer names its item by; None where the answer is text."""
        ...

    def opening(self, task: str) -> list[int]: ...

    def closing(self, task: str) -> list[int]: ...

    def lengths(self, examples: "Examples") -> np.ndarray:
        """int64 [n, 2], of each example: tokens of its answer where that is text, else 0; and of its prompt, but for the words that all have around."""
        ...
