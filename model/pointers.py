"""Pointers: what a request says points at items, and adds to their logits beside what the decoder says.

A word of the query points at the items whose text holds it: its share in an item is BM25's (Robertson and Zaragoza 2009, equation 3.15), its weight is
learned and begins as its inverse document frequency, so that before the first step this is BM25. An item of the history points at itself, by one weight per
task, which begins at 0: whether people come back to what they had, or never do (Ren et al. 2019, RepeatNet). Training tells how far to trust each. So an item
is found by its name that nobody searched yet, a query that is a category is a filter within which the history orders, and nobody is shown again what nobody
has twice. What it means for the codes of a name of several: `model.spread`. Knows words and items, no code and no table.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from model.plurals import in_singular
from model.prompts import Ask, padded
from model.recipes import SERVED
from model.vocabulary import PAD, Vocabulary

K1, B = 1.5, 0.75  # as bm25s has them
COMMON = 0.5  # a word of more than this share of the items tells them not apart: its postings would be most of the work
PACE = 30  # a word's weight begins as high as 9, and AdamW moves it by the learning rate a step: at the model's own, a small log's steps cannot unlearn it
UNKNOWN = 2  # <pad>, </s> and <unk> are no words
PREFIX = "pointers."
BY_WORDS = ("search", "pseudo_search")  # the tasks whose text asks for an item; in text_to_item it would be the answer itself


class Pointed(NamedTuple):
    """Who is pointed at. rows, items: int64 [n], of the request and of the catalogue, a pair as often as it is pointed at. told: fp32 [n], what each adds."""

    rows: Tensor
    items: Tensor
    told: Tensor


class Pointing(NamedTuple):
    """What of requests points. words: int64 [B, longest], the query's, PAD on the right. had: int64 [B, most], each item of the history once, -1 on the
    right. served: int64 [B], the task's number in SERVED; -1 for another, which has no history here."""

    words: Tensor
    had: Tensor
    served: Tensor

    def to(self, device: torch.device) -> "Pointing":
        return Pointing(*(part.to(device) for part in self))


def pointing(asks: Sequence[Ask], whose: Sequence[bool] | None = None) -> Pointing:
    """whose: of which requests anything points; of all for None."""
    whose = [True] * len(asks) if whose is None else whose
    words = [ask.text if points and ask.task in BY_WORDS else () for ask, points in zip(asks, whose, strict=True)]
    had = [np.unique(ask.items) if points and ask.task in SERVED else () for ask, points in zip(asks, whose, strict=True)]
    served = [SERVED.index(ask.task) if ask.task in SERVED else -1 for ask in asks]
    return Pointing(torch.from_numpy(padded(words)), torch.from_numpy(padded(had, -1)), torch.tensor(served))


def carried(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The tokens of each text, at most `limit`, and those of its words in the singular: who asks for a doll finds dolls."""
    pairs = zip(vocabulary.encode(texts, limit), vocabulary.encode([in_singular(text) for text in texts], limit), strict=True)
    return [tokens + sorted(set(single) - set(tokens)) for tokens, single in pairs]


class Pointers(nn.Module):
    """first: int64 [words + 1], where each word's postings begin. items: int64 [postings], rows of the items that carry it. shares: fp32 [postings].

    Parameters: `weight`, fp32 [words]; `again`, fp32 [tasks of SERVED].
    """

    first: Tensor
    items: Tensor
    shares: Tensor

    def __init__(self, first: Tensor, items: Tensor, shares: Tensor, weight: Tensor, again: Tensor):
        super().__init__()
        self.weight, self.again = nn.Parameter(weight), nn.Parameter(again)
        for name, held in (("first", first), ("items", items), ("shares", shares)):
            self.register_buffer(name, held, persistent=False)  # of the catalogue: made anew with the model, and kept by `kept`

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], words: int) -> "Pointers":
        """texts: the words of each item, as tokens < `words`."""
        size, lengths = len(texts), np.array([len(text) for text in texts])
        tokens = np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64)
        counted = sparse.csr_matrix((np.ones(len(tokens), np.float32), (tokens, np.repeat(np.arange(size), lengths))), shape=(words, size))
        carriers = np.diff(counted.indptr)
        length = lengths / max(lengths.mean() if size else 0.0, 1e-9)
        counted.data = counted.data * (K1 + 1) / (counted.data + K1 * (1 - B + B * length[counted.indices]))
        useful = carriers <= COMMON * size
        useful[: UNKNOWN + 1] = False
        held = sparse.diags(useful.astype(np.float32)) @ counted
        held.eliminate_zeros()
        idf = np.where(carriers > 0, np.log1p((size - carriers + 0.5) / (carriers + 0.5)), 0.0)
        parts = (held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data.astype(np.float32), idf.astype(np.float32))
        return cls(*map(torch.from_numpy, parts), torch.zeros(len(SERVED)))

    @classmethod
    def loaded(cls, weights: Mapping[str, Tensor]) -> "Pointers":
        """From the parameters by name and what `kept` gave."""
        first, items, *others = (weights[PREFIX + name] for name in ("first", "items", "shares", "weight", "again"))
        return cls(first, items.long(), *others).requires_grad_(False)

    def kept(self) -> dict[str, Tensor]:
        """What the artifact keeps besides the parameters: 8 bytes a posting."""
        return {f"{PREFIX}first": self.first, f"{PREFIX}items": self.items.int(), f"{PREFIX}shares": self.shares}

    def forward(self, said: Pointing) -> Pointed:
        """Every word's items and what was had, to be added up per item."""
        row, place = (said.words != PAD).nonzero(as_tuple=True)
        token = said.words[row, place]
        begin, many = self.first[token], self.first[token + 1] - self.first[token]
        at = torch.arange(int(many.sum()), device=token.device) + (begin - many.cumsum(0) + many).repeat_interleave(many)
        # index_select, not [ ]: whose gradient is added up by all threads at once from 32,768 rows on, another sum every time.
        told = self.weight.index_select(0, token).repeat_interleave(many) * self.shares.index_select(0, at)
        owner, place = (said.had >= 0).nonzero(as_tuple=True)
        items = torch.cat([self.items.index_select(0, at), said.had[owner, place]])
        return Pointed(torch.cat([row.repeat_interleave(many), owner]), items, torch.cat([told, self.again.index_select(0, said.served[owner])]))
