"""Which tokens may follow in an identifier, of all views at once: what a softmax over valid tokens alone is taken over in training.

With several codes per item most tokens can follow nowhere. A softmax over all of them spends a small model on what the trie knows anyway: on amazon_toys
five nats of a recommendation's fourteen. A node is what has been said of an identifier so far; nodes and their children lie end to end, view by view and
level by level. The same tries as in decoding (`model.trie`). Knows tokens, no prompt.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import trie
from model.pointers import Pointed
from model.spread import Spread
from model.vocabulary import Vocabulary

BEYOND = 1 << 62
FREE, CERTAIN = -1, -2  # instead of a node: any token may follow; only this one may


class Valid(nn.Module):
    """first_child: int64 [nodes + 1], where each node's children begin among `tokens`, int64 [children]; widest: most children of a node."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.text_size, self.above = vocabulary.text_size, {}
        self.spreads, self.begins, last = nn.ModuleList(), [], []  # view by view; where each level's children begin
        bounds, tokens = [np.zeros(1, np.int64)], []
        for view, codes in vocabulary.codes.items():
            held = trie.build(codes)
            self.spreads.append(Spread(held))
            places = np.empty((len(codes), held.depth), np.int64)
            for level, of_leaves in enumerate([np.zeros(len(codes), np.int64), *trie.above_leaves(held)[:-1]]):
                places[held.items, level] = of_leaves + sum(map(len, bounds)) - 1
                bounds.append(held.first_child[level][1:] + sum(map(len, tokens)))
                tokens.append(held.tokens[level].astype(np.int64) + vocabulary.text_size + vocabulary.offsets(view)[level])
            self.above[view] = places
            self.begins.append([sum(map(len, tokens[: len(tokens) - held.depth + level])) for level in range(held.depth)])
            last.append(self.begins[-1][-1] + np.argsort(held.items))
        self.register_buffer("first_child", torch.from_numpy(np.concatenate(bounds)), persistent=False)
        self.register_buffer("tokens", torch.from_numpy(np.concatenate(tokens)), persistent=False)
        self.register_buffer("last", torch.from_numpy(np.stack(last)), persistent=False)  # int64 [views, items], the child that is an item's last code
        self.widest = int(torch.diff(self.first_child).max())

    def told(self, pointed: Pointed, views: Tensor) -> tuple[Tensor, Tensor]:
        """What is told of items, as what it tells of the children, by the view that each row names an item by, int64 [B].

        Cells, int64 [n], each a row times all children and the child, in their order, the last beyond all; and what they are told, fp32 [n]. Most are told
        nothing: a matrix of all of them made a step of gensar a quarter slower.
        """
        cells, told = [views.new_full((1,), BEYOND)], [pointed.told.new_zeros(1)]
        for number, (spread, begins) in enumerate(zip(self.spreads, self.begins, strict=True)):
            of_view = views[pointed.rows] == number
            for level, begin in zip(spread(Pointed(*(part[of_view] for part in pointed))), begins, strict=True):
                cells.append(level.rows * len(self.tokens) + level.items + begin)
                told.append(level.told)
        ordered, order = torch.cat(cells).sort()
        return ordered, torch.cat(told).index_select(0, order)

    def columns(self, pointed: Pointed, views: Tensor) -> Tensor:
        """int64 [n]: where among all codes, of names of one, stands what is pointed at."""
        return self.tokens[self.last[views[pointed.rows], pointed.items]] - self.text_size

    def forward(
        self,
        hidden: Tensor,
        nodes: Tensor,
        said: Tensor,
        weight: Tensor,
        label_smoothing: float,
        told: tuple[Tensor, Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """hidden: [n, d_model]. nodes: int64 [n]. said: int64 [n], the token that followed. weight: [vocabulary, d_model], the softmax's rows.

        told: what `told` gave, of `rows`, int64 [n]. Returns the loss of each, fp32 [n]: the cross-entropy among the node's children.
        """
        first, end = self.first_child[nodes][:, None], self.first_child[nodes + 1][:, None]
        child = first + torch.arange(self.widest, device=nodes.device)
        exists, child = child < end, child.clamp(max=len(self.tokens) - 1)
        column = self.tokens[child] - self.text_size
        logits = F.linear(hidden, weight[self.text_size :]).float().gather(1, column)
        if told is not None:
            cells, wanted = told[0], rows[:, None] * len(self.tokens) + child
            at = torch.searchsorted(cells, wanted)
            logits = logits + told[1].index_select(0, at.flatten()).view_as(logits) * (cells[at] == wanted)
        scores = logits.masked_fill(~exists, -torch.inf).log_softmax(-1).masked_fill(~exists, 0.0)
        right = exists & (column + self.text_size == said[:, None])
        return -(1 - label_smoothing) * (scores * right).sum(-1) - label_smoothing * scores.sum(-1) / exists.sum(-1)
