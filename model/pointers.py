"""Pointers: what stands in a prompt points at items, and adds to their logits beside what the decoder says.

A word points at the items whose text holds it: its share in an item is BM25's (Robertson and Zaragoza 2009, equation 3.15), its weight is learned and begins
as its inverse document frequency, so that before the first step this is BM25. An item of the history points at itself, by one weight per task, which begins
at 0: whether people come back to what they had, or never do (Ren et al. 2019, RepeatNet). Training tells how far to trust each. So an item is found by its
name that nobody searched yet, a query that is a category is a filter within which the history orders, and nobody is shown again what nobody has twice.
For identifiers of one token: those of several would need the sum over all items below each code. Knows tokens and softmax columns, no table.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from model.plurals import in_singular
from model.vocabulary import Vocabulary

K1, B = 1.5, 0.75  # as bm25s has them
COMMON = 0.5  # a word of more than this share of the items tells them not apart: its postings would be most of the work
PACE = 30  # a word's weight begins as high as 9, and AdamW moves it by the learning rate a step: at the model's own, a small log's steps cannot unlearn it
UNKNOWN = 2  # <pad>, </s> and <unk> are no words
PREFIX = "pointers."

Pointed = tuple[Tensor, Tensor]  # cells of [B, answers] flattened, int64 [n], one as often as it is pointed at; what each adds, fp32 [n]


def carried(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The tokens of each text, at most `limit`, and those of its words in the singular: who asks for a doll finds dolls."""
    pairs = zip(vocabulary.encode(texts, limit), vocabulary.encode([in_singular(text) for text in texts], limit), strict=True)
    return [tokens + sorted(set(single) - set(tokens)) for tokens, single in pairs]


class Pointers(nn.Module):
    """first: int64 [words + 1], where each word's postings begin. columns: int64 [postings], the answers that carry it. shares: fp32 [postings].

    size: answers. Parameters: `weight`, fp32 [words]; `again`, fp32 [words], that of the word which opens the prompt, its task.
    """

    first: Tensor
    columns: Tensor
    shares: Tensor

    def __init__(self, first: Tensor, columns: Tensor, shares: Tensor, weight: Tensor, again: Tensor, size: int):
        super().__init__()
        self.size = size
        self.weight, self.again = nn.Parameter(weight), nn.Parameter(again)
        for name, held in (("first", first), ("columns", columns), ("shares", shares)):
            self.register_buffer(name, held, persistent=False)  # of the catalogue: made anew with the model, and kept by `kept`

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], columns: np.ndarray, words: int, size: int) -> "Pointers":
        """texts: the words of each item, as tokens < `words`. columns: int [items], the answer that is each item."""
        lengths = np.array([len(text) for text in texts])
        tokens = np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64)
        counted = sparse.csr_matrix((np.ones(len(tokens), np.float32), (tokens, np.repeat(columns, lengths))), shape=(words, size))
        carriers, items = np.diff(counted.indptr), max(len(texts), 1)
        length = np.zeros(size, np.float32)
        length[columns] = lengths / max(lengths.mean() if len(texts) else 0.0, 1e-9)
        counted.data = counted.data * (K1 + 1) / (counted.data + K1 * (1 - B + B * length[counted.indices]))
        useful = carriers <= COMMON * items
        useful[: UNKNOWN + 1] = False
        held = sparse.diags(useful.astype(np.float32)) @ counted
        held.eliminate_zeros()
        idf = np.where(carriers > 0, np.log1p((items - carriers + 0.5) / (carriers + 0.5)), 0.0)
        parts = (held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data.astype(np.float32), idf.astype(np.float32), np.zeros(words, np.float32))
        return cls(*map(torch.from_numpy, parts), size)

    @classmethod
    def loaded(cls, weights: Mapping[str, Tensor], size: int) -> "Pointers":
        """From the parameters by name and what `kept` gave."""
        first, columns, *others = (weights[PREFIX + name] for name in ("first", "columns", "shares", "weight", "again"))
        return cls(first, columns.long(), *others, size).requires_grad_(False)

    def kept(self) -> dict[str, Tensor]:
        """What the artifact keeps besides the parameters: 8 bytes a posting."""
        return {f"{PREFIX}first": self.first, f"{PREFIX}columns": self.columns.int(), f"{PREFIX}shares": self.shares}

    def forward(self, source: Tensor) -> Pointed:
        """source: int64 [B, T], prompts of words < `words` and items' tokens, which are the answers' columns from there on."""
        words = len(self.weight)
        row, place = (source < words).nonzero(as_tuple=True)
        token = source[row, place]
        begin, many = self.first[token], self.first[token + 1] - self.first[token]
        at = torch.arange(int(many.sum()), device=source.device) + (begin - many.cumsum(0) + many).repeat_interleave(many)
        carriers = (row * self.size).repeat_interleave(many) + self.columns[at]
        # index_select, not [ ]: whose gradient is added up by all threads at once from 32,768 rows on, another sum every time.
        told = self.weight.index_select(0, token).repeat_interleave(many) * self.shares[at]
        owner, place = (source >= words).nonzero(as_tuple=True)
        had = owner * self.size + source[owner, place] - words
        return torch.cat([carriers, had]), torch.cat([told, self.again.index_select(0, source[owner, 0])])
