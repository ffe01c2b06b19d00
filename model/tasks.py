"""The prompts of bridge: a task word, then items or words.

    recommend   recommend: <item> <item> …        the user's history, oldest first
    search      search: query words [<item> …]     with the history behind it where the search is personalised
    pseudo_search   the same, of words made of the item's text

(Penha et al. 2024, Table 1.) Every prompt ends in </s>: positions are relative in T5, and only its end marks the latest item. The decoder begins with the
latest item: so it runs past all blocks straight into the softmax, as in SASRec; from PAD the blocks must first learn to copy it.
Knows tokens, not tables; rendered when a batch is made, never stored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model import data
from model.prompts import Ask
from model.vocabulary import EOS, PAD, Vocabulary


def item_part(history: np.ndarray, limit: int) -> list[int]:
    """history: int [items, levels] tokens, oldest first. An item counts once, where it stood last: a purchase after a search is two actions
    on one item, and in logs with coarse times other actions of the same instant lie between them."""
    latest = list(dict.fromkeys(map(tuple, history[::-1].tolist())))[:limit]
    return [token for item in reversed(latest) for token in item]


AS = {"recommend": "recommend", "search": "search", "pseudo_search": "search"}  # task → the one whose words and identifiers it has


class Tasks:
    reads_queries = False
    whole_vocabulary = False

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]):
        self.limit = settings["history_length"]
        self.words = {task: vocabulary.task_tokens(served) for task, served in AS.items()}
        self.tokens = {task: vocabulary.item_tokens[vocabulary.view(served)] for task, served in AS.items()}

    def answerable(self, task: str, history_length: int, text_length: int) -> bool:
        return history_length > 0 if task == "recommend" else text_length > 0

    def source(self, ask: Ask, draw: int = 0) -> list[int]:
        words = () if ask.task == "recommend" else ask.text
        return [*self.words[ask.task], *words, *item_part(self.tokens[ask.task][ask.items], self.limit), EOS]

    def start(self, ask: Ask) -> np.ndarray:
        tokens = self.tokens[ask.task]
        return tokens[ask.items[-1]] if len(ask.items) else np.full(tokens.shape[1], PAD)

    def target(self, ask: Ask, draw: int = 0) -> list[int]:
        return self.tokens[ask.task][ask.item].tolist()

    def named(self, task: str, draw: int = 0) -> str:
        return AS[task]

    def opening(self, task: str) -> list[int]:
        return []

    def closing(self, task: str) -> list[int]:
        return []

    def lengths(self, examples: data.Examples) -> np.ndarray:
        return data.lengths(examples, self.tokens["recommend"].shape[1])
