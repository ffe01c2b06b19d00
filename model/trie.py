"""The catalogue as a trie of identifiers, in integer arrays: which tokens may come next, and which item a leaf is.

A node is its rank among the sorted prefixes of its level, so the children of a node lie side by side and no next-state table is
needed. Leaf number = rank of the item among the sorted identifiers; `items[leaf]` is the item's row. numpy only.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trie:
    """tokens[l]: int64 [nodes of level l+1], the last code of each prefix. first_child[l]: int64 [nodes of level l + 1], CSR bounds into them.
    items: int64 [leaves]. alive[l]: bool [nodes of level l+1], whether an allowed item lies below."""

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


def build(codes: np.ndarray) -> Trie:
    """codes: int [items, levels], unique rows. Raises ValueError naming two items that share an identifier."""
    count, depth = codes.shape
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    changed = np.ones((count, depth), dtype=bool)
    if count > 1:
        changed[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    if count and not changed[:, -1].all():
        second = int(np.flatnonzero(~changed[:, -1])[0])
        raise ValueError(f"items in rows {order[second - 1]} and {order[second]} share the identifier {ordered[second].tolist()}; identifiers must be unique")
    tokens, first_child = [], []
    parents = np.zeros(count, dtype=np.int64)  # level 0: every item hangs below the root
    parent_count = 1
    for level in range(depth):
        starts = np.flatnonzero(changed[:, level])
        tokens.append(ordered[starts, level].astype(np.int64))
        first_child.append(np.searchsorted(parents[starts], np.arange(parent_count + 1)))
        parents = np.cumsum(changed[:, level]) - 1
        parent_count = len(starts)
    return Trie(tuple(tokens), tuple(first_child), order.astype(np.int64), tuple(np.ones(len(level), dtype=bool) for level in tokens))
