"""A model small enough to make in a second: random weights, real files. What it answers means nothing; that it keeps its promises does."""

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import Config

SERVED = ("recommend", "search")


def artifact(folder: Path, item_ids: list[str], texts: list[str], tasks: tuple[str, ...] = SERVED, seed: int = 0, recipe: str = "bridge") -> str:
    """Save an untrained model of the items, as the trainer would; returns the folder."""
    import torch

    from model.artifact import save, weights_of
    from model.phrasings import phrasing_of
    from model.unified import from_sizes
    from model.vocabulary import Vocabulary, train_tokenizer

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts, 300)
    vocabulary = Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), {"joint": np.arange(len(item_ids))[:, None]})
    model = from_sizes("tiny", vocabulary.text_size, vocabulary.level_sizes, 0.0, True, phrasing_of(recipe).whole_vocabulary)
    t5 = {key: value for key, value in model.t5.config.to_dict().items() if isinstance(value, int | float | str | bool)}
    prompts = {"history_length": 20, "max_query_tokens": 16, "history_in_search": 0.0, "history_per_behaviour": 5, "behaviour_tokens": True}
    config = {"t5": t5, "recipe": recipe, "tasks": list(tasks), "softmax": "valid", "answer_precision": "fp32"} | prompts
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(folder, weights_of(model), vocabulary, item_ids, config, [], {"model_version": folder.name})
    return str(folder)


def register(spark: Any, config: Config, version: str, day: date, status: str = "trained") -> None:
    """A row of models for the artifact `version` of the lake."""
    from jobs.registry import save
    from jobs.tables import MODELS
    from jobs.writes import schema

    when = datetime.combine(day, datetime.min.time(), UTC)
    manifest = Path(config.lake.root, "artifacts", version, "manifest.json")
    held = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else "no artifact"
    values = ["bridge", f"artifacts/{version}", held, "{}", "hash", json.dumps(config.model_dump(mode="json")), "0", None, "[]", status, "r", when, day]
    save(spark, config, spark.createDataFrame([(version, *values)], schema(MODELS)))
