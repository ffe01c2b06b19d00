"""What every training reads of the lake, by its specification: corpora by split, the items' texts, and the vocabulary made of both.

Reads Delta tables at the pinned versions, and the parent's artifact. Knows no model.
"""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model import artifact, data, sentences
from model.recipes import RECIPES
from model.unified import SIZES
from model.vocabulary import MARKS, Vocabulary, train_tokenizer

COLUMNS = ("example_id", "task", "user_id", "history", "query", "target_item_id", "event_ts", "split")


def day_of(spec: dict[str, Any]) -> date:
    return date.fromisoformat(spec["day"])


def splits(spec: dict[str, Any]) -> dict[str, pa.Table]:
    """Rows of the corpora by split, in the order of time."""
    rows = data.read_table(*spec["tables"]["corpora"], COLUMNS, until=day_of(spec))
    rows = rows.sort_by([("event_ts", "ascending"), ("example_id", "ascending")])  # files lie in no order: the same rows, the same model
    of = data.split_of(rows, datetime.fromisoformat(spec["valid_from"]), datetime.fromisoformat(spec["test_from"]))
    return {split: rows.filter(of == split) for split in ("train", "valid")}


def items(spec: dict[str, Any]) -> pa.Table:
    """item_id and text of the day's catalogue, by item_id."""
    return data.read_table(*spec["tables"]["items"], ["item_id", "text"], day=day_of(spec)).sort_by("item_id")


def item_texts(spec: dict[str, Any], item_ids: Sequence[str]) -> list[str]:
    """Of each item row; "" for an item that left the catalogue."""
    held = items(spec)
    text_of = dict(zip(held["item_id"].to_pylist(), held["text"].to_pylist(), strict=True))
    return [text_of.get(item, "") for item in item_ids]


def learnable(examples: Any, recommend: int, exclude_seen: bool) -> np.ndarray:
    """bool [n]: where items of the history are not recommended again, they are not learnt as answers either. recommend: the task's number."""
    return ~examples.repeats | (examples.task != recommend) if exclude_seen else np.ones(len(examples), bool)


def make_vocabulary(spec: dict[str, Any], codes: dict[str, np.ndarray], train: pa.Table) -> Vocabulary:
    """The parent's, a checkpoint's, or one trained on the items' texts and the training queries of at least two users."""
    settings = spec["train"]
    if spec["parent"]:
        _, held, _, _, _ = artifact.load(Path(spec["parent"]))
        return Vocabulary.build(held.tokenizer, held.text_size - len(MARKS), codes, spec["shared_levels"], held.level_sizes)
    if settings["backbone"] not in SIZES:
        from transformers import AutoConfig, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(settings["backbone"]).backend_tokenizer
        return Vocabulary.build(tokenizer, AutoConfig.from_pretrained(settings["backbone"]).vocab_size, codes, spec["shared_levels"])
    texts = items(spec)["text"].to_pylist()
    # What one person alone has typed may tell who they are, and a token is read by whoever reads the artifact.
    asked = train.group_by("query").aggregate([("user_id", "count_distinct")])
    queries = sorted(asked.filter(pc.greater(asked["user_id_count_distinct"], 1))["query"].drop_null().to_pylist())
    if RECIPES[settings["recipe"]].prompts == "sentences":
        texts += 2 * sentences.texts()  # twice: what occurs once gets no token of its own
    tokenizer = train_tokenizer([*texts, *queries], settings["text_vocabulary"])
    return Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), codes, spec["shared_levels"])
