"""Requests → ranked items: prompts rendered, sorted by length, answered in batches under the catalogue's trie.

Reads an artifact; knows item_ids, tokens and tasks, but no table. What a worker loads (`load`) and what the trainer validates with.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from model import artifact, choice, popularity, trie
from model.decode import Constraint, Decoder, beam_search
from model.phrasings import phrasing_of
from model.pointers import PREFIX, Pointers, pointing
from model.popularity import Popularity
from model.prompts import Ask, padded
from model.recipes import RECIPES, SERVED
from model.similarity import names, similarity
from model.spread import Spread
from model.vocabulary import EOS, PAD, Vocabulary

if TYPE_CHECKING:
    from model.two_stage import TwoStage

Answer = tuple[np.ndarray, np.ndarray]
NOTHING: Answer = (np.empty(0, np.int64), np.empty(0, np.float64))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
VIEWS = "item_views."  # before the names of an artifact's views of its items
LATEST = 20  # distinct items of a history that candidates are compared with
EVERY_WORD = "every word"  # whether an item holds all of the query's
DEEP = 100  # answers that are ordered again; of several codes each is a beam, and 20 of them are too few to order (README, "gensar on a real log")
BATCH_CELLS = 1 << 24  # scores held at once by a decoding step (floats): 64 MiB
CPU_BATCH, BATCH = 32, 256  # requests; on a CPU what a step touches then stays in the cache: 256 are 1.3 times slower
CPU_BEAMS = 1024  # of all requests of a batch there: 32 requests of 100 beams take 1.6 times as long as 8 at a time
# Batches are of so many requests and tokens, or a multiple: oneDNN makes and keeps a kernel for each shape, 300 MB of them after 5,000 requests of all shapes.
ROWS, TOKENS = 8, 4


class Ranker:
    """weights: T5 names → tensors. config: as `artifact.save` stores it. item_ids: catalogue order, the row of an item is its index."""

    def __init__(self, weights: Mapping[str, Tensor], vocabulary: Vocabulary, item_ids: Sequence[str], config: Mapping[str, Any], manifest: dict[str, Any]):
        self.vocabulary = vocabulary
        self.item_ids = list(item_ids)
        self.config = config
        self.manifest = manifest
        self.rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.phrasing = phrasing_of(config["recipe"])(vocabulary, config)
        first_answer = 0 if self.phrasing.whole_vocabulary else vocabulary.text_size
        precision = PRECISIONS[config["answer_precision"]]
        self.decoder = Decoder({name.removeprefix("t5."): tensor for name, tensor in weights.items()}, config["t5"], first_answer, precision)
        self.device = self.decoder.head.device
        self.tries = {view: trie.build(codes) for view, codes in vocabulary.codes.items()}
        self.leaf_of_row = {view: np.argsort(held.items) for view, held in self.tries.items()}
        self.tasks = tuple(task for task in SERVED if task in config["tasks"])
        self.pointers = Pointers.loaded(weights, len(self.item_ids)) if f"{PREFIX}weight" in weights else None
        self.spreads = {view: Spread(held).to(self.device) for view, held in self.tries.items()} if self.pointers else {}
        self.views = {name.removeprefix(VIEWS): rows for name, rows in weights.items() if name.startswith(VIEWS)}
        self.popularity = Popularity.loaded(weights)
        self.order: Mapping[str, Mapping[str, float]] = config.get("order", {})
        # With one token per item it is all the same; an artifact of before the setting was trained over all tokens.
        self.among = "valid" if self.pointers else config.get("softmax", "all") if vocabulary.depth > 1 else "all"

    def rank(
        self,
        task: str,
        histories: Sequence[Sequence[Mapping[str, Any]]],
        queries: Sequence[str | None],
        k: int,
        beams: int = 20,
        exclude: Sequence[Sequence[str]] | None = None,
        allowed: np.ndarray | None = None,
        ordered: bool = True,
    ) -> list[Answer]:
        """One (item rows int64 [n], scores float64 [n]) per request, n ≤ k distinct items, best first; n = 0 where nothing is known.

        histories: oldest first, mappings with `item_id`, `surface`, `query`. queries: text, None for recommend. exclude: item_ids a request must not get.
        allowed: bool [items], who may be answered at all. ordered: by the weights settled after training; else by the score alone, of as many beams as are
        asked for. Raises ValueError for a task that the model was not trained on.
        """
        if task not in self.tasks:
            raise ValueError(f"task {task!r}: this model was trained on {', '.join(self.tasks)}")
        excluded = [[self.rows[item] for item in items if item in self.rows] for items in exclude] if exclude is not None else None
        return self.rank_asks(task, self.asks(task, histories, queries), k, beams, excluded, allowed, ordered=ordered)

    def asks(self, task: str, histories: Sequence[Sequence[Mapping[str, Any]]], queries: Sequence[str | None]) -> list[Ask]:
        limit = self.config["max_query_tokens"]
        encoded = iter(self.vocabulary.encode([query for query in queries if query], limit))
        texts = [next(encoded) if query else [] for query in queries]
        known = [[act for act in history if act["item_id"] in self.rows] for history in histories]
        rows = [np.array([self.rows[act["item_id"]] for act in history], np.int64) for history in known]
        if not self.phrasing.reads_queries:
            return [Ask(task, items, (), text) for items, text in zip(rows, texts, strict=True)]
        words = iter(self.vocabulary.encode([act["query"] or "" for history in known for act in history if act["surface"] == "search"], limit))
        searched = [[next(words) if act["surface"] == "search" else None for act in history] for history in known]
        return [Ask(task, items, asked, text) for items, asked, text in zip(rows, searched, texts, strict=True)]

    def rank_asks(
        self,
        task: str,
        asks: Sequence[Ask],
        k: int,
        beams: int,
        excluded: Sequence[Sequence[int] | np.ndarray] | None = None,
        allowed: np.ndarray | None = None,
        candidates: Sequence[Sequence[int] | np.ndarray] | None = None,
        renormalised: bool = False,
        ordered: bool = True,
    ) -> list[Answer]:
        """The same for requests as numbers; excluded, candidates: item rows; where candidates are given, a request is answered with no other item.

        renormalised: probabilities among what may be answered, instead of among what the model was trained on.
        """
        view = self.vocabulary.view(task)
        held = self.tries[view]
        asks = self.shown(task, asks)
        constraint = self.constraint(view, allowed)
        leaves_of = {
            name: [self.leaf_of_row[view][np.asarray(rows, np.int64)] for rows in of_asks] if of_asks is not None else None
            for name, of_asks in (("excluded", excluded), ("candidates", candidates))
        }
        again = ordered and candidates is None and task in self.order
        most = self.depth(k, beams) if again else k
        found = self.answers(task, asks, constraint, most, beams, leaves_of["excluded"], leaves_of["candidates"], "open" if renormalised else self.among)
        answers = [(held.items[leaves].astype(np.int64), values) for leaves, values in found]
        return self.ordered(task, asks, answers, k) if again else answers

    def shown(self, task: str, asks: Sequence[Ask]) -> Sequence[Ask]:
        """Without what this model's searches do not look at."""
        hidden = task == "search" and not self.config["history_in_search"]
        return [ask._replace(items=ask.items[:0], searched=()) for ask in asks] if hidden else asks

    def depth(self, k: int, beams: int) -> int:
        """How many answers are ordered again."""
        return max(k, beams, DEEP)

    def ordered(self, task: str, asks: Sequence[Ask], answers: Sequence[Answer], k: int) -> list[Answer]:
        """The best `k` of each answer by the utility that the task's weights in `order` give its features; of equals the first."""
        made = []
        for (rows, _), of_answer in zip(answers, self.features(task, asks, answers), strict=True):
            utility = choice.utility(self.order[task], self.feature_names, of_answer)
            best = np.argsort(-utility, kind="stable")[:k]
            made.append((rows[best], utility[best]))
        return made

    @property
    def feature_names(self) -> list[str]:
        popular = popularity.NAMES if self.popularity else ()
        return [choice.SCORE, *names(self.views), *([EVERY_WORD] if self.pointers else []), *popular]

    def features(self, task: str, asks: Sequence[Ask], answers: Sequence[Answer]) -> list[np.ndarray]:
        """Of each answer float64 [items, `feature_names`]."""
        offered, queries = [rows for rows, _ in answers], [ask.text for ask in asks]
        told = [[scores for _, scores in answers], similarity(self.views, [ask.items for ask in asks], offered, LATEST)]
        if self.pointers:
            told.append(self.pointers.every_word(queries, offered))
        if self.popularity:
            told.append(self.popularity.features(task, queries, offered))
        return [np.column_stack(of_request) for of_request in zip(*told, strict=True)]

    def suggest(self, asks: Sequence[Ask], queries: Constraint, k: int, beams: int) -> list[Answer]:
        """Which query comes next: (rows of the catalogue of queries, scores) per request. queries: as `query_catalogue` gives it."""
        return self.answers("next_query", asks, queries, k, beams, None, None, "all")

    def query_catalogue(self, queries: Sequence[str]) -> tuple[Constraint, np.ndarray]:
        """The only queries that may be suggested, as a trie of their tokens and </s>; and the number of each leaf's query, of equal tokens the first.

        Raises ValueError for a model that was not trained on next_query, or no query of any known word.
        """
        if "next_query" not in self.config["tasks"]:
            raise ValueError(f"next_query: this model was trained on {', '.join(self.config['tasks'])}")
        tokens = [[*ids, EOS] for ids in self.vocabulary.encode(list(queries), self.config["max_query_tokens"])]
        kept = list({tuple(ids): number for number, ids in reversed(list(enumerate(tokens))) if len(ids) > 1}.values())
        if not kept:
            raise ValueError(f"query suggestions: none of {len(queries)} queries holds a known word")
        depth = max(len(tokens[number]) for number in kept)
        held = trie.build(np.array([[*tokens[number], *[PAD] * (depth - len(tokens[number]))] for number in kept]))
        return Constraint(held, [0] * depth, str(self.device)), np.asarray(kept)[held.items]

    def answers(
        self,
        task: str,
        asks: Sequence[Ask],
        constraint: Constraint,
        k: int,
        beams: int,
        excluded: Sequence[np.ndarray] | None,
        candidates: Sequence[np.ndarray] | None,
        among: str,
    ) -> list[Answer]:
        """(leaves, scores) per request. A score is the mean over an answer's tokens where an answer has an end of its own (Shi et al. 2025), else their sum."""
        phrasing, text = self.phrasing, task == "next_query"  # a query's end is in its trie
        opening, closing = phrasing.opening(task), [] if text else phrasing.closing(task)
        usable = [i for i, ask in enumerate(asks) if phrasing.answerable(task, len(ask.items), len(ask.text))]
        sources = {i: phrasing.source(asks[i]) for i in usable}
        usable.sort(key=lambda i: len(sources[i]))
        answers = [NOTHING] * len(asks)
        tokens = len(opening) + constraint.depth + len(closing) if closing else 1
        beams = max(beams, k)
        width = beams if closing or text else 1  # beams that a whole softmax is held for
        children = constraint.leaves if constraint.depth == 1 else beams * max(constraint.widths)
        per_request = max(children, len(self.decoder.head) * width)
        most = CPU_BATCH if constraint.depth == 1 else min(CPU_BATCH, max(ROWS, CPU_BEAMS // beams // ROWS * ROWS))
        size = max(1, min(most if self.device.type == "cpu" else BATCH, BATCH_CELLS // per_request))
        for first in range(0, len(usable), size):
            chosen = usable[first : first + size]
            batch = chosen + chosen[-1:] * (-len(chosen) % min(ROWS, size))
            source = placed([sources[i] for i in batch], self.device, multiple=TOKENS)
            begin = torch.from_numpy(np.stack([phrasing.start(asks[i]) for i in batch])).to(self.device)
            blocked = placed([excluded[i] for i in batch], self.device, value=-1) if excluded is not None else None
            only = placed([candidates[i] for i in batch], self.device, value=-1) if candidates is not None else None
            pointed = None
            if self.pointers and not text:
                pointed = self.spreads[self.vocabulary.view(task)].dense(self.pointers(pointing([asks[i] for i in batch]).to(self.device)), len(batch))
            leaves, scores = beam_search(self.decoder, constraint, source, begin, k, beams, blocked, opening, closing, only, among, pointed)
            leaves, scores = leaves[: len(chosen)].cpu().numpy(), (scores[: len(chosen)].double() / tokens).cpu().numpy()
            for i, row, value in zip(chosen, leaves, scores, strict=True):
                found = np.isfinite(value)
                answers[i] = (row[found], value[found])
        return answers

    def constraint(self, view: str, allowed: np.ndarray | None) -> Constraint:
        held = self.tries[view] if allowed is None else self.tries[view].allow(np.asarray(allowed, dtype=bool))
        columns = self.vocabulary.text_size - self.decoder.first_answer + self.vocabulary.offsets(view)
        return Constraint(held, columns.tolist(), str(self.device))


def placed(rows: Sequence[Sequence[int] | np.ndarray], device: torch.device, value: int = PAD, multiple: int = 1) -> Tensor:
    return torch.from_numpy(padded(rows, value, multiple)).to(device)


@lru_cache(maxsize=2)
def load(path: str, device: str = "cpu") -> "Ranker | TwoStage":
    """The artifact's ranker, loaded once per process. Raises ValueError where the artifact is incomplete or was changed."""
    weights, vocabulary, item_ids, config, manifest = artifact.load(Path(path))
    on_device = {name: tensor.to(device) for name, tensor in weights.items()}
    if RECIPES[config["recipe"]].second_stage:
        from model.rerank import Reranker
        from model.two_stage import TwoStage, first_stage

        first = load(str(first_stage(Path(path), config)), device)
        return TwoStage(first, Reranker(on_device, vocabulary, item_ids, config), config["depth"], config.get("weights", {}))
    return Ranker(on_device, vocabulary, item_ids, config, manifest)
