"""Requests × candidates → log-odds of Yes, and the features by which candidates are ordered: gensr at night, from arrays and a plain dict of weights.

Same numbers as `GenSR` (a test holds them to 1e-5); no transformers is imported, so that a Spark worker starts fast. What does not depend on the candidate is
done once: item vectors and candidate slots per model, the views' layer over a history and the encoder's pass over a prompt's words per request. Exact, since
words do not look at slots (`model.slots`). A candidate costs its slots' way through the blocks and one decoder step.

Reads an artifact's parts; knows item numbers, tokens and tasks, no table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import choice
from model.data import newest, ragged
from model.decode import Attention, Decoder, start_rows
from model.products import by_onednn
from model.prompts import padded
from model.questions import NO, TASKS, YES, Form, Prompts
from model.similarity import DECIMALS, names, similarity
from model.slots import embed
from model.views import Match, Views, bag
from model.vocabulary import PAD

BATCH_TOKENS = 1 << 13  # slots and words of a pass through the blocks; on a CPU they stay in its cache (1 << 15 is 1.3 times slower)


def first_attention(t5: Decoder, source: Tensor, slots: Tensor) -> tuple[list[Attention], list[Attention], Tensor]:
    """The encoder, words once per request. source: int64 [R, T] whose slots stand at the same places in every row. slots: [R, C, S, d_model].

    Returns the decoder's cross keys and values of the words [R, heads, T, d_kv] and of the slots [R, heads, C · S, d_kv], by layer, and what the words'
    places add to an attention's scores [R, 1, 1, T].
    """
    count, width = slots.shape[1:3]
    shared = t5.weights["shared.weight"]
    places = torch.stack([(source[0] == -1 - n).nonzero()[0, 0] for n in range(width)])
    words = embed(shared, source, torch.zeros(len(source), width, shared.shape[1], dtype=shared.dtype, device=shared.device))
    least = torch.finfo(words.dtype).min
    hidden = torch.zeros(source.shape, dtype=words.dtype, device=words.device).masked_fill_(source <= PAD, least)[:, None, None]
    everywhere = torch.arange(source.shape[1], device=source.device)
    bias = t5.position_bias("encoder", everywhere, everywhere).to(words.dtype)
    to_words = bias[:, :, places].repeat(1, 1, count, 1) + hidden
    own = torch.eye(width, dtype=torch.bool, device=words.device)
    among = bias[:, :, places][..., places][:, :, None].masked_fill(own, least)
    pairs = slots.to(words.dtype).flatten(1, 2)
    for layer in range(t5.config["num_layers"]):
        name = f"encoder.block.{layer}.layer"
        attention = f"{name}.0.SelfAttention"
        parts = [f"{attention}.{part}" for part in "qkv"]
        q, k, v = t5.split(t5.norm(f"{name}.0.", words), *parts)
        slot_q, slot_k, slot_v = t5.split(t5.norm(f"{name}.0.", pairs), *parts)
        pairs = pairs + t5.linear(mixed(slot_q, (k, v), (slot_k, slot_v), to_words, among, count), f"{attention}.o")
        pairs = t5.feed_forward(f"{name}.1", pairs)
        words = words + t5.attend(attention, q, k, v, bias + hidden)
        words = t5.feed_forward(f"{name}.1", words)
    return t5.cross(words), t5.cross(pairs), hidden


def mixed(q: Tensor, of_words: Attention, of_slots: Attention, to_words: Tensor, among: Tensor | float, count: int) -> Tensor:
    """Attention of each candidate's places on its request's words and on its own slots, not on another candidate's.

    q: [R, heads, C · Q, d_kv]. of_words: [R, heads, T, d_kv]. of_slots: [R, heads, C · S, d_kv]. Returns [R, C · Q, heads · d_kv].
    """
    own_q, own_k, own_v = (x.unflatten(2, (count, -1)) for x in (q, *of_slots))
    words = q @ of_words[0].transpose(-1, -2) + to_words
    slots = (own_q @ own_k.transpose(-1, -2) + among).flatten(2, 3)
    weights = torch.cat([words, slots], dim=-1).softmax(-1, dtype=torch.float32).to(q.dtype)
    on_words, on_slots = weights.split([words.shape[-1], slots.shape[-1]], dim=-1)
    found = on_words @ of_words[1] + (on_slots.unflatten(2, (count, -1)) @ own_v).flatten(2, 3)
    return found.transpose(1, 2).flatten(2)


def first_step(t5: Decoder, source: Tensor, slots: Tensor) -> Tensor:
    """`UnifiedModel.first_step` for C candidates of each request: [R, C, d_model]."""
    of_words, of_slots, hidden = first_attention(t5, source, slots)
    rows, count = slots.shape[:2]
    x = start_rows(t5.weights["shared.weight"], torch.full((1, 1, 1), PAD, device=source.device))  # one for all, until they look at their prompts
    for layer in range(t5.config["num_decoder_layers"]):
        name = f"decoder.block.{layer}.layer"
        # A first token has nothing but itself to look at.
        x = x + t5.linear(t5.linear(t5.norm(f"{name}.0.", x), f"{name}.0.SelfAttention.v"), f"{name}.0.SelfAttention.o")
        (q,) = t5.split(t5.norm(f"{name}.1.", x), f"{name}.1.EncDecAttention.q")
        x = x + t5.linear(mixed(q.expand(rows, -1, count, -1), of_words[layer], of_slots[layer], hidden, 0.0, count), f"{name}.1.EncDecAttention.o")
        x = t5.feed_forward(f"{name}.2", x)
    return t5.norm("decoder.final_", x)


class Scorer:
    """weights: as `GenSR.kept` gives them, all of one device. config: as `artifact.save` stores it, with `form`."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], prompts: Prompts):
        self.form = Form(**{**config["form"], "views": tuple(config["form"]["views"])})
        self.limit, self.prompts = config["history_length"], prompts
        self.t5 = Decoder({name.removeprefix("unified.t5."): tensor for name, tensor in weights.items()}, config["t5"], config["text_size"])
        self.device, self.prior = self.t5.head.device, weights["prior"]
        shared = self.t5.weights["shared.weight"]
        # One row more, of zeros, at which -1 points: an item that the model has never seen.
        known = {"collaborative": weights["table"], "semantic": bag(shared, weights["texts"])}
        self.table = {name: F.pad(rows, (0, 0, 0, 1)) for name, rows in known.items()}
        self.views = Views({name: self.table[name].shape[1] for name in self.form.views}, shared.shape[1], self.limit, self.form.filter, 0.0, 1.0)
        self.views.load_state_dict({name.removeprefix("views."): tensor for name, tensor in weights.items() if name.startswith("views.")})
        self.views.to(self.device).eval()
        if self.form.matches:
            self.match = Match(shared.shape[1], 1.0).to(self.device)
            self.match.load_state_dict({name.removeprefix("match."): tensor for name, tensor in weights.items() if name.startswith("match.")})

    def score(self, task: str, histories: Sequence[Sequence[int]], queries: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-odds of Yes, float64 [candidates], for each request.

        histories: item numbers, oldest first. queries: text tokens; a recommendation's is not read. candidates: item numbers, -1 for one that the model
        does not know. Raises ValueError for a task that is none.
        """
        if task not in TASKS:
            raise ValueError(f"task {task!r}: expected one of {', '.join(TASKS)}")
        sources = [self.prompts.source(task, query) for query in queries]
        order = sorted((i for i in range(len(candidates)) if len(candidates[i])), key=lambda i: (len(candidates[i]), len(sources[i])))
        answers = [np.empty(0)] * len(candidates)
        for batch in bounded(order, [len(sources[i]) + self.prompts.slots(task) * len(candidates[i]) for i in range(len(candidates))]):
            odds = self.odds(task, *([rows[i] for i in batch] for rows in (histories, queries, sources, candidates)))
            for i, row in zip(batch, odds, strict=True):
                answers[i] = row[: len(candidates[i])].astype(np.float64)
        return answers

    def feature_names(self, task: str) -> list[str]:
        return [choice.SCORE, "odds", *names(self.form.views), *(["query"] if self.meets(task) else [])]

    def meets(self, task: str) -> bool:
        """Whether a candidate's text can be compared with what is asked."""
        return task == "search" and "semantic" in self.form.views

    @torch.inference_mode()
    def features(
        self,
        task: str,
        histories: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]],
        scores: Sequence[Sequence[float]],
    ) -> list[np.ndarray]:
        """float64 [candidates, `feature_names`] for each request: the score they came with, the log-odds of `score`, their similarity to the history in each
        view, and the cosine of text and query, 0 where either is empty."""
        odds, views = self.score(task, histories, queries, candidates), {name: self.table[name] for name in self.form.views}
        made = [np.column_stack(of) for of in zip(scores, odds, similarity(views, histories, candidates, self.limit), strict=True)]
        if not self.meets(task) or not made:
            return made
        asked = F.normalize(bag(self.t5.weights["shared.weight"], torch.from_numpy(padded(queries)).to(self.device)), dim=1)
        texts = (F.normalize(self.table["semantic"][torch.tensor(items, dtype=torch.int64)], dim=1) for items in candidates)
        met = [(text @ query).double().round(decimals=DECIMALS).cpu().numpy() for text, query in zip(texts, asked, strict=True)]
        return [np.column_stack(of) for of in zip(made, met, strict=True)]

    @by_onednn()
    @torch.inference_mode()
    def odds(
        self, task: str, histories: list[Sequence[int]], queries: list[Sequence[int]], sources: list[list[int]], candidates: list[Sequence[int]]
    ) -> np.ndarray:
        """float32 [R, most candidates]; what stands behind a request's own candidates means nothing."""
        history = torch.from_numpy(newest(ragged(histories), self.limit)).to(self.device)
        source, items = (filled(rows, self.device) for rows in (sources, candidates))
        present = history >= 0
        contexts = self.views.contexts({name: self.table[name][history.clamp(min=0)] for name in self.form.views}, present)
        slots = self.views(contexts, {name: self.table[name][items] for name in self.form.views}, present)
        if self.prompts.slots(task) > slots.shape[2]:
            asked = self.prompts.queries(np.full(len(queries), TASKS.index(task)), ragged(queries))
            query = bag(self.t5.weights["shared.weight"], torch.from_numpy(asked).to(self.device))
            slots = torch.cat([slots, self.match(query, self.table["semantic"][items])], dim=2)
        own = TASKS.index(task) if self.form.answers == "per_task" else 0
        hidden = first_step(self.t5, source, slots)
        said = self.t5.logits(hidden * self.t5.scale)
        return (said[..., 2 * own + YES] - said[..., 2 * own + NO] + self.prior[own]).cpu().numpy()


def bounded(order: Sequence[int], tokens: Sequence[int]) -> list[list[int]]:
    """The requests in batches of at most BATCH_TOKENS, each counted as the longest beside it; a request that is larger stands alone."""
    made: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, tokens[i])
        if not made or longest * (len(made[-1]) + 1) > BATCH_TOKENS:
            made.append([])
            longest = tokens[i]
        made[-1].append(i)
    return made


def filled(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """int64 [B, longest], 0 (PAD, and some item) behind each row."""
    made = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return torch.from_numpy(made).to(device)
