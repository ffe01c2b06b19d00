"""The prompts of gensar: sentences, with both behaviours of the history in them, and answers of identifiers or of text.

    recommend       history → the item chosen next: mark, collaborative identifier                         (NRIP)
    search          history, query → the item clicked: mark, semantic identifier                           (NSIP)
    next_query      history → the words searched next                                                      (NSQP)
    pseudo_search   words made of an item's text → the item; the search prompt without a history           (Doc2query)
    text_to_item    text → identifier of the item, by turns the one of search and of recommend             (Desc2ID)
    item_to_text    identifier, by turns → text                                                            (ID2Desc)

(Shi et al. 2025, section 3; reference gensar 2.) In a history an action off the search surface is a mark and the item's identifier of recommend; one on it
is a mark, the words, a mark and the identifier of search: the last `history_per_behaviour` of either, in the order of time. Every answer ends in </s>.
Training draws one of a task's wordings, serving takes the first. The sentences are ours. The decoder begins with the latest item, as in `model.tasks`.
Knows tokens, not tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.data import Examples
from model.prompts import Ask
from model.vocabulary import CLICKED, EOS, PAD, QUERIED, RECOMMENDED, Vocabulary

# Parts of a prompt. A part whose slot has nothing in it is left out with its words.
WORDINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "recommend": (
        ("so far: {history}", "what is chosen next?"),
        ("{history}", "recommend the next item."),
        ("a person did: {history}", "which item follows?"),
        ("given these steps: {history}", "name the next choice."),
    ),
    "search": (
        ("so far: {history}", "now searched: {text}", "what is clicked?"),
        ("{history}", "find the item for {text}"),
        ("a person did: {history}", "and asks for {text}", "which item is meant?"),
        ("given these steps: {history}", "answer the query {text}"),
    ),
    "next_query": (
        ("so far: {history}", "what is searched next?"),
        ("{history}", "write the next query."),
        ("a person did: {history}", "what will be asked for?"),
        ("given these steps: {history}", "name the coming search."),
    ),
    "text_to_item": (
        ("which item is this? {text}",),
        ("name the item of {text}",),
        ("{text}", "this describes item"),
        ("find the name of {text}",),
    ),
    "item_to_text": (
        ("what is item {item}",),
        ("describe {item}",),
        ("{item}", "tell what this is."),
        ("write the text of {item}",),
    ),
}
WORDINGS["pseudo_search"] = WORDINGS["search"]
TURNS = ("search", "recommend")  # whose identifier an example on an item's text shows
SLOTS = ("{history}", "{text}", "{item}")

Part = tuple[list[int], str, list[int]]  # words, slot or "", words


class Sentences:
    reads_queries = True
    whole_vocabulary = True

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]):
        self.limit = settings["history_per_behaviour"]
        self.tokens = {task: vocabulary.item_tokens[vocabulary.view(task)] for task in TURNS}
        self.marks = vocabulary.marks if settings["behaviour_tokens"] else {}
        self.wordings = {task: [[parsed(part, vocabulary) for part in wording] for wording in wordings] for task, wordings in WORDINGS.items()}

    def answerable(self, task: str, history_length: int, text_length: int) -> bool:
        return history_length > 0 if task in ("recommend", "next_query") else text_length > 0

    def source(self, ask: Ask, draw: int = 0) -> list[int]:
        wordings = self.wordings[ask.task]
        filled = {"{text}": ask.text, "{history}": self.history(ask), "{item}": self.tokens[turn(draw)][ask.item].tolist()}
        told: list[int] = []
        for before, slot, after in wordings[draw // len(TURNS) % len(wordings)]:
            if slot and not len(filled[slot]):
                continue
            told += [*before, *filled.get(slot, ()), *after]
        return [*told, EOS]

    def history(self, ask: Ask) -> list[int]:
        """Tokens of the latest actions of either behaviour."""
        if ask.task in ("pseudo_search", "text_to_item", "item_to_text"):
            return []
        searched = np.fromiter((words is not None for words in ask.searched), dtype=bool, count=len(ask.searched))
        kept = np.sort(np.concatenate([np.flatnonzero(~searched)[-self.limit :], np.flatnonzero(searched)[-self.limit :]]))
        told: list[int] = []
        for i in kept.tolist():
            told += self.action(ask.items[i], ask.searched[i])
        return told

    def action(self, item: int, words: Sequence[int] | None) -> list[int]:
        if words is None:
            return [*self.mark(RECOMMENDED), *self.tokens["recommend"][item].tolist()]
        return [*self.mark(QUERIED), *words, *self.mark(CLICKED), *self.tokens["search"][item].tolist()]

    def mark(self, name: str) -> list[int]:
        return [self.marks[name]] if self.marks else []

    def start(self, ask: Ask) -> np.ndarray:
        if ask.task in ("recommend", "search", "next_query") and len(ask.items):
            return self.tokens["recommend" if ask.searched[-1] is None else "search"][ask.items[-1]]
        return np.full(self.tokens["search"].shape[1], PAD)

    def target(self, ask: Ask, draw: int = 0) -> list[int]:
        names = self.named(ask.task, draw)
        if names is None:
            return [*(self.mark(QUERIED) if ask.task == "next_query" else ()), *ask.text, EOS]
        return [*self.opening(ask.task), *self.tokens[names][ask.item].tolist(), EOS]

    def named(self, task: str, draw: int = 0) -> str | None:
        if task in ("next_query", "item_to_text"):
            return None
        return turn(draw) if task == "text_to_item" else "recommend" if task == "recommend" else "search"

    def opening(self, task: str) -> list[int]:
        return {"recommend": self.mark(RECOMMENDED), "next_query": self.mark(QUERIED), "text_to_item": []}.get(task, self.mark(CLICKED))

    def closing(self, task: str) -> list[int]:
        return [EOS]

    def lengths(self, examples: Examples) -> np.ndarray:
        """Answers that are text, of many lengths among identifiers that have one, left half of the decoder's tokens to padding; prompts as long as they have
        actions, a third of the encoder's."""
        number, queries = examples.searched.number, examples.searched.queries.lengths
        owner, searched = np.repeat(np.arange(len(examples)), number.lengths), number.values >= 0
        kept = np.where(searched, behind(searched, number.offsets, owner), behind(~searched, number.offsets, owner)) < self.limit
        marks, name = bool(self.marks), self.tokens["search"].shape[1]
        tokens = (marks + name + searched * (marks + np.append(queries, 0)[number.values])) * kept
        text = np.array([self.named(task) is None for task in examples.tasks])[examples.task]
        asked = examples.query.lengths
        prompts = np.bincount(owner, tokens, len(examples)).astype(np.int64) + np.where(text, 0, asked)
        return np.column_stack([np.where(text, asked, 0), prompts])


def behind(kind: np.ndarray, offsets: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """int64 [values]: how many of a kind (bool [values]) stand behind each value in its row. owner: int [values], the row."""
    before = np.concatenate([[0], np.cumsum(kind)])
    return before[offsets[owner + 1]] - before[1:]


def turn(draw: int) -> str:
    return TURNS[draw % len(TURNS)]


def parsed(part: str, vocabulary: Vocabulary) -> Part:
    slot = next((slot for slot in SLOTS if slot in part), "")
    before, _, after = part.partition(slot) if slot else (part, "", "")
    encoded = vocabulary.encode([before.strip(), after.strip()], limit=64)
    return encoded[0], slot, encoded[1]


def texts() -> list[str]:
    """All words of all wordings: what a tokenizer should know."""
    held = [" ".join(wording) for wordings in WORDINGS.values() for wording in wordings]
    for slot in SLOTS:
        held = [text.replace(slot, "") for text in held]
    return held
