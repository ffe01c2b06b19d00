"""gensr: one sequence-to-sequence model that answers a question about a pair by a word (arXiv 2504.06714, reference gensr.md).

`UnifiedModel` reads a prompt whose slots the two views (`model.views`) fill for each candidate; the decoder's first step says No or Yes, the two tokens behind
the text vocabulary. The score is the log-odds of Yes. What is asked, and the ablations, are values of `questions.Form`.

Knows arrays and tokens; no table, no file.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.artifact import weights_of
from model.questions import NO, YES, Form
from model.unified import UnifiedModel
from model.views import Match, Views, bag


class GenSR(nn.Module):
    """collaborative: float32 [items, width], frozen. texts: int64 [items, words], PAD where there is none. negatives: wrong candidates per right one in
    training, of which the prior is made: the first answers are exactly as likely as the labels, and nothing is lost on learning that."""

    def __init__(self, unified: UnifiedModel, form: Form, collaborative: np.ndarray, texts: np.ndarray, limit: int, dropout: float, negatives: int):
        super().__init__()
        self.unified, self.form = unified, form
        width, d_model = collaborative.shape[1], unified.t5.config.d_model
        rows = torch.from_numpy(collaborative.astype(np.float32))
        known = rows[(rows != 0).any(dim=1)]
        # Rows of length √width, as the semantic view's: what is long outweighs everything beside it, what is short is not heard.
        self.table = nn.Parameter(rows / known.square().mean().sqrt() if len(known) else rows, requires_grad=False)
        self.register_buffer("texts", torch.from_numpy(texts), persistent=False)
        widths = {"collaborative": width, "semantic": d_model}
        shared = unified.t5.shared.weight
        row_std = float(shared.detach()[: unified.text_size].std())
        self.views = Views({name: widths[name] for name in form.views}, d_model, limit, form.filter, dropout, row_std)
        if form.matches:
            self.match = Match(d_model, row_std)
        self.prior = nn.Parameter(torch.full((len(form.level_sizes),), -float(np.log(negatives))))
        with torch.no_grad():
            for embedding in {id(p): p for p in (shared, unified.t5.lm_head.weight)}.values():
                embedding[unified.text_size :] = 0.0

    def kept(self) -> dict[str, Tensor]:
        """All that an artifact keeps of it, by name: parameters, the frozen table among them, and the items' texts."""
        return weights_of(self) | {"texts": self.texts}

    def vectors(self, rows: Tensor) -> dict[str, Tensor]:
        """rows: int64, item numbers → view → their vectors."""
        makers = {"collaborative": lambda: F.embedding(rows, self.table), "semantic": lambda: bag(self.unified.t5.shared.weight, self.texts[rows])}
        return {name: makers[name]() for name in self.form.views}

    def slots(self, history: Tensor, query: Tensor, candidates: Tensor) -> Tensor:
        """history: int64 [R, N] of `newest`. query: int64 [R, words]. candidates: int64 [R, C] → [R, C, slots, d_model]."""
        present, vectors = history >= 0, self.vectors(candidates)
        contexts = self.views.contexts(self.vectors(history.clamp(min=0)), present)
        filled = self.views(contexts, vectors, present)
        if not self.form.matches:
            return filled
        return torch.cat([filled, self.match(bag(self.unified.t5.shared.weight, query), vectors["semantic"])], dim=2)

    def states(self, source: Tensor, slots: Tensor) -> Tensor:
        """Where the decoder is about to answer, [R, C, d_model]. source: int64 [R, T]. slots: [R, C, slots, d_model]."""
        return self.unified.first_step(source.repeat_interleave(slots.shape[1], dim=0), slots.flatten(0, 1)).unflatten(0, slots.shape[:2])

    def odds(self, states: Tensor, tasks: Tensor) -> Tensor:
        """Log-odds of Yes, fp32 [R, C]. states: [R, C, d_model]. tasks: int64 [R]."""
        said = self.unified.logits(states).float().unflatten(-1, (-1, 2))
        told = said[..., YES] - said[..., NO] + self.prior
        own = tasks if self.form.answers == "per_task" else torch.zeros_like(tasks)
        return told.take_along_dim(own[:, None, None], dim=2)[..., 0]

    def forward(self, source: Tensor, history: Tensor, query: Tensor, candidates: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds [R, C], the slots and the states they are made of.

        source: int64 [R, T]. history: int64 [R, N] of `newest`. query: int64 [R, words], what a search asks for. candidates: int64 [R, C].
        """
        slots = self.slots(history, query, candidates)
        states = self.states(source, slots)
        return self.odds(states, tasks), slots, states


@torch.no_grad()
def look_for_alike(model: UnifiedModel) -> None:
    """For a model from scratch: the encoder's keys begin as its queries, so that a place sees what is like it, twice as sharply as T5's scale has it.

    Whether a candidate's slot is like the history's, or like a word of the query, is what there is to learn. Between random queries and keys it can only be
    learnt once something of it has been: the answer stays the prior for long. On `pair_worlds` (8 tastes, 8 topics) the cross-entropy of recommendation and
    search on test requests was .500 and .500 after 50 steps and .424 and .418 after 100; so begun, .272 and .277, and .227 and .204.
    """
    for block in model.t5.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.k.weight.copy_(attention.q.weight * model.t5.config.d_kv**0.5)
        attention.q.weight.mul_(2.0)


def cross_entropy(odds: Tensor) -> Tensor:
    """Each pair's loss in nats, [R, C], of candidates whose first is the right one."""
    labels = torch.zeros_like(odds)
    labels[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(odds, labels, reduction="none")
