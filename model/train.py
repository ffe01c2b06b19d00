"""Train one model from a specification: `python -m model.train SPEC.json`, or `torchrun … -m model.train SPEC.json`.

Reads Delta tables at the versions the specification pins; writes checkpoints and, at the end, one artifact. Knows no Spark.

Killed and started again, it goes on from the last whole checkpoint to the same weights: an epoch's batches are a function of (seed,
epoch), and the generator is seeded anew at every step, so there is no random state to store. One training at a time writes a work folder.
Exit codes: 0 done, 65 bad data, 75 another training is at work there.
"""

import fcntl
import json
import logging
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow.compute as pc
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from model import artifact, data, initial, sentences
from model.derived import derived
from model.metrics import ndcg_at, recall_at
from model.phrasings import phrasing_of
from model.rank import Ranker
from model.recipes import RECIPES, SERVED
from model.unified import INITIAL_STD, SIZES, UnifiedModel, from_checkpoint, from_sizes, parameter_groups
from model.vocabulary import MARKS, Vocabulary, train_tokenizer

log = logging.getLogger("tandem.train")
COLUMNS = ("example_id", "task", "user_id", "history", "query", "target_item_id", "event_ts", "split")


class BadCorpus(Exception):
    """Nothing sound to train on, or a loss that is not a number: exit 65."""


@dataclass
class Progress:
    """Where a training stands; all that a checkpoint holds besides tensors."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    loss_sum: float = 0.0


class Training:
    """One training: the specification, its data, the model, and the optimizer."""

    def __init__(self, spec: dict[str, Any]):
        self.spec, self.settings = spec, spec["train"]
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if self.world > 1:
            distributed.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(self.device)
        elif not torch.cpu._is_amx_tile_supported():
            # MKL takes its AVX2 path on AMD; oneDNN is 1.3 times as fast on a whole step and still fp32, but would round to bf16 on AMX.
            torch.set_float32_matmul_precision("medium")
        self.autocast = self.settings["precision"] == "bf16" or (self.settings["precision"] == "auto" and cuda)
        torch.manual_seed(self.settings["seed"])
        self.load_data()
        self.model = self.make_model().to(self.device)
        self.wrapped: torch.nn.Module = DistributedDataParallel(self.model) if self.world > 1 else self.model
        groups = parameter_groups(self.model, self.settings["weight_decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=self.settings["learning_rate"], fused=True)
        self.epochs = self.settings["warm_epochs"] if spec["parent"] else self.settings["epochs"]
        self.chance = data.chances(self.train, self.settings["half_life_days"])
        self.batches_per_epoch = math.ceil(self.chance.sum() / self.settings["batch_size"]) // self.world or 1
        self.progress, self.curve = Progress(), []
        self.best_weights = artifact.weights_of(self.model)

    # -- data ---------------------------------------------------------------------------------------------------------------

    def load_data(self) -> None:
        spec, day = self.spec, date.fromisoformat(self.spec["day"])
        self.tasks = tuple(task for task in RECIPES[self.settings["recipe"]].tasks if task in self.settings["tasks"])
        self.item_ids, codes = data.read_identifiers(*spec["tables"]["item_identifiers"], day, spec["scheme"])
        corpora = data.read_table(*spec["tables"]["corpora"], [*COLUMNS], until=day)
        corpora = corpora.sort_by([("event_ts", "ascending"), ("example_id", "ascending")])  # files lie in no order: the same rows, the same model
        splits = data.split_of(corpora, datetime.fromisoformat(spec["valid_from"]), datetime.fromisoformat(spec["test_from"]))
        train = corpora.filter(splits == "train")
        self.vocabulary = self.make_vocabulary(codes, train, day)
        self.phrasing = phrasing_of(self.settings["recipe"])(self.vocabulary, self.settings | {"history_length": self.spec["history_length"]})
        limit = self.settings["max_query_tokens"]
        examples = self.servable(data.encode(train, SERVED, self.item_ids, self.vocabulary, limit, self.phrasing))
        texts = self.item_texts(day) if set(self.tasks) - set(SERVED) else []
        settings = self.settings["max_text_tokens"], self.settings["pseudo_queries"], self.settings["seed"]
        self.train = data.capped(derived(examples, self.tasks, texts, self.vocabulary, *settings), self.settings["max_per_item"], self.settings["seed"])
        valid = self.servable(data.encode(corpora.filter(splits == "valid"), SERVED, self.item_ids, self.vocabulary, limit, self.phrasing))
        self.valid = valid.take(self.draw_valid(valid))
        if len(self.train) == 0:
            raise BadCorpus(f"no training example for tasks {self.tasks} up to {spec['valid_from']} in corpora ({len(corpora)} rows in all)")
        missing = [task for i, task in enumerate(self.tasks) if not (self.train.task == i).any()]
        if missing:
            raise BadCorpus(f"no training example for task {', '.join(missing)} before {spec['valid_from']}: leave it out of train.tasks, or widen the window")
        counts = {task: int((self.train.task == i).sum()) for i, task in enumerate(self.tasks)}
        log.info("%s training and %d validation examples, %d items, %d tokens", counts, len(self.valid), len(self.item_ids), self.vocabulary.size)

    def servable(self, examples: data.Examples) -> data.Examples:
        """Where items of the history are not recommended again, they are not learnt as answers either."""
        if not self.spec["exclude_seen"]:
            return examples
        return examples.take(np.flatnonzero(~(examples.repeats & (examples.task == examples.tasks.index("recommend")))))

    def draw_valid(self, valid: data.Examples) -> np.ndarray:
        rng = np.random.default_rng(self.settings["seed"])
        rows = [np.flatnonzero(valid.task == number) for number, task in enumerate(valid.tasks) if task in self.tasks]
        return np.sort(np.concatenate([rng.permutation(r)[: self.settings["max_valid_rows"]] for r in rows])).astype(np.int64)

    def make_vocabulary(self, codes: dict[str, np.ndarray], train: Any, day: date) -> Vocabulary:
        """The parent's, a checkpoint's, or one trained on the items' texts and the training queries of at least two users."""
        if self.spec["parent"]:
            _, held, _, _, _ = artifact.load(Path(self.spec["parent"]))
            return Vocabulary.build(held.tokenizer, held.text_size - len(MARKS), codes, self.spec["shared_levels"], held.level_sizes)
        if self.settings["backbone"] not in SIZES:
            from transformers import AutoConfig, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self.settings["backbone"]).backend_tokenizer
            return Vocabulary.build(tokenizer, AutoConfig.from_pretrained(self.settings["backbone"]).vocab_size, codes, self.spec["shared_levels"])
        texts = data.read_table(*self.spec["tables"]["items"], ["text"], day=day)["text"].to_pylist()
        # What one person alone has typed may tell who they are, and a token is read by whoever reads the artifact.
        asked = train.group_by("query").aggregate([("user_id", "count_distinct")])
        queries = sorted(asked.filter(pc.greater(asked["user_id_count_distinct"], 1))["query"].drop_null().to_pylist())
        if RECIPES[self.settings["recipe"]].prompts == "sentences":
            texts += 2 * sentences.texts()  # twice: what occurs once gets no token of its own
        tokenizer = train_tokenizer([*texts, *queries], self.settings["text_vocabulary"])
        return Vocabulary.build(tokenizer, tokenizer.get_vocab_size(), codes, self.spec["shared_levels"])

    # -- model --------------------------------------------------------------------------------------------------------------

    def make_model(self) -> UnifiedModel:
        settings, vocabulary = self.settings, self.vocabulary
        if settings["backbone"] in SIZES:
            shape = vocabulary.text_size, vocabulary.level_sizes, settings["dropout"], settings["tied"], self.phrasing.whole_vocabulary
            model = from_sizes(settings["backbone"], *shape)
        else:
            shape = vocabulary.level_sizes, settings["dropout"], vocabulary.text_size, self.phrasing.whole_vocabulary
            model = from_checkpoint(settings["backbone"], *shape)
        if settings["item_init"] == "vectors":
            self.begin_rows(model)
        if self.spec["parent"]:
            weights, held, _, _, _ = artifact.load(Path(self.spec["parent"]))
            adopt(model, weights, held, vocabulary)
        return model

    def item_texts(self, day: date) -> list[str]:
        """Of each item row; "" for an item that left the catalogue."""
        table = data.read_table(*self.spec["tables"]["items"], ["item_id", "text"], day=day)
        text_of = dict(zip(table["item_id"].to_pylist(), table["text"].to_pylist(), strict=True))
        return [text_of.get(item, "") for item in self.item_ids]

    @torch.no_grad()
    def begin_rows(self, model: UnifiedModel) -> None:
        """Identifier rows (and, from scratch, text rows) begin at the items' vectors; a checkpoint's own words keep what they mean."""
        day, weight = date.fromisoformat(self.spec["day"]), model.t5.shared.weight
        vectors = initial.item_vectors(*self.spec["tables"]["item_embeddings"], day, self.item_ids, weight.shape[1], self.settings["seed"])
        std = INITIAL_STD if self.settings["backbone"] in SIZES else float(weight[: self.vocabulary.text_size].std())
        rows = torch.from_numpy(initial.token_rows(vectors, self.item_texts(day), self.vocabulary, std))
        known = rows.abs().sum(dim=1) > 0
        if self.settings["backbone"] not in SIZES:
            known[: self.vocabulary.text_size] = False
        for embedding in {id(p): p for p in (weight, model.t5.lm_head.weight)}.values():
            embedding[known] = rows[known].to(embedding.dtype)

    def kept(self) -> dict[str, torch.Tensor]:
        """What the artifact keeps of the model."""
        return artifact.weights_of(self.model)

    def config(self) -> dict[str, Any]:
        t5 = {key: value for key, value in self.model.t5.config.to_dict().items() if isinstance(value, (int, float, str, bool))}
        return {
            "t5": t5,
            "recipe": self.settings["recipe"],
            "tasks": list(self.tasks),
            "history_length": self.spec["history_length"],
        } | {key: self.settings[key] for key in ("max_query_tokens", "history_in_search", "history_per_behaviour", "behaviour_tokens", "answer_precision")}

    # -- the loop -----------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the epochs are over or `patience` epochs bring nothing; leaves the best weights in the model."""
        self.resume()
        self.started = time.monotonic() - self.progress.seconds
        while self.progress.epoch < self.epochs and self.progress.epoch - max(self.progress.best_epoch, -1) <= self.settings["patience"]:
            self.run_epoch()
            self.end_epoch()
        self.model.load_state_dict(self.best_weights, strict=False)

    def run_epoch(self) -> None:
        made = data.batches(self.train, self.settings["batch_size"], self.settings["mixing"], self.settings["seed"], self.progress.epoch, self.chance)
        made = made[self.rank : len(made) - len(made) % self.world : self.world]
        self.model.train()
        told, rows, since = time.monotonic(), 0, time.monotonic()
        for index in range(self.progress.batch, len(made)):
            self.progress.loss_sum += self.train_step(made[index])
            self.progress.batch = index + 1
            self.progress.step += 1
            rows += len(made[index]) * self.world
            if time.monotonic() - told > 10:
                rate = rows / (time.monotonic() - since)
                left = ((len(made) - index) + (self.epochs - self.progress.epoch - 1) * len(made)) * self.settings["batch_size"] * self.world / rate
                told = time.monotonic()
                mean = self.progress.loss_sum / self.progress.batch
                log.info(
                    "epoch %d/%d, batch %d/%d, loss %.3f, %.0f rows/s, at most %.0f s left",
                    self.progress.epoch + 1,
                    self.epochs,
                    index + 1,
                    len(made),
                    mean,
                    rate,
                    left,
                )
            if self.progress.step % self.settings["checkpoint_steps"] == 0:
                self.checkpoint()

    def train_step(self, rows: np.ndarray) -> float:
        settings, step = self.settings, self.progress.step
        torch.manual_seed((settings["seed"] * 1_000_003 + step) * self.world + self.rank)  # dropout is a function of the step: nothing to restore
        total = self.epochs * self.batches_per_epoch
        warmup = max(1, round(total * settings["warmup_share"]))
        factor = min((step + 1) / warmup, max(0.02, (total - step) / max(1, total - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings["learning_rate"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise BadCorpus(f"loss is {value} at step {step}: lower train.learning_rate ({settings['learning_rate']}), or look for broken input")
        return value

    def loss(self, rows: np.ndarray) -> torch.Tensor:
        """The step's loss on these training examples; what it draws is a function of the step."""
        rng = np.random.default_rng((self.settings["seed"], 1, self.progress.step, self.rank))
        personal = rng.random(len(rows)) < self.settings["history_in_search"]
        batch = data.collate(self.train, rows, self.phrasing, personal, rng.integers(0, 1 << 16, len(rows)))
        return self.wrapped(*(torch.from_numpy(part).to(self.device) for part in batch), self.settings["label_smoothing"]).mean()

    def end_epoch(self) -> None:
        progress = self.progress
        point = {"epoch": progress.epoch + 1, "loss": progress.loss_sum / max(1, progress.batch), **self.validate()}
        # The geometric mean: a task whose figures are small counts as much as one whose figures are large.
        reached = [value for name, value in point.items() if name.endswith("ndcg@10")]
        score = float(np.exp(np.mean(np.log(np.maximum(reached, 1e-6))))) if reached else -point["loss"]
        if score > progress.best or progress.best_epoch < 0:
            progress.best, progress.best_epoch = score, progress.epoch + 1
            self.best_weights = {name: weight.clone() for name, weight in artifact.weights_of(self.model).items()}
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        point["seconds"] = round(time.monotonic() - self.started, 1)
        self.curve.append(point)
        log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in point.items()))
        self.checkpoint()

    def validate(self) -> dict[str, float]:
        """NDCG@10 and Recall@10 of each task over the whole catalogue; every process computes it, so that all stop together."""
        self.model.eval()
        ranker = Ranker(artifact.weights_of(self.model), self.vocabulary, self.item_ids, self.config(), {})
        figures = {}
        for task in (task for task in SERVED if task in self.tasks):
            held = self.valid.take(np.flatnonzero(self.valid.task == self.valid.tasks.index(task)))
            if not len(held):
                continue
            asks = [held.ask(row) for row in range(len(held))]
            hidden = [ask.items for ask in asks] if task == "recommend" and self.spec["exclude_seen"] else None
            answers = ranker.rank_asks(task, asks, 10, 20, hidden)
            ranks = np.array([rank_of(answer[0], target) for answer, target in zip(answers, held.target, strict=True)])
            figures |= {f"{task}_ndcg@10": ndcg_at(ranks, 10), f"{task}_recall@10": recall_at(ranks, 10)}
        return figures

    # -- checkpoints --------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """A folder per step, whole or absent; the newest two are kept."""
        self.progress.seconds = time.monotonic() - self.started
        if self.rank == 0:
            folder = Path(self.spec["work"])
            tensors = {f"model.{name}": weight for name, weight in artifact.weights_of(self.model).items()}
            tensors |= {f"best.{name}": weight for name, weight in self.best_weights.items()}
            for index, state in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
            files = {
                "state.safetensors": artifact.write_tensors({name: tensor.clone() for name, tensor in tensors.items()}),
                "progress.json": artifact.write_json(vars(self.progress)),
                "curve.json": artifact.write_json(self.curve),
            }
            artifact.write_folder(folder / f"checkpoint-{self.progress.step:09d}-{self.progress.epoch:04d}", files, {"spec_hash": self.spec["spec_hash"]})
            for old in sorted(folder.glob("checkpoint-*"))[:-2]:
                shutil.rmtree(old)
        if self.world > 1:
            distributed.barrier()

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole and of this specification; a damaged one is passed over, and said so."""
        for folder in sorted(Path(self.spec["work"]).glob("checkpoint-*"), reverse=True):
            try:
                if artifact.read_manifest(folder)["spec_hash"] != self.spec["spec_hash"]:
                    continue
            except ValueError as error:
                log.warning("checkpoint passed over: %s", error)
                continue
            tensors = artifact.load_file(folder / "state.safetensors")
            part = {prefix: {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)} for prefix in ("model.", "best.", "optimizer.")}
            self.model.load_state_dict(part["model."], strict=False)
            self.best_weights = {name: weight.to(self.device) for name, weight in part["best."].items()}
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, tensor in part["optimizer."].items():
                index, field = name.split(".", 1)
                state.setdefault(int(index), {})[field] = tensor
            self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
            self.progress = Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
            self.curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
            log.info("resumed from %s: epoch %d, step %d", folder.name, self.progress.epoch + 1, self.progress.step)
            return


def rank_of(answer: np.ndarray, target: int) -> int:
    """1-based position of the target among the answered rows; 0 where it is not among them."""
    found = np.flatnonzero(answer == target)
    return int(found[0]) + 1 if len(found) else 0


@torch.no_grad()
def adopt(model: UnifiedModel, weights: dict[str, torch.Tensor], held: Vocabulary, vocabulary: Vocabulary) -> None:
    """Take over a parent's weights; embedding rows move with their level where the catalogue has grown, new rows keep their draw."""
    for name, parameter in model.named_parameters():
        old = weights[name]
        if old.shape == parameter.shape:
            parameter.copy_(old)
            continue
        parameter[: held.text_size] = old[: held.text_size]  # the marks among them
        for size, before, after in zip(held.level_sizes, held.level_offsets, vocabulary.level_offsets, strict=True):
            parameter[held.text_size + after : held.text_size + after + size] = old[held.text_size + before : held.text_size + before + size]


def take(work: Path) -> TextIO:
    """The work folder's lock, held while the file is open: to the end of this process, however it ends. Closed where another process holds it."""
    work.mkdir(parents=True, exist_ok=True)
    lock = (work / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
    return lock


def kind(recipe: str) -> type[Training]:
    if RECIPES[recipe].second_stage:
        from model.train_pairs import PairTraining  # it builds on this module

        return PairTraining
    return Training


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    lock = take(Path(spec["work"])) if int(os.environ.get("RANK", 0)) == 0 else None
    if lock is not None and lock.closed:
        print(f"tandem: another training is at work in {spec['work']}", file=sys.stderr)
        return 75
    try:
        training = kind(spec["train"]["recipe"])(spec)
        training.fit()
    except BadCorpus as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 65
    if training.rank == 0:
        facts = {key: spec[key] for key in ("model_version", "day", "spec_hash", "parent", "tables")} | {"best_epoch": training.progress.best_epoch}
        artifact.save(Path(spec["output"]), training.kept(), training.vocabulary, training.item_ids, training.config(), training.curve, facts)
        shutil.rmtree(spec["work"], ignore_errors=True)
    if training.world > 1:
        distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
