"""The training of a recipe that names items (bridge, gensar): prompts to identifiers, by the unified model.

Reads corpora, items, item_embeddings and item_identifiers at the versions the specification pins. Knows no checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import artifact, choice, corpus, data, initial
from model.derived import derived
from model.loop import BadCorpus, Training, log
from model.metrics import ndcg_at, recall_at
from model.neighbours import neighbours
from model.phrasings import phrasing_of
from model.pointers import Pointers, carried, pointing
from model.popularity import Popularity
from model.prompts import Ask
from model.rank import VIEWS, Answer, Ranker
from model.recipes import RECIPES, SERVED
from model.unchosen import estimated
from model.unified import INITIAL_STD, SIZES, UnifiedModel, from_checkpoint, from_sizes
from model.valid import CERTAIN, FREE, Valid
from model.vocabulary import Vocabulary

BEAMS = 20  # of an answer to a valid example
TRUSTS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)  # `Pointers.trust`; validation of three logs chose 1.5, 2, and of these the most


class UnifiedTraining(Training):
    def load_data(self) -> None:
        self.order: dict[str, dict[str, float]] = {}
        spec, seed = self.spec, self.settings["seed"]
        self.tasks = tuple(task for task in RECIPES[self.settings["recipe"]].tasks if task in self.settings["tasks"])
        self.item_ids, codes = data.read_identifiers(*spec["tables"]["item_identifiers"], corpus.day_of(spec), spec["scheme"])
        rows = corpus.splits(spec)
        self.vocabulary = corpus.make_vocabulary(spec, codes, rows["train"])
        self.phrasing = phrasing_of(self.settings["recipe"])(self.vocabulary, self.settings | {"history_length": spec["history_length"]})
        train, valid = (self.examples(rows[split]) for split in ("train", "valid"))
        self.popularity = Popularity.of(train, len(self.item_ids)) if self.settings["similarity"] else None
        texts = corpus.item_texts(spec, self.item_ids) if set(self.tasks) - set(SERVED) else []
        how = [self.settings[key] for key in ("max_text_tokens", "pseudo_queries", "pseudo_per_item")]
        train = derived(train, self.tasks, texts, self.vocabulary, *how, seed)
        self.train = data.capped(train, self.settings["max_per_item"], seed)
        self.valid = valid.take(self.draw_valid(valid))
        if len(self.train) == 0:
            found = sum(map(len, rows.values()))
            raise BadCorpus(f"no training example for tasks {self.tasks} up to {spec['valid_from']} in corpora ({found} training and validation rows)")
        missing = [task for i, task in enumerate(self.tasks) if not (self.train.task == i).any()]
        if missing:
            raise BadCorpus(f"no training example for task {', '.join(missing)} before {spec['valid_from']}: leave it out of train.tasks, or widen the window")
        counts = {task: int((self.train.task == i).sum()) for i, task in enumerate(self.tasks)}
        log.info("%s training and %d validation examples, %d items, %d tokens", counts, len(self.valid), len(self.item_ids), self.vocabulary.size)

    def examples(self, rows: Any) -> data.Examples:
        """Of the tasks that are served."""
        found = data.encode(rows, SERVED, self.item_ids, self.vocabulary, self.settings["max_query_tokens"], self.phrasing)
        return found.take(np.flatnonzero(corpus.learnable(found, SERVED.index("recommend"), self.spec["exclude_seen"])))

    def draw_valid(self, valid: data.Examples) -> np.ndarray:
        rng = np.random.default_rng(self.settings["seed"])
        rows = [np.flatnonzero(valid.task == number) for number, task in enumerate(valid.tasks) if task in self.tasks]
        return np.sort(np.concatenate([rng.permutation(r)[: self.settings["max_valid_rows"]] for r in rows])).astype(np.int64)

    def make_model(self) -> UnifiedModel:
        settings, vocabulary = self.settings, self.vocabulary
        if settings["backbone"] in SIZES:
            shape = vocabulary.text_size, vocabulary.level_sizes, settings["dropout"], settings["tied"], self.phrasing.whole_vocabulary
            model = from_sizes(settings["backbone"], *shape)
        else:
            shape = vocabulary.level_sizes, settings["dropout"], vocabulary.text_size, self.phrasing.whole_vocabulary
            model = from_checkpoint(settings["backbone"], *shape)
        valid = settings["softmax"] == "valid" and vocabulary.depth > 1  # with one token per item all of them may follow
        points = settings["pointers"] > 0 and (valid or (vocabulary.depth == 1 and not self.phrasing.whole_vocabulary))
        if settings["pointers"] and not points:
            log.info("train.pointers = %s has no effect: names of several codes have pointers with train.softmax = valid alone", settings["pointers"])
        if valid or points:
            model.valid = Valid(vocabulary)
        if points:
            texts = carried(vocabulary, corpus.item_texts(self.spec, self.item_ids), initial.WORDS)
            near = neighbours(self.train, len(self.item_ids), settings["neighbours"]) if settings["neighbours"] else None
            model.pointers = Pointers.of(texts, vocabulary.text_size, near)
        begin, views = settings["item_init"] == "vectors", {}
        if begin or settings["similarity"]:
            views = initial.item_views(*self.spec["tables"]["item_embeddings"], corpus.day_of(self.spec), self.item_ids)
        if begin:
            self.begin_rows(model, views)
        self.texts = views.get("text")
        self.views = {f"{VIEWS}{name}": torch.from_numpy(rows).half().to(self.device) for name, rows in views.items() if settings["similarity"]}
        if self.spec["parent"]:
            weights, held, _, _, _ = artifact.load(Path(self.spec["parent"]))
            adopt(model, weights, held, vocabulary)
        return model

    @torch.no_grad()
    def begin_rows(self, model: UnifiedModel, views: Mapping[str, np.ndarray]) -> None:
        """Identifier rows (and, from scratch, text rows) begin at the items' vectors; a checkpoint's own words keep what they mean."""
        spec, weight = self.spec, model.t5.shared.weight
        vectors = initial.item_vectors(views, weight.shape[1], self.settings["seed"])
        std = INITIAL_STD if self.settings["backbone"] in SIZES else float(weight[: self.vocabulary.text_size].std())
        rows = torch.from_numpy(initial.token_rows(vectors, corpus.item_texts(spec, self.item_ids), self.vocabulary, std))
        known = rows.abs().sum(dim=1) > 0
        if self.settings["backbone"] not in SIZES:
            known[: self.vocabulary.text_size] = False
        for embedding in {id(p): p for p in (weight, model.t5.lm_head.weight)}.values():
            embedding[known] = rows[known].to(embedding.dtype)

    def kept(self) -> dict[str, torch.Tensor]:
        kept = artifact.weights_of(self.model) | self.views
        for part in (self.model.pointers, self.popularity):
            kept |= part.kept() if part is not None else {}
        return kept

    def config(self) -> dict[str, Any]:
        told = {"t5": self.model.shape(), "recipe": self.settings["recipe"], "tasks": list(self.tasks), "history_length": self.spec["history_length"]}
        kept = ("max_query_tokens", "history_in_search", "history_per_behaviour", "behaviour_tokens", "softmax", "answer_precision")
        return told | {key: self.settings[key] for key in kept} | ({"order": self.order} if self.order else {})

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        rng = np.random.default_rng((self.settings["seed"], 1, self.progress.step, self.rank))
        personal = rng.random(len(rows)) < self.settings["history_in_search"]
        draws = rng.integers(0, 1 << 16, len(rows))
        asks = data.asks(self.train, rows, personal)
        parts = dict(zip(("source", "start", "target"), data.collate(asks, self.phrasing, draws), strict=True))
        named = [self.phrasing.named(ask.task, draw) for ask, draw in zip(asks, draws.tolist(), strict=True)]
        if self.model.valid and self.vocabulary.depth > 1:
            parts["nodes"] = self.followed(asks, named, parts["target"])
        placed: dict[str, Any] = {name: torch.from_numpy(part) for name, part in parts.items()}
        if self.model.pointers:
            views = list(self.vocabulary.codes)
            whose = (rng.random(len(rows)) < self.settings["pointers"]).tolist()
            placed["pointing"] = pointing(asks, whose, self.train.user[rows])
            placed["views"] = torch.tensor([views.index(self.vocabulary.view(task)) if task else -1 for task in named])
        placed = {name: part.to(self.device) for name, part in placed.items()}
        return self.wrapped(**placed, label_smoothing=self.settings["label_smoothing"]).mean()

    def followed(self, asks: Sequence[Ask], named: Sequence[str | None], target: np.ndarray) -> np.ndarray:
        """int64, as target: the node of `Valid` that each token of an identifier follows; around it all is certain, in a text anything may follow."""
        nodes = np.full(target.shape, FREE)
        for i, (ask, task) in enumerate(zip(asks, named, strict=True)):
            if task is not None:
                above, first = self.model.valid.above[self.vocabulary.view(task)][ask.item], len(self.phrasing.opening(ask.task))
                nodes[i] = CERTAIN
                nodes[i, first : first + len(above)] = above
        return nodes

    def counted_tokens(self) -> np.ndarray:
        return self.phrasing.lengths(self.train)

    def settle(self) -> None:
        """Rows of items that nothing taught, how far the answers to each task trust neighbours, and then by which weights the best of them are ordered."""
        self.settle_unchosen()
        self.settle_trust()
        if self.views:
            self.settle_order()

    @torch.no_grad()
    def settle_unchosen(self) -> None:
        """Rows of items that no example chose, where an item is one token; a code that names several was chosen for others."""
        chosen = np.bincount(self.train.target, minlength=len(self.item_ids)) > 0
        if self.vocabulary.depth > 1 or self.texts is None or chosen.all():
            return
        (codes,) = self.vocabulary.item_tokens.values()
        tokens, weights = torch.from_numpy(codes[:, 0].astype(np.int64)).to(self.device), self.model.t5
        for rows in {id(p): p for p in (weights.shared.weight, weights.lm_head.weight)}.values():
            told = estimated(rows[tokens].float().cpu().numpy(), self.texts, chosen)
            rows[tokens[torch.from_numpy(~chosen).to(self.device)]] = torch.from_numpy(told).to(rows)
        log.info("%d of %d items are in no training example: their rows are told from their texts", (~chosen).sum(), len(chosen))

    def settle_order(self) -> None:
        """By which of their answers the valid examples chose (`model.choice`): they are new to the model."""
        ranker = self.ranker()
        for task in (task for task in SERVED if task in self.tasks):
            held, asks, answers = self.answered(ranker, task, ranker.depth(10, BEAMS))
            chosen = [rank_of(rows, target) - 1 for (rows, _), target in zip(answers, held.target, strict=True)]
            self.order[task] = choice.fit(ranker.feature_names, ranker.features(task, ranker.shown(task, asks), answers), chosen)
            log.info("%s: answers are in the order of %s", task, choice.formula(self.order[task]))

    def settle_trust(self) -> None:
        """How far the answers to each task trust neighbours."""
        if not (self.model.pointers and self.settings["neighbours"]):
            return
        trust, found = self.model.pointers.trust, []
        for factor in TRUSTS:
            trust.fill_(factor)
            found.append(self.judged(self.validate()))
        trust.fill_(1.0)
        for task in found[0]:
            number, reached = SERVED.index(task), [figures[task] for figures in found]
            trust[number] = TRUSTS[int(np.argmax(reached))]  # the first of equals: as in training where nothing tells
            log.info("%s: neighbours are trusted %g times as in training: validation NDCG@10 %s at %s", task, trust[number], np.round(reached, 4), TRUSTS)

    def validate(self) -> dict[str, float]:
        """Over the whole catalogue."""
        self.model.eval()
        ranker, figures = self.ranker(), {}
        for task in (task for task in SERVED if task in self.tasks):
            held, _, answers = self.answered(ranker, task, 10)
            if not len(held):
                continue
            ranks = np.array([rank_of(answer[0], target) for answer, target in zip(answers, held.target, strict=True)])
            figures |= {f"{task}_ndcg@10": ndcg_at(ranks, 10), f"{task}_recall@10": recall_at(ranks, 10)}
        return figures

    def ranker(self) -> Ranker:
        return Ranker(self.kept(), self.vocabulary, self.item_ids, self.config(), {})

    def answered(self, ranker: Ranker, task: str, k: int) -> tuple[data.Examples, list[Ask], list[Answer]]:
        """The task's valid examples, what they ask, and what is answered."""
        held = self.valid.take(np.flatnonzero(self.valid.task == self.valid.tasks.index(task)))
        asks = [held.ask(row) for row in range(len(held))]
        hidden = [ask.items for ask in asks] if task == "recommend" and self.spec["exclude_seen"] else None
        return held, asks, ranker.rank_asks(task, asks, k, BEAMS, hidden)


def rank_of(answer: np.ndarray, target: int) -> int:
    """1-based position of the target among the answered rows; 0 where it is not among them."""
    found = np.flatnonzero(answer == target)
    return int(found[0]) + 1 if len(found) else 0


@torch.no_grad()
def adopt(model: UnifiedModel, weights: dict[str, torch.Tensor], held: Vocabulary, vocabulary: Vocabulary) -> None:
    """Take over a parent's weights; embedding rows move with their level where the catalogue has grown, new rows keep their draw."""
    for name, parameter in model.named_parameters():
        old = weights.get(name, parameter)  # a parent of before neighbours has no weight of theirs
        if old.shape == parameter.shape:
            parameter.copy_(old)
            continue
        parameter[: held.text_size] = old[: held.text_size]  # the marks among them
        for size, before, after in zip(held.level_sizes, held.level_offsets, vocabulary.level_offsets, strict=True):
            parameter[held.text_size + after : held.text_size + after + size] = old[held.text_size + before : held.text_size + before + size]
