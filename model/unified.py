"""UnifiedModel: the one ranking model, a T5 by composition.

Encoder reads a prompt, decoder names an item: `[B, T] prompt tokens → [B, levels] identifier tokens`. The softmax runs over the
identifier tokens (Penha et al. 2024: with atomic identifiers, one softmax over items), or over the whole vocabulary, and an answer may then be text
(Shi et al. 2025); where it is told what has been said of an identifier, over what may follow (`model.valid`).
What stands in a prompt may point at items (`model.pointers`). Knows no table, no file and no task.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from model import attention
from model.decode import start_rows
from model.dropout import replace_dropout
from model.pointers import PACE, Pointers, Pointing
from model.slots import embed, sight
from model.valid import FREE, Valid
from model.vocabulary import EOS, PAD

# d_model, d_ff, d_kv, heads, encoder layers, decoder layers. small and base are T5's published sizes.
SIZES = {"micro": (64, 128, 16, 4, 2, 1), "tiny": (128, 256, 32, 4, 2, 1), "small": (512, 2048, 64, 8, 6, 6), "base": (768, 3072, 64, 12, 12, 12)}
INITIAL_STD = 0.1  # T5's own 1.0 lets random item rows drown the blocks on logs of this size


class UnifiedModel(nn.Module):
    """text_size: rows before the identifier tokens; level_sizes: identifier tokens per level. first_answer: row where the softmax begins, 0 or text_size.
    valid: of the catalogue, for a softmax over what may follow; else None. pointers: to items, which need `valid`; else None."""

    def __init__(self, backbone: T5ForConditionalGeneration, text_size: int, level_sizes: Sequence[int], whole_vocabulary: bool = False):
        super().__init__()
        self.t5 = backbone
        self.text_size = text_size
        self.level_sizes = tuple(level_sizes)
        self.first_answer = 0 if whole_vocabulary else text_size
        self.valid: Valid | None = None
        self.pointers: Pointers | None = None
        replace_dropout(self.t5)
        self.t5.set_attn_implementation(attention.NAME)

    def forward(
        self,
        source: Tensor,
        start: Tensor,
        target: Tensor,
        label_smoothing: float = 0.0,
        nodes: Tensor | None = None,
        pointing: Pointing | None = None,
        views: Tensor | None = None,
    ) -> Tensor:
        """source: int64 [B, T], PAD on the right. start: int64 [B, levels], an item's tokens or PAD. target: int64 [B, longest answer], PAD on the right.

        nodes: int64, as target: what each of its tokens follows, by the numbers of `valid`; for None, any token follows anything.
        pointing: what of the requests points at items. views: int64 [B], by which of the vocabulary's views each row names one; -1 where it names none.
        Returns each row's loss, fp32 [B], summed over its answer's tokens.
        """
        shared = self.t5.shared.weight
        answered = torch.cat([start_rows(shared, start)[:, None], F.embedding(target[:, :-1], shared)], dim=1)
        open_ = unpadded(source, shared.dtype)
        states = self.t5.encoder(input_ids=source, attention_mask=open_).last_hidden_state
        hidden = self.t5.decoder(inputs_embeds=answered, encoder_hidden_states=states, encoder_attention_mask=open_, use_cache=False).last_hidden_state
        losses = hidden.new_zeros(target.shape, dtype=torch.float32)
        said = target != PAD
        pointed = self.pointers(pointing) if self.pointers is not None else None
        if nodes is not None:
            bound, said = said & (nodes >= 0), said & (nodes == FREE)
            told, rows = self.valid.told(pointed, views) if pointed is not None else None, bound.nonzero()[:, 0]
            losses[bound] = self.valid(self.scaled(hidden[bound]), nodes[bound], target[bound], self.t5.lm_head.weight, label_smoothing, told, rows)
        logits = self.logits(hidden[said]).float()
        if pointed is not None and nodes is None:  # an answer is one token, a row each, and all of them may follow
            cells = pointed.rows * logits.shape[1] + self.valid.columns(pointed, views)
            logits = logits.flatten().index_add(0, cells, pointed.told).view_as(logits)
        losses[said] = F.cross_entropy(logits, target[said] - self.first_answer, reduction="none", label_smoothing=label_smoothing)
        return losses.sum(dim=1)

    def first_step(self, source: Tensor, slots: Tensor) -> Tensor:
        """The decoder's state where it is about to say its first token, [B, d_model].

        source: int64 [B, T], PAD on the right, with slots (`model.slots`) filled by `slots` [B, slots, d_model].
        """
        rows = embed(self.t5.shared.weight, source, slots)
        states = self.t5.encoder(inputs_embeds=rows, attention_mask=sight(source, rows.dtype)).last_hidden_state
        begin = torch.full_like(source[:, :1], PAD)
        told = {"encoder_hidden_states": states, "encoder_attention_mask": unpadded(source, rows.dtype)}
        return self.t5.decoder(input_ids=begin, **told, use_cache=False).last_hidden_state[:, 0]

    def shape(self) -> dict[str, int | float | str | bool]:
        """The backbone's configuration, what of it JSON can hold: what `model.decode` needs besides weights."""
        return {key: value for key, value in self.t5.config.to_dict().items() if isinstance(value, (int, float, str, bool))}

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., d_model] → [..., tokens from `first_answer` on]."""
        return F.linear(self.scaled(hidden), self.t5.lm_head.weight[self.first_answer :])

    def scaled(self, hidden: Tensor) -> Tensor:
        return hidden * self.t5.config.d_model**-0.5 if self.t5.config.scale_decoder_outputs else hidden


def unpadded(source: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores so that nobody looks at PAD, [B, 1, 1, T]: 0, or the dtype's least number."""
    return torch.zeros(source.shape, dtype=dtype, device=source.device).masked_fill_(source == PAD, torch.finfo(dtype).min)[:, None, None]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """For AdamW: matrices decay, norms and biases do not. `pace`: times the learning rate, more for the weights of pointers."""
    pointing = [p for module in model.modules() if isinstance(module, Pointers) for p in module.parameters()]
    others = [p for p in model.parameters() if all(p is not each for each in pointing)]
    decays = {"params": [p for p in others if p.dim() > 1], "weight_decay": weight_decay, "pace": 1}
    stays = {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "pace": 1}
    return [decays, stays] + ([{"params": pointing, "weight_decay": 0.0, "pace": PACE}] if pointing else [])


def from_sizes(size: str, text_size: int, level_sizes: Sequence[int], dropout: float, tied: bool, whole_vocabulary: bool = False) -> UnifiedModel:
    """A model from scratch. Draws from torch's global generator: seed it first."""
    d_model, d_ff, d_kv, heads, encoder_layers, decoder_layers = SIZES[size]
    config = T5Config(
        vocab_size=text_size + sum(level_sizes),
        d_model=d_model,
        d_ff=d_ff,
        d_kv=d_kv,
        num_heads=heads,
        num_layers=encoder_layers,
        num_decoder_layers=decoder_layers,
        dropout_rate=dropout,
        feed_forward_proj="relu",
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        use_cache=False,
    )
    config.scale_decoder_outputs = False  # T5's d_model ** -0.5 flattens a softmax over items: it learns 3 times slower
    backbone = T5ForConditionalGeneration(config)
    if not tied:  # T5Config takes `tie_word_embeddings = False` for another scale of the outputs, and ties all the same
        backbone.lm_head.weight = nn.Parameter(torch.empty_like(backbone.shared.weight))
        config.tie_word_embeddings = False
    model = UnifiedModel(backbone, text_size, level_sizes, whole_vocabulary)
    for rows in {id(p): p for p in (model.t5.shared.weight, model.t5.lm_head.weight)}.values():
        nn.init.normal_(rows, std=INITIAL_STD)
    return model


def from_checkpoint(path: str, level_sizes: Sequence[int], dropout: float, text_size: int, whole_vocabulary: bool = False) -> UnifiedModel:
    """Any T5-family checkpoint by path or hub name, safetensors only; its vocabulary keeps its rows, marks' and identifiers' rows follow.

    New rows: mean of the old ones + N(0, 0.02) (reference: bridge, choice 8).
    """
    backbone = T5ForConditionalGeneration.from_pretrained(path, use_safetensors=True, dropout_rate=dropout)
    # Not what its config says: T5Config says "tied" of checkpoints that bring a head of their own (T5 1.1, flan), too.
    tied = backbone.lm_head.weight is backbone.shared.weight
    for embedding in (backbone.shared, backbone.lm_head):
        text_rows = embedding.weight.data[:text_size]
        new_rows = text_rows.mean(dim=0) + 0.02 * torch.randn(text_size + sum(level_sizes) - len(text_rows), text_rows.shape[1])
        embedding.weight = nn.Parameter(torch.cat([text_rows, new_rows.to(text_rows.dtype)]))
    backbone.config.vocab_size = text_size + sum(level_sizes)
    backbone.config.tie_word_embeddings = tied
    if tied:
        backbone.lm_head.weight = backbone.shared.weight
    backbone.encoder.embed_tokens = backbone.shared
    backbone.decoder.embed_tokens = backbone.shared
    return UnifiedModel(backbone, text_size, level_sizes, whole_vocabulary)
