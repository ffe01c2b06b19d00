"""Pointers: what a request says points at items, and adds to their logits beside what the decoder says.

A word of the query points at the items whose text holds it: its share in an item is BM25's (Robertson and Zaragoza 2009, equation 3.15), its weight is
learned and begins as its inverse document frequency, so that before the first step this is BM25. An item of the history points at itself, by one weight per
task, which begins at 0: whether people come back to what they had, or never do (Ren et al. 2019, RepeatNet). The latest items of the history point at their
neighbours (`model.neighbours`), all of them together by the logarithm of what each adds, again by one weight per task from 0 on. Training tells how far to
trust each. So an item is found by its name that nobody searched yet, a query that is a category is a filter within which the history orders, nobody is shown
again what nobody has twice, and two rare items that the same few people had are not forgotten. What it means for the codes of a name of several:
`model.spread`. Knows words and items, no code and no table.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from model.neighbours import DECAY, FOLDS, WINDOW, Neighbours
from model.plurals import in_singular
from model.prompts import Ask, padded
from model.recipes import SERVED
from model.vocabulary import PAD, Vocabulary

K1, B = 1.5, 0.75  # as bm25s has them
COMMON = 0.5  # a word of more than this share of the items tells them not apart: its postings would be most of the work
PACE = 30  # a word's weight begins as high as 9, and AdamW moves it by the learning rate a step: at the model's own, a small log's steps cannot unlearn it
LITTLE = 1e-3  # of nearness: what is far below tells next to nothing, what is above its logarithm (1e-2 found less, 1e-4 as much: amazon_beauty, validation)
UNKNOWN = 2  # <pad>, </s> and <unk> are no words
PREFIX = "pointers."
POSTINGS = ("first", "items", "shares", "near_first", "near_items", "near_shares")
BY_WORDS = ("search", "pseudo_search")  # the tasks whose text asks for an item; in text_to_item it would be the answer itself


class Pointed(NamedTuple):
    """Who is pointed at. rows, items: int64 [n], of the request and of the catalogue, a pair as often as it is pointed at. told: fp32 [n], what each adds."""

    rows: Tensor
    items: Tensor
    told: Tensor


class Pointing(NamedTuple):
    """What of requests points. words: int64 [B, longest], the query's, PAD on the right. had: int64 [B, most], each item of the history once, -1 on the
    right. latest: int64 [B, up to WINDOW], its last items, newest first, -1 on the right. lists: int64 [B], whose neighbours: 0 everybody's, n those without
    the users of fold n - 1. served: int64 [B], the task's number in SERVED; -1 for another, which has no history here."""

    words: Tensor
    had: Tensor
    latest: Tensor
    lists: Tensor
    served: Tensor

    def to(self, device: torch.device) -> "Pointing":
        return Pointing(*(part.to(device) for part in self))


def pointing(asks: Sequence[Ask], whose: Sequence[bool] | None = None, users: np.ndarray | None = None) -> Pointing:
    """whose: of which requests anything points; of all for None. users: int64 [B], of examples of the training, whose neighbours must not know what they are
    asked; None for requests."""
    whose = [True] * len(asks) if whose is None else whose
    words = [ask.text if points and ask.task in BY_WORDS else () for ask, points in zip(asks, whose, strict=True)]
    items = [ask.items if points and ask.task in SERVED else ask.items[:0] for ask, points in zip(asks, whose, strict=True)]
    had, latest = ([each(rows) for rows in items] for each in (np.unique, lambda rows: rows[: -WINDOW - 1 : -1]))
    lists = np.zeros(len(asks), np.int64) if users is None else 1 + users % FOLDS
    served = [SERVED.index(ask.task) if ask.task in SERVED else -1 for ask in asks]
    parts = padded(words), padded(had, -1), padded(latest, -1), lists, np.array(served, np.int64)
    return Pointing(*map(torch.from_numpy, parts))


def carried(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[int]]:
    """The tokens of each text, at most `limit`, and those of its words in the singular: who asks for a doll finds dolls."""
    pairs = zip(vocabulary.encode(texts, limit), vocabulary.encode([in_singular(text) for text in texts], limit), strict=True)
    return [tokens + sorted(set(single) - set(tokens)) for tokens, single in pairs]


class Pointers(nn.Module):
    """first: int64 [words + 1], where each word's postings begin. items: int [postings], who carries it, int32 where loaded. shares: fp32 [postings].

    near_first, near_items, near_shares: the neighbours, as `Neighbours` has them; of a loaded model everybody's alone.
    Parameters: `weight`, fp32 [words]; `again` and `near`, fp32 [tasks of SERVED]. trust: fp32 [tasks of SERVED], by how much more an answer trusts neighbours
    than training does, whose decoder remembers much of what it should have to guess.
    """

    first: Tensor
    items: Tensor
    shares: Tensor
    near_first: Tensor
    near_items: Tensor
    near_shares: Tensor
    trust: Tensor

    def __init__(self, size: int, words: tuple[Tensor, Tensor, Tensor], near: tuple[Tensor, Tensor, Tensor], weights: tuple[Tensor, Tensor, Tensor]):
        super().__init__()
        self.size = size
        self.weight, self.again, self.near = map(nn.Parameter, weights)
        for name, held in zip(POSTINGS, (*words, *near), strict=True):
            self.register_buffer(name, held, persistent=False)  # of catalogue and corpora: made anew with the model, and kept by `kept`
        self.register_buffer("trust", torch.ones_like(self.near), persistent=False)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], words: int, near: Neighbours | None = None) -> "Pointers":
        """texts: the words of each item, as tokens < `words`. near: None for none."""
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
        postings = (held.indptr.astype(np.int64), held.indices.astype(np.int64), held.data.astype(np.float32))
        weights = torch.from_numpy(idf.astype(np.float32)), torch.zeros(len(SERVED)), torch.zeros(len(SERVED))
        return cls(size, tuple(map(torch.from_numpy, postings)), tuple(map(torch.from_numpy, near)) if near else nobody(size), weights)

    @classmethod
    def loaded(cls, weights: Mapping[str, Tensor], size: int) -> "Pointers":
        """From the parameters by name and what `kept` gave. size: items. A model of before neighbours has none."""
        held = {name.removeprefix(PREFIX): part for name, part in weights.items() if name.startswith(PREFIX)}
        device = held["weight"].device
        none = {"near": torch.zeros(len(SERVED)), "trust": torch.ones(len(SERVED)), **dict(zip(POSTINGS[3:], nobody(size), strict=True))}
        parts = {name: part.to(device) for name, part in none.items()} | held
        words, near = (tuple(parts[name] for name in names) for names in (POSTINGS[:3], POSTINGS[3:]))
        made = cls(size, words, near, (parts["weight"], parts["again"], parts["near"])).requires_grad_(False)
        made.trust = parts["trust"]
        return made

    def kept(self) -> dict[str, Tensor]:
        """What the artifact keeps besides the parameters: 8 bytes a posting, and a neighbour."""
        own = self.near_first[: self.size + 1]
        near = own, self.near_items[: own[-1]].int(), self.near_shares[: own[-1]]
        parts = dict(zip(POSTINGS, (self.first, self.items.int(), self.shares, *near), strict=True), trust=self.trust)
        return {PREFIX + name: part for name, part in parts.items()}

    def forward(self, said: Pointing) -> Pointed:
        """Every word's items, what was had, and its neighbours, to be added up per item."""
        row, place = (said.words != PAD).nonzero(as_tuple=True)
        token = said.words[row, place]
        # index_select, not [ ]: whose gradient is added up by all threads at once from 32,768 rows on, another sum every time.
        source, at = entries(self.first, token)
        told = self.weight.index_select(0, token).index_select(0, source) * self.shares.index_select(0, at)
        owner, place = (said.had >= 0).nonzero(as_tuple=True)
        again = self.again.index_select(0, said.served[owner])
        near, trusted = self.nearby(said), self.near * self.trust
        rows = torch.cat([row.index_select(0, source), owner, near.rows])
        items = torch.cat([self.items.index_select(0, at).long(), said.had[owner, place], near.items])
        return Pointed(rows, items, torch.cat([told, again, trusted.index_select(0, said.served[near.rows]) * near.told]))

    def every_word(self, queries: Sequence[Sequence[int]], offered: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float64 [items] for each request: 1 for an offered item that holds every word of its query that points at any item, else, or without one, 0.

        queries: tokens. offered: rows of items.
        """
        (first, items), held, made = self.on_cpu, np.zeros(self.size, np.int64), []
        for query, rows in zip(queries, offered, strict=True):
            carriers = [items[first[word] : first[word + 1]] for word in set(query) if first[word] < first[word + 1]]
            for each in carriers:
                held[each] += 1
            made.append((held[rows] == (len(carriers) or -1)).astype(np.float64))
            for each in carriers:
                held[each] = 0
        return made

    @cached_property
    def on_cpu(self) -> tuple[np.ndarray, np.ndarray]:
        """`first` and `items`, copied off a GPU once."""
        return self.first.cpu().numpy(), self.items.cpu().numpy()

    def nearby(self, said: Pointing) -> Pointed:
        """The neighbours of each request's latest items, once each, and the logarithm of how near they are to all of these together."""
        owner, age = (said.latest >= 0).nonzero(as_tuple=True)
        source, at = entries(self.near_first, said.lists[owner] * self.size + said.latest[owner, age])
        closeness = DECAY ** age.float().index_select(0, source) * self.near_shares.index_select(0, at)
        near = summed(Pointed(owner.index_select(0, source), self.near_items.index_select(0, at).long(), closeness), self.size)
        return near._replace(told=(near.told / LITTLE).log1p())


def nobody(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of neighbours of a catalogue where nobody has any."""
    return torch.zeros((1 + FOLDS) * size + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0)


def entries(first: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:
    """Of lists that lie end to end, list n from first[n] on: which of `lists` each entry is of, and where it lies; int64 [entries] both."""
    begin, many = first.index_select(0, lists), first.index_select(0, lists + 1) - first.index_select(0, lists)
    source = torch.arange(len(lists), device=lists.device).repeat_interleave(many)
    return source, torch.arange(len(source), device=lists.device) + (begin - many.cumsum(0) + many).index_select(0, source)


def summed(pointed: Pointed, count: int) -> Pointed:
    """Every pair of the request and one of `count` once, in their order, with the sum of what it is told."""
    cells, places = torch.unique(pointed.rows * count + pointed.items, return_inverse=True)
    return Pointed(cells // count, cells % count, pointed.told.new_zeros(len(cells)).index_add(0, places, pointed.told))
