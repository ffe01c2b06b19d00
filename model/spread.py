"""What is told of items, as what it tells of the nodes of their trie: the logarithm of the mean, over the items below a node, of what is told exponentiated.

So that where the decoder finds all items alike, its codes one after the other come to the softmax over the items: a node's probability is its items' sum.
Items of which nothing is told count with 0. Knows a trie and numbers of items.
"""

import torch
from torch import Tensor, nn

from model import trie

HIGHEST = 80.0  # e to it is still a number; BM25 of twenty rare words
LOWEST = 1e-6 - 1  # of a mean less 1: rounding may take one below -1, where all that lies below a node is told against


class Spread(nn.Module):
    """held: the trie. Level l's nodes are the children that answer a name's code l."""

    def __init__(self, held: trie.Trie):
        super().__init__()
        items = torch.from_numpy(held.items).long()
        self.register_buffer("items", items, persistent=False)
        for level, above in enumerate(trie.above_leaves(held)[:-1]):
            node = torch.empty_like(items)
            node[items] = torch.from_numpy(above)
            self.register_buffer(f"node{level}", node, persistent=False)
            self.register_buffer(f"size{level}", torch.bincount(node, minlength=len(held.tokens[level])).float(), persistent=False)
        self.depth = held.depth

    def forward(self, told: Tensor) -> list[Tensor]:
        """told: fp32 [B, items] → of each level fp32 [B, nodes]."""
        beyond = told.clamp(max=HIGHEST).expm1()
        levels = []
        for level in range(self.depth - 1):
            node, size = getattr(self, f"node{level}"), getattr(self, f"size{level}")
            summed = told.new_zeros(len(told), len(size)).scatter_add(1, node.expand(len(told), -1), beyond)
            levels.append((summed / size).clamp(min=LOWEST).log1p())
        return [*levels, told.index_select(1, self.items)]
