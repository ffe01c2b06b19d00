"""The training of a recipe that answers about pairs (gensr).

Reads corpora (the users, too) and items at the versions the specification pins; its part `pairs` says how pairs are made,

    {"form": {…}, "negatives": 4, "hard": 0.5, "pool": 100, "item_words": 16, "first": 0.5, "first_pool": 50, "blend": true}

and `candidates`, where it is given, the folder of the first stage's artifact, and `depth`, how many of its items are to be ordered.

The collaborative table is LightGCN's over the training rows alone. Behind a first stage, some of the wrong items are its own answers (`pairs.Drawing`), and
validation is of both together, over the whole catalogue; its requests, which neither stage has learned from, also weigh by what the candidates are ordered
(`model.choice`): the first stage's score, the odds, and the similarity to the history in each view. Without one, validation ranks each right item among 99
others, popular ones and (for a search) words' ones alike. An equal score counts against the right item.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import artifact, choice, corpus, data, initial, lightgcn, negatives, pairs
from model.candidates import FirstStage
from model.gensr import GenSR, look_for_alike
from model.loop import BadCorpus, Training, log
from model.metrics import ndcg_at, recall_at
from model.pairs import Drawing, Requests
from model.questions import TASKS, Form, Prompts, text_rows
from model.recipes import RECIPES
from model.score import Scorer
from model.unified import INITIAL_STD, SIZES, from_checkpoint, from_sizes
from model.vocabulary import MARKS, Vocabulary

ANSWERS = {"joint": np.arange(2)[:, None]}  # No and Yes, the identifiers of what there is to say
AMONG = 99  # wrong candidates of a validation request


class PairTraining(Training):
    rate = "gensr.learning_rate"

    def load_data(self) -> None:
        spec = self.spec
        self.form = Form(**{**spec["pairs"]["form"], "views": tuple(spec["pairs"]["form"].get("views", Form.views))})
        self.tasks = tuple(task for task in RECIPES[self.settings["recipe"]].tasks if task in self.settings["tasks"])
        items, rows = corpus.items(spec), corpus.splits(spec)
        self.item_ids, self.texts = items["item_id"].to_pylist(), [text or "" for text in items["text"].to_pylist()]
        self.vocabulary = corpus.make_vocabulary(spec, ANSWERS, rows["train"])
        limit = self.settings["max_query_tokens"]
        self.prompts = Prompts(self.vocabulary, self.form, limit)
        (self.train, learnt), (valid, asked) = (self.requests(rows[split], limit) for split in ("train", "valid"))
        drawn = self.draw_valid(valid)
        self.valid, self.candidates, self.answers = valid.take(drawn), None, None
        self.weights: dict[str, dict[str, float]] = {}
        missing = [task for task in self.tasks if not (self.train.task == TASKS.index(task)).any()]
        if missing or not len(self.train):
            raise BadCorpus(f"no training example for task {', '.join(missing)} before {spec['valid_from']}: leave it out of train.tasks, or widen the window")
        if "candidates" in spec:
            first = FirstStage(spec["candidates"], self.item_ids, spec["exclude_seen"], str(self.device))
            self.candidates = first.candidates(asked.take(pa.array(drawn)), spec["depth"])
            if spec["pairs"]["first"]:  # once: the first stage no longer changes, and codes take longer to answer than a pair to learn
                self.answers, _ = first.candidates(learnt, spec["pairs"]["first_pool"], ordered=False)  # a likely one will do
        counts = np.bincount(self.train.target, minlength=len(self.item_ids)).astype(np.float64)
        self.drawing = Drawing(counts, spec["pairs"]["negatives"], spec["pairs"]["hard"], spec["exclude_seen"], spec["pairs"]["first"])
        log.info("%d training and %d validation requests, %d items, %d tokens", len(self.train), len(self.valid), len(self.item_ids), self.vocabulary.size)

    def requests(self, table: pa.Table, limit: int) -> tuple[Requests, pa.Table]:
        """Those of the tasks trained, each with the items of its words; and their rows of the table."""
        pool = self.spec["pairs"]["pool"]
        found, rows = pairs.encode(table, self.item_ids, self.vocabulary, limit, lambda queries: negatives.pools(self.texts, queries, pool))
        wanted = np.isin(found.task, [TASKS.index(task) for task in self.tasks])
        kept = np.flatnonzero(wanted & corpus.learnable(found, TASKS.index("recommend"), self.spec["exclude_seen"]))
        return found.take(kept), table.select(["task", "history", "query"]).take(pa.array(rows[kept]))

    def draw_valid(self, valid: Requests) -> np.ndarray:
        rng = np.random.default_rng(self.settings["seed"])
        rows = [rng.permutation(np.flatnonzero(valid.task == task))[: self.settings["max_valid_rows"]] for task in range(len(TASKS))]
        return np.sort(np.concatenate(rows)).astype(np.int64)

    def make_model(self) -> GenSR:
        settings, vocabulary, scratch = self.settings, self.vocabulary, self.settings["backbone"] in SIZES
        sizes = self.form.level_sizes
        if scratch:
            unified = from_sizes(settings["backbone"], vocabulary.text_size, sizes, settings["dropout"], settings["tied"])
            look_for_alike(unified)
        else:
            unified = from_checkpoint(settings["backbone"], sizes, settings["dropout"], vocabulary.text_size)
        if settings["item_init"] == "vectors" and scratch:
            self.begin_words(unified)
        seen = pairs.interactions(self.train)
        _, table = lightgcn.fit(seen, int(self.train.user.max()) + 1, len(self.item_ids), settings["seed"])
        limit = self.spec["pairs"]["item_words"]
        rows = text_rows(data.ragged(vocabulary.encode(self.texts, limit)), limit)
        return GenSR(unified, self.form, table, rows, self.spec["history_length"], settings["dropout"], self.spec["pairs"]["negatives"])

    @torch.no_grad()
    def begin_words(self, unified: torch.nn.Module) -> None:
        """Words begin at the vectors of the items that they name, as in `UnifiedTraining.begin_rows`."""
        shared, n = unified.t5.shared.weight, len(self.item_ids)
        table = *self.spec["tables"]["item_embeddings"], corpus.day_of(self.spec)
        vectors = initial.item_vectors(initial.item_views(*table, self.item_ids), shared.shape[1], self.settings["seed"])
        named = Vocabulary.build(self.vocabulary.tokenizer, self.vocabulary.text_size - len(MARKS), {"joint": np.arange(n)[:, None]})
        rows = torch.from_numpy(initial.token_rows(vectors, self.texts, named, INITIAL_STD))[: self.vocabulary.text_size]
        known = torch.cat([rows.abs().sum(dim=1) > 0, torch.zeros(len(shared) - len(rows), dtype=torch.bool)])
        shared[known] = rows[known[: len(rows)]]

    def kept(self) -> dict[str, torch.Tensor]:
        return self.model.kept()

    def config(self) -> dict[str, Any]:
        told = {"recipe": self.settings["recipe"], "tasks": list(self.tasks), "history_length": self.spec["history_length"], "form": vars(self.form)}
        told |= {"max_query_tokens": self.settings["max_query_tokens"], "text_size": self.vocabulary.text_size, "pairs": self.spec["pairs"]}
        if "candidates" in self.spec:
            first = Path(self.spec["candidates"])
            held = hashlib.sha256((first / artifact.MANIFEST).read_bytes()).hexdigest()
            told |= {"candidates": first.name, "candidates_hash": held, "depth": self.spec["depth"], "weights": self.weights}
        return {"t5": self.model.unified.shape(), **told}

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        batch = self.train.take(rows)
        answers = None if self.answers is None else self.answers.take(rows)
        candidates = self.drawing.candidates(batch, (self.settings["seed"], 1, self.progress.step, self.rank), answers)
        told = pairs.answer(self.wrapped, self.prompts, batch, candidates, self.spec["history_length"])
        return told.losses.mean() + self.form.weight * told.contrast

    def validate(self) -> dict[str, float]:
        """NDCG@10 and Recall@10 of each task."""
        scorer, figures = self.scorer(), {}
        for task in self.tasks:
            rows = np.flatnonzero(self.valid.task == TASKS.index(task))
            if not len(rows):
                continue
            ranks = self.among_others(scorer, task, self.valid.take(rows)) if self.candidates is None else self.weighed(scorer, task, rows)[1]
            figures |= {f"{task}_ndcg@10": ndcg_at(ranks, 10), f"{task}_recall@10": recall_at(ranks, 10)}
        return figures

    def settle(self) -> None:
        """The weights by which the first stage's answers are ordered."""
        if self.candidates is None or not self.spec["pairs"]["blend"]:
            return
        scorer = self.scorer()
        for task in self.tasks:
            self.weights[task] = self.weighed(scorer, task, np.flatnonzero(self.valid.task == TASKS.index(task)))[0]
            log.info("%s: candidates are in the order of %s", task, choice.formula(self.weights[task]))

    def weighed(self, scorer: Scorer, task: str, rows: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """By which of the first stage's answers these valid requests chose: each feature's weight, and the right items' ranks, int64 [rows], 0 for one that
        was no candidate."""
        held, (items, scores) = self.valid.take(rows), self.candidates
        candidates, names = items.take(rows), scorer.feature_names(task)
        right = [int(np.append(np.flatnonzero(offered == target), -1)[0]) for offered, target in zip(candidates, held.target, strict=True)]
        features = scorer.features(task, list(held.history), list(held.query), list(candidates), [scores[row] for row in rows])
        weights = choice.fit(names, features, right) if self.spec["pairs"]["blend"] else {"odds": 1.0}
        utilities = [choice.utility(weights, names, of) for of in features]
        ranks = [int((utility >= utility[place]).sum()) if place >= 0 else 0 for utility, place in zip(utilities, right, strict=True)]
        return weights, np.array(ranks, np.int64)

    def scorer(self) -> Scorer:
        return Scorer(self.kept(), self.config(), self.prompts)

    def among_others(self, scorer: Scorer, task: str, held: Requests) -> np.ndarray:
        """int64 [n], the right items' ranks among AMONG others, drawn once for all epochs."""
        drawing = replace(self.drawing, per=min(AMONG, len(self.item_ids) // 2))
        candidates = drawing.candidates(held, (self.settings["seed"], 2))
        scores = np.stack(scorer.score(task, list(held.history), list(held.query), candidates.tolist()))
        return 1 + (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
