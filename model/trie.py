"""The catalogue as a trie of identifiers, in integer arrays: which tokens may come next, and which item a leaf is.

A node is its rank among the sorted prefixes of its level, so the children of a node lie side by side and no next-state table is
needed. Leaf number = rank of the item among the sorted identifiers; `items[leaf]` is the item's row. numpy only.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trie:
    """tokens[l]: int32 [nodes of level l + 1], the last code of each prefix. first_child[l]: int32 [nodes of level l, + 1], CSR bounds into them.
    items: int32 [leaves]. alive[l]: bool [nodes of level l+1], whether an allowed item lies below."""

    tokens: tuple[np.ndarray, ...]
    first_child: tuple[np.ndarray, ...]
    items: np.ndarray
    alive: tuple[np.ndarray, ...]

    @property
    def depth(self) -> int:
        return len(self.tokens)

    def widest(self, level: int) -> int:
        """Most children that any node has which is expanded at the level."""
        return int(np.diff(self.first_child[level]).max(initial=0))

    def allow(self, allowed: np.ndarray) -> "Trie":
        """The same trie, answering only items of the mask (bool [items])."""
        alive = [allowed[self.items]]
        for level in range(self.depth - 1, 0, -1):
            alive.insert(0, np.logical_or.reduceat(alive[0], self.first_child[level][:-1]))
        return Trie(self.tokens, self.first_child, self.items, tuple(alive))


def above_leaves(held: Trie) -> list[np.ndarray]:
    """Of each level, int64 [leaves]: the number of the node that a leaf lies below, or is, among those that answer the level's code."""
    nodes = np.arange(len(held.items))
    levels = [nodes]
    for level in reversed(range(1, held.depth)):
        nodes = np.searchsorted(held.first_child[level], nodes, side="right") - 1
        levels.insert(0, nodes)
    return levels


def keys(codes: np.ndarray) -> np.ndarray:
    """int64 [items], in the order of the codes read from the left: one number to sort by took .2 s for a million, columns one after the other .5."""
    key, ceiling = np.zeros(len(codes), np.int64), 1
    for column in codes.T:
        column = column - column.min(initial=0)
        width = int(column.max(initial=0)) + 1
        if ceiling * width >= 2**63:  # long answers of many words: what came before becomes its rank
            key = np.unique(key, return_inverse=True)[1]
            ceiling = len(codes)
        key, ceiling = key * width + column, ceiling * width
    return key


def build(codes: np.ndarray) -> Trie:
    """codes: int [items, levels], unique rows. Raises ValueError naming two items that share an identifier."""
    count, depth = codes.shape
    order = np.argsort(keys(codes))
    ordered = codes.astype(np.int32)[order]
    changed = np.ones((depth, count), dtype=bool)
    for level in range(depth):
        np.not_equal(ordered[1:, level], ordered[:-1, level], out=changed[level, 1:])
        if level:
            changed[level] |= changed[level - 1]
    if count and not changed[-1].all():
        second = int(np.flatnonzero(~changed[-1])[0])
        first, last = sorted(order[second - 1 : second + 1].tolist())
        raise ValueError(f"items in rows {first} and {last} share the identifier {ordered[second].tolist()}; identifiers must be unique")
    tokens, first_child = [], []
    above = np.zeros(1, dtype=np.int64)  # where each node of the level above begins
    for level in range(depth):
        starts = np.flatnonzero(changed[level])
        tokens.append(ordered[starts, level])
        first_child.append(np.append(np.searchsorted(starts, above), len(starts)).astype(np.int32))
        above = starts
    return Trie(tuple(tokens), tuple(first_child), order.astype(np.int32), tuple(np.ones(len(level), dtype=bool) for level in tokens))
