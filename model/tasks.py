"""corpora row → what the encoder reads. One function per task.

    recommend   recommend: <item> <item> …        the user's history, oldest first
    search      search: query words [<item> …]     with the history behind it where the search is personalised

(Penha et al. 2024, Table 1.) Every prompt ends in </s>: positions are relative in T5, and only its end marks the latest item.
Knows tokens, not tables; rendered when a batch is made, never stored.
"""

from collections.abc import Callable

import numpy as np

from model.vocabulary import EOS, PAD

Render = Callable[[list[int], np.ndarray, list[int], int], list[int]]


def item_part(history: np.ndarray, limit: int) -> list[int]:
    """history: int [items, levels] tokens, oldest first. An item counts once, where it stood last: a purchase after a search is two actions
    on one item, and in logs with coarse times other actions of the same instant lie between them."""
    latest = list(dict.fromkeys(map(tuple, history[::-1].tolist())))[:limit]
    return [token for item in reversed(latest) for token in item]


def start(history: np.ndarray, levels: int) -> np.ndarray:
    """int64 [levels]: the latest item's tokens, where the decoder begins; PAD where the prompt shows no history.

    So that item runs past all blocks straight into the softmax, as in SASRec; from PAD the blocks must first learn to copy it.
    """
    return history[-1] if len(history) else np.full(levels, PAD)


def recommend(prefix: list[int], history: np.ndarray, query: list[int], limit: int) -> list[int]:
    return [*prefix, *item_part(history, limit), EOS]


def search(prefix: list[int], history: np.ndarray, query: list[int], limit: int) -> list[int]:
    return [*prefix, *query, *item_part(history, limit), EOS]


SOURCES: dict[str, Render] = {"recommend": recommend, "search": search}


def answerable(task: str, history_length: int, query_length: int) -> bool:
    """Whether there is anything to go by: a prompt without history, or without a known word, gets the labelled fallback instead."""
    return query_length > 0 if task == "search" else history_length > 0
