"""How like a candidate is to the items of a history, in several views of the items: cosines. Knows vectors and numbers of items, not what they are for."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

HOW = ("mean", "nearest", "latest")  # of the cosines with the history's items
DECIMALS = 5  # of a cosine: the last bits depend on what is compared beside it


def names(views: Iterable[str]) -> list[str]:
    """What `likeness` tells of a candidate, in its order."""
    return [f"{view} {how}" for view in views for how in HOW]


def likeness(views: Mapping[str, Tensor], history: Tensor, candidates: Tensor) -> Tensor:
    """float64 [R, C, `names`]; 0 where there is nothing to compare.

    views: [items, width], zeros for an item of which nothing is known. history: int64 [R, N], the latest item first, -1 behind them. candidates: int64 [R, C].
    """
    present, columns = (history >= 0)[:, None], []
    for rows in views.values():
        offered, had = (F.normalize(rows[items].float(), dim=2) for items in (candidates, history))
        near = offered @ had.transpose(1, 2) * present
        highest = near.masked_fill(~present, -1.0).amax(dim=2) * present.any(dim=2)
        columns += [near.sum(dim=2) / present.sum(dim=2).clamp(min=1), highest, near[..., 0]]
    return torch.stack(columns, dim=-1).double().round(decimals=DECIMALS)
