"""Trie-constrained beam search over T5 weights: encoder once per request, its keys and values shared by all beams.

Runs from a plain dict of weights (names as in transformers), without importing transformers, so that a Spark worker starts fast.
Same numbers as `T5ForConditionalGeneration` (a test holds them to 1e-5). Knows tokens and trie nodes, neither items nor text.

Score of an identifier: sum over its levels of the log-softmax over all tokens that may be answered; the trie's mask is applied after the
softmax, so scores of different requests compare, and with atomic identifiers the answer is the exact top-k of one softmax. Tokens that stand in every
answer (`opening`, `closing`) count too. Or of the log-softmax over what may follow (`among`): then they are certain.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.products import by_onednn, product
from model.trie import Trie
from model.vocabulary import PAD

Attention = tuple[Tensor, Tensor]
AMONG = ("all", "valid", "open")  # tokens that a softmax is taken over: all; what may follow in the trie; of this, what this request may be answered


def start_rows(shared: Tensor, start: Tensor) -> Tensor:
    """start: int64 [..., levels], an item's tokens or PAD → [..., d_model], what the decoder begins with: the item's rows added up, or PAD's row."""
    counted = (start != PAD).unsqueeze(-1)
    counted[..., 0, :] = True
    return (F.embedding(start, shared) * counted).sum(dim=-2)


class Past(NamedTuple):
    """What the beams of each request said so far, all of it once: a beam sees its own line alone, so that no beam's keys and values are ever moved.

    layers: keys and values [B, heads, n, d_kv]. places: int64 [n], how many tokens came before each. line: bool [B, K, n], which of it a beam said.
    """

    layers: list[Attention]
    places: Tensor
    line: Tensor

    def of(self, parents: Tensor) -> "Past":
        """parents: int64 [B, n], the beam that each new one goes on from."""
        return self._replace(line=self.line.gather(1, parents[..., None].expand(-1, -1, self.line.shape[2])))


class Decoder:
    """weights: T5 names → tensors (`t5.` stripped), of one device. config: the T5 config as a dict. first_answer: vocabulary row where the softmax begins.

    precision: what matrices multiply in; sums from layer to layer, norms and softmaxes stay in the weights' own. The default is the weights' own.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], first_answer: int, precision: torch.dtype | None = None):
        self.weights = weights
        self.config = config
        self.precision = precision or weights["shared.weight"].dtype
        self.heads, self.d_kv = config["num_heads"], config["d_kv"]
        self.head = weights.get("lm_head.weight", weights["shared.weight"])[first_answer:]
        self.first_answer = first_answer
        self.scale = config["d_model"] ** -0.5 if config["scale_decoder_outputs"] else 1.0
        self.products: dict[tuple[str, ...] | tuple[int, int], Callable[[Tensor], Tensor]] = {}

    def linear(self, x: Tensor, *names: str, relu: bool = False) -> Tensor:
        """x: [..., in] → [..., out of all names, one behind the other]: matrices that read the same are one product."""
        if names not in self.products:
            matrix = torch.cat([self.weights[f"{name}.weight"] for name in names])
            self.products[names] = product(matrix.to(self.precision), relu)
        return self.products[names](x.to(self.precision))

    def logits(self, hidden: Tensor, span: tuple[int, int] | None = None) -> Tensor:
        """hidden: [..., d_model], as `step` gives it. span: the softmax columns, from and to; all for None. Returns fp32 [..., columns]."""
        span = span or (0, len(self.head))
        if span not in self.products:
            self.products[span] = product(self.head[slice(*span)].to(self.precision))
        return self.products[span](hidden.to(self.precision)).float()

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["layer_norm_epsilon"]) * self.weights[f"{name}layer_norm.weight"]

    def split(self, x: Tensor, *names: str) -> tuple[Tensor, ...]:
        """x: [B, T, d_model] → of each name [B, heads, T, d_kv]."""
        return self.linear(x, *names).unflatten(-1, (len(names), self.heads, self.d_kv)).permute(2, 0, 3, 1, 4).unbind()

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """T5 does not divide the scores by sqrt(d_kv). Returns [B, T, d_model]."""
        mixed = (q @ k.transpose(-1, -2) + bias).softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        return self.linear(mixed.transpose(1, 2).flatten(2), f"{name}.o")

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.", x)
        dense = f"{name}.DenseReluDense"
        relu = self.config["dense_act_fn"] == "relu"
        if self.config["is_gated_act"]:
            gate, value = self.linear(h, f"{dense}.wi_0", f"{dense}.wi_1").chunk(2, dim=-1)
            h = (F.relu(gate) if relu else F.gelu(gate, approximate="tanh")) * value
        else:
            h = self.linear(h, f"{dense}.wi", relu=relu)
            h = h if relu else F.gelu(h, approximate="tanh")
        return x + self.linear(h, f"{dense}.wo")

    def position_bias(self, stack: str, queries: Tensor, keys: Tensor) -> Tensor:
        """Relative position bias of the stack's first block, shared by all: [1, heads, Tq, Tk] (T5, section 2.1)."""
        distance = keys[None, :] - queries[:, None]
        buckets, furthest = self.config["relative_attention_num_buckets"], self.config["relative_attention_max_distance"]
        bucket = torch.zeros_like(distance)
        if stack == "encoder":
            buckets //= 2
            bucket = (distance > 0) * buckets
            distance = distance.abs()
        else:
            distance = -distance.clamp(max=0)
        exact = buckets // 2
        far = exact + (torch.log(distance.clamp(min=1) / exact) / math.log(furthest / exact) * (buckets - exact)).long()
        bucket = bucket + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))
        table = self.weights[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return table[bucket].permute(2, 0, 1)[None]

    def encode(self, source: Tensor) -> tuple[list[Attention], Tensor]:
        """source: int64 [B, T]. Returns each decoder layer's cross keys and values [B, heads, T, d_kv], and the mask as a bias [B, 1, 1, T]."""
        x = self.weights["shared.weight"][source]
        positions = torch.arange(source.shape[1], device=source.device)
        mask = torch.zeros(source.shape, dtype=x.dtype, device=x.device).masked_fill_(source == PAD, torch.finfo(x.dtype).min)[:, None, None, :]
        bias = self.position_bias("encoder", positions, positions).to(x.dtype) + mask
        for layer in range(self.config["num_layers"]):
            name = f"encoder.block.{layer}.layer"
            q, k, v = self.split(self.norm(f"{name}.0.", x), *(f"{name}.0.SelfAttention.{part}" for part in "qkv"))
            x = x + self.attend(f"{name}.0.SelfAttention", q, k, v, bias)
            x = self.feed_forward(f"{name}.1", x)
        return self.cross(x), mask

    def cross(self, x: Tensor) -> list[Attention]:
        """x: [B, T, d_model], as the encoder's blocks leave it. Returns each decoder layer's keys and values of it, [B, heads, T, d_kv]."""
        layers = range(self.config["num_decoder_layers"])
        names = (f"decoder.block.{layer}.layer.1.EncDecAttention.{part}" for layer in layers for part in "kv")
        found = [each.contiguous() for each in self.split(self.norm("encoder.final_", x), *names)]  # once here, or at every step
        return list(zip(found[::2], found[1::2], strict=True))

    def nothing_said(self, x: Tensor) -> Past:
        """Before the first step of beams x: [B, K, d_model]."""
        none = x.new_empty(len(x), self.heads, 0, self.d_kv, dtype=self.precision)
        places = torch.empty(0, dtype=torch.int64, device=x.device)
        return Past([(none, none)] * self.config["num_decoder_layers"], places, places.new_empty(*x.shape[:2], 0, dtype=torch.bool))

    def step(self, x: Tensor, place: int, past: Past, cross: list[Attention], mask: Tensor) -> tuple[Tensor, Past]:
        """x: [B, K, d_model], the rows of the beams' last tokens. place: how many tokens came before.

        Returns what `logits` reads [B, K, d_model], and the past with these tokens.
        """
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device).expand(len(x), -1, -1)
        line, places = torch.cat([past.line, itself], dim=2), F.pad(past.places, (0, x.shape[1]), value=place)
        bias = self.position_bias("decoder", places[-1:], places).to(x.dtype).masked_fill(~line[:, None], torch.finfo(x.dtype).min)
        layers: list[Attention] = []
        for layer, (cross_k, cross_v) in enumerate(cross):
            name = f"decoder.block.{layer}.layer"
            own = f"{name}.0.SelfAttention"
            q, *said = self.split(self.norm(f"{name}.0.", x), *(f"{own}.{part}" for part in "qkv"))
            k, v = (torch.cat(each, dim=2) for each in zip(past.layers[layer], said, strict=True))
            layers.append((k, v))
            x = x + self.attend(own, q, k, v, bias)
            (query,) = self.split(self.norm(f"{name}.1.", x), f"{name}.1.EncDecAttention.q")
            x = x + self.attend(f"{name}.1.EncDecAttention", query, cross_k, cross_v, mask)
            x = self.feed_forward(f"{name}.2", x)
        return self.norm("decoder.final_", x) * self.scale, Past(layers, places, line)


class Constraint:
    """A trie as tensors on one device. columns: of each level, the softmax column of its code 0."""

    def __init__(self, trie: Trie, columns: Sequence[int], device: str = "cpu"):
        self.depth = trie.depth
        self.widths = [trie.widest(level) for level in range(trie.depth)]
        self.tokens = [torch.from_numpy(t + first).to(device) for t, first in zip(trie.tokens, columns, strict=True)]
        self.spans = [(int(t.min()), int(t.max()) + 1) for t in self.tokens]  # of each level, where its columns are
        self.first_child = [torch.from_numpy(c).to(device) for c in trie.first_child]
        self.alive = [torch.from_numpy(a).to(device) for a in trie.alive]
        self.leaves = len(trie.items)

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """nodes: int64 [B, K] → child nodes, their softmax columns, whether each exists, and whether it may be answered; all [B, K, widest]."""
        child = self.first_child[level][nodes][..., None].long() + torch.arange(self.widths[level], device=nodes.device)
        exists = child < self.first_child[level][nodes + 1][..., None]
        child = child.clamp(max=len(self.tokens[level]) - 1)
        return child, self.tokens[level][child].long(), exists, exists & self.alive[level][child]

    def reach(self, leaves: Tensor) -> list[Tensor]:
        """leaves: int64 [B, C], -1 for none → of each level, whether a row's leaves lie below a node, bool [B, nodes of the level]."""
        node, reached = leaves.clamp(min=0), []
        for level in range(self.depth - 1, -1, -1):
            open_ = torch.zeros(len(leaves), len(self.tokens[level]), dtype=torch.int8, device=leaves.device)
            reached.insert(0, open_.scatter_reduce_(1, node, (leaves >= 0).to(torch.int8), "amax").bool())
            node = torch.searchsorted(self.first_child[level], node.to(torch.int32), right=True) - 1
        return reached


@by_onednn()
@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    constraint: Constraint,
    source: Tensor,
    start: Tensor,
    k: int,
    beams: int,
    excluded: Tensor | None = None,
    opening: Sequence[int] = (),
    closing: Sequence[int] = (),
    candidates: Tensor | None = None,
    among: str = "all",
    pointed: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """source: int64 [B, T]. start: int64 [B, levels], what the decoder begins with. excluded: int64 [B, E] leaves not to be answered (-1: none).

    opening, closing: tokens before and after every identifier. candidates: int64 [B, C], the only leaves that a row may be answered (-1: none); all for
    None. among: one of AMONG, over what probabilities are taken; ValueError for another. A PAD in an identifier is its end: it costs nothing.
    pointed: of each level fp32 [B, nodes], what is added to their logits (`model.spread`); ValueError where probabilities are taken over all tokens.
    Returns leaves int64 [B, n] and scores fp32 [B, n], n ≤ k, best first; a score of -inf marks "no further answer".
    """
    if among not in AMONG:
        raise ValueError(f"among = {among!r}: expected one of {', '.join(AMONG)}")
    if pointed is not None and among == "all":
        raise ValueError("pointed, with among = 'all': what is pointed at is added among what may follow; expected valid or open")
    rows, shared, first = source.shape[0], decoder.weights["shared.weight"], decoder.first_answer
    cross, mask = decoder.encode(source)
    nodes = torch.zeros(1, 1, dtype=torch.int64, device=source.device)  # the root: its children are the same for all
    scores = torch.zeros(rows, 1, device=source.device)
    x, place = start_rows(shared, start)[:, None], 0
    past = decoder.nothing_said(x)
    reached = constraint.reach(candidates) if candidates is not None else None
    over_all = among == "all"
    closing = closing if over_all else ()  # else it is certain, and nothing follows
    for token in opening:
        hidden, past = decoder.step(x, place, past, cross, mask)
        scores = scores + decoder.logits(hidden).log_softmax(-1)[..., token - first] if over_all else scores
        x, place = shared[token].expand_as(x), place + 1
    for level in range(constraint.depth):
        hidden, past = decoder.step(x, place, past, cross, mask)
        child, column, exists, open_ = (each.expand(rows, -1, -1) for each in constraint.children(level, nodes))
        if reached is not None:
            open_ = open_ & reached[level].gather(1, child.flatten(1)).view(child.shape)
        begin, end = (0, len(decoder.head)) if over_all else constraint.spans[level]
        logits = decoder.logits(hidden, (begin, end))
        gained = (logits.log_softmax(-1) if over_all else logits).gather(-1, column - begin)
        if first == PAD:
            gained = gained.masked_fill(column == PAD, 0.0)
        if pointed is not None:
            gained = gained + pointed[level].gather(1, child.flatten(1)).view(child.shape)
        if not over_all:
            over = gained.masked_fill(~(exists if among == "valid" else open_), -torch.inf)
            gained = gained - over.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(gained.dtype).min)
        gained = gained.masked_fill(~open_, -torch.inf)
        found = (scores[..., None] + gained).flatten(1)
        child, column = child.flatten(1), column.flatten(1)
        last = level == constraint.depth - 1
        if last and excluded is not None:
            found = drop_excluded(found, child, excluded, constraint.leaves)
        scores, best = found.topk(min(k if last and not closing else beams, found.shape[1]), dim=1)
        nodes = child.gather(1, best)
        if not last or closing:
            x, place = shared[column.gather(1, best) + first], place + 1
            past = past.of(best // constraint.widths[level])
    for token in closing:
        hidden, past = decoder.step(x, place, past, cross, mask)
        scores = scores + decoder.logits(hidden).log_softmax(-1)[..., token - first]
        x, place = shared[token].expand_as(x), place + 1
    if closing:
        scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
        nodes = nodes.gather(1, best)
    return nodes, scores


def drop_excluded(candidates: Tensor, leaves: Tensor, excluded: Tensor, count: int) -> Tensor:
    """candidates, leaves: [B, C], a leaf of -1 being none. excluded: [B, E], -1 where a row excludes fewer. count: leaves there are."""
    barred = torch.zeros(len(leaves), count + 1, dtype=torch.bool, device=leaves.device)  # column 0 takes the -1
    barred.scatter_(1, excluded + 1, True)[:, 0] = False
    return candidates.masked_fill_(barred.gather(1, leaves + 1), -torch.inf)
