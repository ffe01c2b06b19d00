"""corpora row → what the encoder reads. One function per task.

    recommend   recommend: <item> <item> …        the user's history, oldest first
    search      search: query words [<item> …]     with the history behind it where the search is personalised

(Penha et al. 2024, Table 1.) Every prompt ends in </s>: positions are relative in T5, and only its end marks the latest item.
Knows tokens, not tables; rendered when a batch is made, never stored.
"""

from collections.abc import Callable

import numpy as np

from model.vocabulary import EOS

Render = Callable[[list[int], np.ndarray, list[int], int], list[int]]


def item_part(history: np.ndarray, limit: int) -> list[int]:
    """history: int [items, levels] tokens, oldest first. A repeated neighbour tells nothing new: the same act seen on both surfaces."""
    if len(history) > 1:
        history = history[np.concatenate([[True], (history[1:] != history[:-1]).any(axis=1)])]
    return history[-limit:].ravel().tolist() if limit else []


def recommend(prefix: list[int], history: np.ndarray, query: list[int], limit: int) -> list[int]:
    return [*prefix, *item_part(history, limit), EOS]


def search(prefix: list[int], history: np.ndarray, query: list[int], limit: int) -> list[int]:
    return [*prefix, *query, *item_part(history, limit), EOS]


SOURCES: dict[str, Render] = {"recommend": recommend, "search": search}


def answerable(task: str, history_length: int, query_length: int) -> bool:
    """Whether there is anything to go by: a prompt without history, or without a known word, gets the labelled fallback instead."""
    return query_length > 0 if task == "search" else history_length > 0
