"""The plainest personal answer to a category query, a rival: the items whose category words equal the query, in the order of a sequence model's scores.

Reads the catalogue of the data set; knows no lake.
"""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import sasrec

STOP_WORDS = {"and", "by", "for", "in", "more", "of", "on", "the", "to", "up", "with"}
PLURALS = (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ss", "ss"), ("us", "us"), ("s", ""))


def ranks(catalogue: Path, items: pa.Array, asked: pa.Table, before: list[np.ndarray], targets: np.ndarray, model: sasrec.SASRec) -> np.ndarray:
    """Rank of each search's target among the items whose category words equal the query, none that the user has; 0: not among them.

    catalogue: its lines of JSON, gzipped. items: string [N], whose numbers are those of `before`, each search's earlier purchases, and of `targets`.
    """
    with gzip.open(catalogue, "rt") as stream:
        lines = [json.loads(line) for line in stream]
    numbers = {item: i for i, item in enumerate(items.to_pylist())}
    of_query: dict[str, list[int]] = defaultdict(list)
    for item in lines:
        for path in item["categories"] if item.get("categories") and isinstance(item["categories"][0], list) else [item.get("categories") or []]:
            of_query[bag(" ".join(path))].append(numbers[str(item["item"])])
    found = []
    for first in range(0, len(asked), 512):
        scores = sasrec.scores(model, before[first : first + 512])
        for row, query, target in zip(scores, asked["query"][first : first + 512].to_pylist(), targets[first : first + 512], strict=True):
            members = np.unique(of_query.get(bag(query), []))
            found.append(int(1 + (row[members] > row[target]).sum()) if target in members else 0)
    return np.array(found)


def bag(text: str) -> str:
    """The words of a category path as the queries made from one have them, in alphabetical order: lower case, singular, each once, no stop words.

    Checked: the item clicked carries its query's in every hem search of amazon_toys (160,750) and amazon_beauty (198,215).
    """
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return " ".join(sorted({singular(word) for word in words if len(word) > 1 and word not in STOP_WORDS}))


def singular(word: str) -> str:
    for ending, instead in PLURALS if len(word) > 3 else ():
        if word.endswith(ending):
            return word.removesuffix(ending) + instead
    return word
