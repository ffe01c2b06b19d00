"""The two views of a user's history and of a candidate: what fills the slots of gensr's prompt (arXiv 2504.06714, dual representation learning).

    collaborative   a frozen row per item (LightGCN's)           ┐  Transformer layer    soft filter        ┌ history slot
    semantic        the mean of the words of the item's text     ┘ over the history → by the candidate  →   └ candidate slot

The filter weighs the history's items by the candidate (`FILTERS`). The layer's work does not depend on the candidate: `View.context` is called once per
request, however many candidates it has.

Everything begins as the plainest thing it can be: the layer as the identity, the filter as the inner product, both slots of a view through one
projection, at the length of the words beside them.

Knows vectors and words; no item, no task.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.dropout import Dropout
from model.questions import VIEWS
from model.vocabulary import PAD

FILTERS = ("bilinear", "cross_attention", "mean")
HEADS = 2  # the official code's


def bag(shared: Tensor, texts: Tensor) -> Tensor:
    """The mean of the words' rows, brought to length √d; zeros for no word. shared: [vocabulary, d]. texts: int64 [..., words], PAD on the right → [..., d]."""
    means = F.embedding_bag(texts.flatten(0, -2), shared, mode="mean", padding_idx=PAD)
    return F.rms_norm(means, means.shape[-1:], eps=1e-9).view(*texts.shape[:-1], -1)


class View(nn.Module):
    """width: of the item vectors. limit: items of a history. row_std: of the words' rows in the prompt.

    Item vectors of zeros are items of which the view knows nothing: a learnt vector stands for them, another one for a history without items.
    """

    def __init__(self, width: int, d_model: int, limit: int, dropout: float, row_std: float, bilinear: bool):
        super().__init__()
        self.unknown, self.empty = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.age = nn.Parameter(torch.zeros(limit, width))
        self.query, self.key, self.value, self.out, self.rise, self.fall = (nn.Linear(width, width) for _ in range(6))
        if bilinear:  # else no loss would ever reach it, for which processes that train together wait in vain
            self.bilinear = nn.Parameter(torch.eye(width) / width**0.5)
        self.project = nn.Linear(width, d_model, bias=False)
        self.gain = nn.Parameter(torch.full((d_model,), row_std))
        self.dropout = Dropout(dropout)
        for last in (self.out, self.fall):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        if width == d_model:
            nn.init.eye_(self.project.weight)  # the semantic view: a slot begins where the words of its text lie
        else:
            nn.init.orthogonal_(self.project.weight)

    def known(self, vectors: Tensor) -> Tensor:
        """[..., width] → the same, `unknown` in the place of zeros."""
        return torch.where((vectors != 0).any(dim=-1, keepdim=True), vectors, self.unknown)

    def context(self, history: Tensor, present: Tensor) -> Tensor:
        """history: [R, N, width], newest first. present: bool [R, N] → [R, N, width] after the layer; one item, `empty`, where there is none."""
        x = self.known(history) + self.age[: history.shape[1]]
        h = F.layer_norm(x, x.shape[-1:])
        q, k, v = (part(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~present[:, None, None], torch.finfo(q.dtype).min)
        x = x + self.dropout(self.out((scores.float().softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)))
        x = x + self.dropout(self.fall(F.relu(self.rise(F.layer_norm(x, x.shape[-1:])))))
        nobody = ~present.any(dim=1)[:, None, None] & (torch.arange(x.shape[1], device=x.device) == 0)[None, :, None]
        return torch.where(nobody, self.empty, x)

    def weights(self, context: Tensor, candidates: Tensor, present: Tensor) -> Tensor:
        """The bilinear filter: softmax over the history of context · W · candidate. candidates: [R, C, width] → [R, 1, C, N]."""
        return weighed((candidates @ self.bilinear @ context.transpose(1, 2))[:, None], present)

    def slot(self, vectors: Tensor) -> Tensor:
        """[..., width] → [..., d_model], each of the length of a word's row."""
        return F.rms_norm(self.project(vectors), self.gain.shape, eps=1e-6) * self.gain


class Match(nn.Module):
    """A candidate's text met with the query's: the product of the two vectors, dimension by dimension.

    Its sum is their likeness, and one product with a matrix reads it. Attention alone does not learn it: a candidate's slot finds the history's, which the
    filter has made like the candidate whatever was asked, before it finds the query's words. On `pair_worlds` (8 tastes, 8 topics; the tiny model, 300 steps)
    the cross-entropy of searches ended at .185 without this slot, what the history alone tells, and at .074 with it (tests/benchmarks/gensr_plateau.py).
    """

    def __init__(self, d_model: int, row_std: float):
        super().__init__()
        self.project = nn.Linear(d_model, d_model, bias=False)
        self.gain = nn.Parameter(torch.full((d_model,), row_std))
        nn.init.eye_(self.project.weight)

    def forward(self, query: Tensor, candidates: Tensor) -> Tensor:
        """query: [R, d_model], zeros for none. candidates: [R, C, d_model], of their texts → slots [R, C, 1, d_model]."""
        return (F.rms_norm(self.project(query[:, None] * candidates), self.gain.shape, eps=1e-6) * self.gain)[:, :, None]


class SharedFilter(nn.Module):
    """The paper's filter: a multi-head cross-attention weight of the candidate's collaborative vector on the history's, which filters both views."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key):
            nn.init.eye_(linear.weight)

    def forward(self, context: Tensor, candidates: Tensor, present: Tensor) -> Tensor:
        """context: [R, N, width], candidates: [R, C, width] → [R, HEADS, C, N]."""
        q, k = (linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear, x in ((self.query, candidates), (self.key, context)))
        return weighed(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, present)


def weighed(scores: Tensor, present: Tensor) -> Tensor:
    """scores: [R, heads, C, N], present: bool [R, N] → softmax over the items that are present; all on the first where none is."""
    first = torch.arange(present.shape[1], device=present.device) == 0
    open_ = present | (~present.any(dim=1, keepdim=True) & first)
    return scores.float().masked_fill(~open_[:, None, None], -torch.inf).softmax(-1).to(scores.dtype)


def pooled(weights: Tensor, context: Tensor) -> Tensor:
    """weights: [R, heads, C, N], context: [R, N, width] → [R, C, width]: each head weighs its own share of the width."""
    parts = context.unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
    return (weights @ parts).transpose(1, 2).flatten(2)


class Views(nn.Module):
    """The views in use, in the order of VIEWS. widths: of each. Slots: first the views' history, then the views' candidate."""

    def __init__(self, widths: dict[str, int], d_model: int, limit: int, kind: str, dropout: float, row_std: float):
        super().__init__()
        if kind not in FILTERS:
            raise ValueError(f"filter {kind!r}: expected one of {', '.join(FILTERS)}")
        self.kind = kind
        self.view = nn.ModuleDict({name: View(widths[name], d_model, limit, dropout, row_std, kind == "bilinear") for name in VIEWS if name in widths})
        if kind == "cross_attention":
            self.shared = SharedFilter(next(iter(widths[name] for name in VIEWS if name in widths)))

    def contexts(self, history: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """View → [R, N, width]: all of the views' work that does not depend on a candidate."""
        return {name: view.context(history[name], present) for name, view in self.view.items()}

    def forward(self, contexts: dict[str, Tensor], candidates: dict[str, Tensor], present: Tensor) -> Tensor:
        """contexts: of `contexts`. candidates: view → [R, C, width]. Returns the slots [R, C, 2 · views, d_model]."""
        known = {name: view.known(candidates[name]) for name, view in self.view.items()}
        shared = None
        if self.kind == "mean":
            first = next(iter(known.values()))
            shared = weighed(torch.zeros(len(first), 1, first.shape[1], present.shape[1], dtype=first.dtype, device=first.device), present)
        elif self.kind == "cross_attention":
            name = next(iter(known))
            shared = self.shared(contexts[name], known[name], present)
        histories = []
        for name, view in self.view.items():
            weights = view.weights(contexts[name], known[name], present) if shared is None else shared
            histories.append(view.slot(pooled(weights, contexts[name])))
        return torch.stack([*histories, *(view.slot(known[name]) for name, view in self.view.items())], dim=2)
