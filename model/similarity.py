"""How similar a candidate is to the items of a history, in several views of the items: cosines. Knows vectors and rows of items, not what they are for."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.data import newest, ragged
from model.prompts import padded

OF_ALL = ("mean", "nearest", "latest")  # of the cosines with the history's items
DECIMALS = 5  # of a cosine: the last bits depend on what is compared beside it
REQUESTS = 256  # compared at a time


def names(views: Iterable[str]) -> list[str]:
    """The features of `similarity`, in its order."""
    return [f"{view} {which}" for view in views for which in OF_ALL]


@torch.inference_mode()
def similarity(
    views: Mapping[str, Tensor], histories: Sequence[Sequence[int] | np.ndarray], candidates: Sequence[Sequence[int] | np.ndarray], limit: int
) -> list[np.ndarray]:
    """float64 [candidates, `names`] for each request; 0 where there is nothing to compare.

    views: [items, width], zeros for an item of which nothing is known. histories: rows of items, oldest first; the `limit` latest distinct ones count.
    candidates: rows of items, -1 for one that no view knows.
    """
    device, made = next(iter(views.values())).device, list[np.ndarray]()
    for begin in range(0, len(candidates), REQUESTS):
        offered = candidates[begin : begin + REQUESTS]
        history, items = (torch.from_numpy(rows).to(device) for rows in (newest(ragged(histories[begin : begin + REQUESTS]), limit), padded(offered, -1)))
        present, columns = (history >= 0)[:, None], []
        for rows in views.values():
            of_items, of_history = (F.normalize(rows[each].float(), dim=2) for each in (items, history))
            near = of_items @ of_history.transpose(1, 2) * present * (items >= 0)[:, :, None]
            nearest = near.masked_fill(~present, -1.0).amax(dim=2) * present.any(dim=2)
            columns += [near.sum(dim=2) / present.sum(dim=2).clamp(min=1), nearest, near[..., 0]]
        found = torch.stack(columns, dim=2).double().round(decimals=DECIMALS).cpu().numpy()
        made += [of[: len(rows)] for of, rows in zip(found, offered, strict=True)]
    return made
