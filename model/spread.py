"""What is told of items, as what it tells of the nodes of their trie: the logarithm of the mean, over the items below a node, of what is told exponentiated.

So that where the decoder finds all items alike, its codes one after the other come to the softmax over the items: a node's probability is its items' sum.
Items of which nothing is told count with 0. Knows a trie and numbers of items.
"""

import torch
from torch import Tensor, nn

from model import trie
from model.pointers import Pointed, summed

HIGHEST = 80.0  # e to it is still a number; BM25 gives a rare word 20
LOWEST = 1e-6 - 1  # of a mean less 1: rounding may take one below -1, where all that lies below a node is told against


class Spread(nn.Module):
    """held: the trie. Level l's nodes are those that answer a name's code l, the last level's its leaves."""

    def __init__(self, held: trie.Trie):
        super().__init__()
        self.depth, items = held.depth, torch.from_numpy(held.items).long()
        for level, above in enumerate(trie.above_leaves(held)):
            node = torch.empty_like(items)
            node[items] = torch.from_numpy(above)
            self.register_buffer(f"node{level}", node, persistent=False)
            self.register_buffer(f"size{level}", torch.bincount(node, minlength=len(held.tokens[level])).float(), persistent=False)

    def forward(self, pointed: Pointed) -> list[Pointed]:
        """Of each level the nodes told of, every one once per request: `items` are numbers of nodes here."""
        rows, items, told = summed(pointed, len(self.node0))
        beyond, levels = told.clamp(max=HIGHEST).expm1(), []
        for level in range(self.depth - 1):
            size = getattr(self, f"size{level}")
            below = summed(Pointed(rows, getattr(self, f"node{level}")[items], beyond), len(size))
            levels.append(below._replace(told=(below.told / size[below.items]).clamp(min=LOWEST).log1p()))
        return [*levels, Pointed(rows, getattr(self, f"node{self.depth - 1}")[items], told)]

    def dense(self, pointed: Pointed, requests: int) -> list[Tensor]:
        """Of each level fp32 [requests, nodes]."""
        sizes = [len(getattr(self, f"size{level}")) for level in range(self.depth)]
        told = self(pointed) if self.depth > 1 else [pointed._replace(items=self.node0[pointed.items])]  # of one level, those told of twice add up below
        levels = zip(told, sizes, strict=True)
        return [level.told.new_zeros(requests * size).index_add(0, level.rows * size + level.items, level.told).view(-1, size) for level, size in levels]
