"""Text tokenizer + identifier tokens: one vocabulary, in one order.

    [ text tokens (specials and task words among them) | marks of behaviour | identifier tokens, level by level ]

Identifier tokens follow the text and its marks, so that a checkpoint's own vocabulary keeps its numbers and new items only append. An item has one
identifier (`joint`), or one per task: then the first levels may share their tokens, and the others have tokens of their own. Knows no table and no
weights; `tokenizers` does the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

PAD, EOS, UNK = 0, 1, 2  # T5's numbers for <pad> (which also starts the decoder), </s> and <unk>
JOINT = "joint"  # the view of an identifier that serves both tasks
# Marks of behaviour: what follows was chosen off the search surface, is a query, was clicked for it (GenSAR's <RI>, <SQ>, <SI>).
MARKS = (RECOMMENDED, QUERIED, CLICKED) = ("recommended", "queried", "clicked")
TASK_WORDS = {"recommend": "recommend:", "search": "search:"}


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A lower-casing byte-level BPE tokenizer of at most `size` tokens, the task words being one token each; the same texts, the same tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed"), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    specials = ["<pad>", "</s>", "<unk>", *TASK_WORDS.values()]
    # A given alphabet: one that is discovered (as with a subword prefix) is numbered in hash order, anew in every process.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False, initial_alphabet=alphabet, min_frequency=2)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """tokenizer: of the text. text_size: rows before the identifiers', which are the tokenizer's and the marks'. codes: view → int32 [items, levels], the
    identifiers, item by item, as many levels in each view; `joint`, or a view for each task. shared: first levels of which the views share the tokens.
    level_sizes: tokens of each level, those of the first view and then the unshared ones of the others."""

    tokenizer: Tokenizer
    text_size: int
    codes: Mapping[str, np.ndarray]
    shared: int
    level_sizes: tuple[int, ...]

    @classmethod
    def build(cls, tokenizer: Tokenizer, words: int, codes: Mapping[str, np.ndarray], shared: int = 0, at_least: Sequence[int] = ()) -> "Vocabulary":
        """words: rows that the tokenizer owns. `at_least` keeps a warm-started model's level sizes where the new catalogue has shrunk."""
        codes = {view: codes[view].astype(np.int32) for view in sorted(codes)}
        highest = [held.max(axis=0, initial=0) + 1 for held in codes.values()]
        together = np.max(highest, axis=0)[:shared]
        sizes = np.concatenate([together, *(of_view[shared:] for of_view in highest)])
        if len(at_least):
            sizes = np.maximum(sizes, at_least)
        return cls(tokenizer, words + len(MARKS), codes, shared, tuple(int(size) for size in sizes))

    @property
    def size(self) -> int:
        return self.text_size + sum(self.level_sizes)

    @property
    def marks(self) -> dict[str, int]:
        """Mark → its token."""
        return {mark: self.text_size - len(MARKS) + i for i, mark in enumerate(MARKS)}

    @property
    def level_offsets(self) -> np.ndarray:
        """int64 [levels]: number of identifier tokens before each level's, counted from `text_size`."""
        return np.concatenate([[0], np.cumsum(self.level_sizes)[:-1]]).astype(np.int64)

    @property
    def depth(self) -> int:
        """Tokens of an identifier."""
        return next(iter(self.codes.values())).shape[1]

    def view(self, task: str) -> str:
        """By which identifier the task names items, in its prompts and its answers."""
        return task if task in self.codes else JOINT

    def offsets(self, view: str) -> np.ndarray:
        """int64 [levels]: of an identifier's levels, the `level_offsets`."""
        own = self.shared + list(self.codes).index(view) * (self.depth - self.shared)
        return self.level_offsets[[*range(self.shared), *range(own, own + self.depth - self.shared)]]

    @cached_property
    def item_tokens(self) -> dict[str, np.ndarray]:
        """View → int64 [items, levels]: each item's identifier as vocabulary tokens."""
        return {view: self.text_size + self.offsets(view) + codes for view, codes in self.codes.items()}

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Token numbers of each text, at most `limit`, without specials."""
        return [encoding.ids[:limit] for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def task_tokens(self, task: str) -> list[int]:
        """What opens a prompt of the task."""
        return self.tokenizer.encode(TASK_WORDS[task], add_special_tokens=False).ids
