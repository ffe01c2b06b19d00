"""Examples of the tasks that no row of corpora states: what is searched next, and what an item's text says of the item.

    next_query      of each search example with a history: the words as the answer
    pseudo_search   of each item: words made of its text, as a query without a history
    text_to_item    of each item with a text
    item_to_text    the same, the other way round

(Shi et al. 2025, section 3.3; reference gensar 2.) Only rows of training and the catalogue's texts come in. Knows no table.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.data import Examples, Ragged, Searched, ragged
from model.vocabulary import Vocabulary

WORDS = 4  # at most, of a pseudo-query: most queries that people type have one to four
GENERATED_BATCH = 32


def derived(
    examples: Examples, tasks: tuple[str, ...], texts: Sequence[str], vocabulary: Vocabulary, limit: int, pseudo: str, count: int, seed: int
) -> Examples:
    """examples: of corpora, `search` among its tasks. texts: of each item row. limit: tokens of a text. pseudo: "terms", or a doc2query model; count: made
    queries of each item.

    The examples of `tasks` alone, of which at least one is of corpora: those given and those derived.
    """
    made = [only(examples, task, tasks) for task in tasks if task in examples.tasks]
    if "next_query" in tasks:
        asked = only(examples, "search", (*tasks, "search"))
        asked = asked.take(np.flatnonzero(asked.history.lengths > 0))
        made.append(replace(asked, tasks=tasks, task=np.full(len(asked), tasks.index("next_query"), np.int8)))
    for task in ("pseudo_search", "text_to_item", "item_to_text"):
        if task in tasks:
            said = pseudo_queries(texts, pseudo, count, seed) if task == "pseudo_search" else [list(texts)]
            made += [of_items(task, tasks, ragged(vocabulary.encode(each, limit)), examples) for each in said]
    return joined(made)


def only(examples: Examples, task: str, tasks: tuple[str, ...]) -> Examples:
    """The rows of one task, numbered as in `tasks`."""
    rows = examples.take(np.flatnonzero(examples.task == examples.tasks.index(task)))
    return replace(rows, tasks=tasks, task=np.full(len(rows), tasks.index(task), np.int8))


def of_items(task: str, tasks: tuple[str, ...], texts: Ragged, examples: Examples) -> Examples:
    """An example of each item with a text; as new as the newest of `examples`, so that no half-life thins them out."""
    rows = np.flatnonzero(texts.lengths > 0)
    nothing = Ragged(np.empty(0, np.int32), np.zeros(len(rows) + 1, np.int64))
    at = np.full(len(rows), examples.at.max() if len(examples) else np.datetime64(0, "us"))
    searched = Searched(nothing, examples.searched.queries) if examples.searched else None
    return Examples(tasks, np.full(len(rows), tasks.index(task), np.int8), nothing, texts.take(rows), rows, at, np.full(len(rows), -1), searched)


def joined(parts: Sequence[Examples]) -> Examples:
    """One after the other; all of one numbering of tasks and of queries."""
    first = parts[0]
    searched = None
    if first.searched:
        searched = Searched(end_to_end([part.searched.number for part in parts if part.searched]), first.searched.queries)
    return Examples(
        first.tasks,
        np.concatenate([part.task for part in parts]),
        end_to_end([part.history for part in parts]),
        end_to_end([part.query for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.user for part in parts]),
        searched,
    )


def end_to_end(parts: Sequence[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def pseudo_queries(texts: Sequence[str], how: str, count: int, seed: int) -> list[list[str]]:
    """`count` times a made query of each text. how: "terms" draws words that stand out in it; else the path or hub name of a doc2query
    sequence-to-sequence model."""
    return terms(texts, count, seed) if how == "terms" else generated(texts, how, count, seed)


def terms(texts: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """One to WORDS words of each text, the likelier the higher their TF-IDF, each once, in the order drawn; "" for a text without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(text.strip() for text in texts):
        return [[""] * len(texts)] * count
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    weights, words = vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()
    rng, queries = np.random.default_rng((seed, 3)), []
    spans = [slice(*weights.indptr[row : row + 2]) for row in range(len(texts))]
    for _ in range(count):
        # Drawn without replacement by weight: the highest of u^(1/weight) (Efraimidis and Spirakis 2006).
        keys, sizes = rng.random(weights.nnz) ** (1 / weights.data), rng.integers(1, WORDS + 1, len(texts))
        drawn = [weights.indices[span][np.argsort(-keys[span])[:size]] for span, size in zip(spans, sizes, strict=True)]
        queries.append([" ".join(words[columns]) for columns in drawn])
    return queries


def generated(texts: Sequence[str], path: str, count: int, seed: int) -> list[list[str]]:
    """Sampled as the official code does: top-k 10, top-p .95, at most 64 tokens."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path, use_safetensors=True).eval()
    queries: list[list[str]] = [[] for _ in range(count)]
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for first in range(0, len(texts), GENERATED_BATCH):
            batch = tokenizer(list(texts[first : first + GENERATED_BATCH]), return_tensors="pt", padding=True, truncation=True, max_length=256)
            for made in queries:
                said = model.generate(**batch, do_sample=True, top_k=10, top_p=0.95, max_new_tokens=64)
                made += tokenizer.batch_decode(said, skip_special_tokens=True)
    return queries
