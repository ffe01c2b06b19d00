"""Pairs scored per second: gensr's scorer against a plain Hugging Face loop over the same pairs, one thread, fp32.

    python tests/benchmarks/gensr_pairs.py [--size tiny] [--requests 64] [--candidates 100]

The plain loop gives batches of 64 pairs to the model as it is trained (transformers' T5, the views of each pair anew). Both see searches of 8 words, a history
of 20 items, texts of 16 words; weights are random. The largest difference of a score is told beside the rates. Writes
tests/benchmarks/results/gensr_pairs_per_s_vs_hf.json; its interval is of the repetitions.
"""

import argparse
import sys
import time

import numpy as np
import torch
from figures import origin, write

from model.data import newest, ragged
from model.gensr import GenSR
from model.questions import TASKS, Form, Prompts
from model.score import Scorer
from model.unified import from_sizes
from model.vocabulary import Vocabulary, train_tokenizer

ITEMS, HISTORY, WORDS, QUERY, AT_ONCE, WIDTH = 2000, 20, 16, 8, 64, 64


def made(size: str) -> tuple[GenSR, Scorer, Prompts]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer = train_tokenizer(["user like find item", "recommend search"] * 9, 400)
    text_size = tokenizer.get_vocab_size() + 3000
    prompts = Prompts(Vocabulary.build(tokenizer, text_size, {"joint": np.arange(2)[:, None]}), Form(), QUERY)
    table, texts = rng.normal(size=(ITEMS, WIDTH)), rng.integers(3, text_size, (ITEMS, WORDS))
    model = GenSR(from_sizes(size, text_size, (2,), 0.0, False), Form(), table, texts, HISTORY, 0.0, 4).eval()
    with torch.no_grad():
        model.unified.t5.lm_head.weight.normal_()
    t5 = model.unified.shape()
    config = {"t5": t5, "text_size": text_size, "history_length": HISTORY, "form": vars(model.form)}
    return model, Scorer(model.kept(), config, prompts), prompts


@torch.inference_mode()
def plain(model: GenSR, prompts: Prompts, histories: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    owner, items = np.repeat(np.arange(len(candidates)), candidates.shape[1]), candidates.ravel()
    scores = []
    for first in range(0, len(items), AT_ONCE):
        rows = owner[first : first + AT_ONCE]
        tasks = np.full(len(rows), TASKS.index("search"))
        asked = ragged(queries[rows])
        read = (prompts.sources(tasks, asked), newest(ragged(histories[rows]), HISTORY), prompts.queries(tasks, asked))
        arrays = (*read, items[first : first + AT_ONCE, None], tasks)
        scores.append(model(*map(torch.from_numpy, arrays))[0][:, 0].numpy())
    return np.concatenate(scores).reshape(candidates.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, scorer, prompts = made(asked.size)
    rng = np.random.default_rng(1)
    histories, queries = rng.integers(0, ITEMS, (asked.requests, HISTORY)), rng.integers(3, 3000, (asked.requests, QUERY))
    candidates = np.stack([rng.permutation(ITEMS)[: asked.candidates] for _ in range(asked.requests)])
    ways = {
        "ours": lambda: np.stack(scorer.score("search", histories.tolist(), queries.tolist(), candidates.tolist())),
        "plain": lambda: plain(model, prompts, histories, queries, candidates),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    found = {}
    for _ in range(asked.repeats):
        for way, run in ways.items():
            started = time.perf_counter()
            found[way] = run()
            rates[way].append(candidates.size / (time.perf_counter() - started))
    apart = float(np.abs(found["ours"] - found["plain"]).max())
    ours, theirs = (float(np.median(rates[way])) for way in ways)
    print(f"{ours:.0f} pairs/s, plain loop {theirs:.0f}: {ours / theirs:.1f} times; scores at most {apart:.1e} apart")
    figure = {"figure": "gensr_pairs_per_s_vs_hf", "value": round(ours), "unit": "pairs/s", "ci": [round(min(rates["ours"])), round(max(rates["ours"]))]}
    rival = {"rival": "plain Hugging Face loop, batches of 64 pairs", "rival_value": round(theirs)}
    data = f"{asked.requests} searches × {asked.candidates} random items, size {asked.size}"
    write([{**figure, **rival}], origin(" ".join(["python", *sys.argv]), data, [0]))


if __name__ == "__main__":
    main()
