"""Text tokenizer + identifier tokens: one vocabulary, in one order.

    [ text tokens (specials and task words among them) | identifier tokens, level by level ]

Identifier tokens follow the text, so that a checkpoint's own vocabulary keeps its numbers and new items only append. Knows no
table and no weights; `tokenizers` does the text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

PAD, EOS, UNK = 0, 1, 2  # T5's numbers for <pad> (which also starts the decoder), </s> and <unk>
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
    """tokenizer: of the text. text_size: rows it owns in the embedding. codes: int32 [items, levels], the identifiers, item by item."""

    tokenizer: Tokenizer
    text_size: int
    codes: np.ndarray
    level_sizes: tuple[int, ...]

    @classmethod
    def build(cls, tokenizer: Tokenizer, text_size: int, codes: np.ndarray, at_least: Sequence[int] = ()) -> "Vocabulary":
        """`at_least` keeps a warm-started model's level sizes where the new catalogue has shrunk."""
        sizes = codes.max(axis=0, initial=0) + 1
        if len(at_least):
            sizes = np.maximum(sizes, at_least)
        return cls(tokenizer, text_size, codes.astype(np.int32), tuple(int(size) for size in sizes))

    @property
    def size(self) -> int:
        return self.text_size + sum(self.level_sizes)

    @property
    def level_offsets(self) -> np.ndarray:
        """int64 [levels]: number of identifier tokens before each level's, counted from `text_size`."""
        return np.concatenate([[0], np.cumsum(self.level_sizes)[:-1]]).astype(np.int64)

    @property
    def item_tokens(self) -> np.ndarray:
        """int64 [items, levels]: each item's identifier as vocabulary tokens."""
        return self.text_size + self.level_offsets + self.codes

    def encode(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """Token numbers of each text, at most `limit`, without specials."""
        return [encoding.ids[:limit] for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def task_tokens(self, task: str) -> list[int]:
        """What opens a prompt of the task."""
        return self.tokenizer.encode(TASK_WORDS[task], add_special_tokens=False).ids
