"""Training examples a second against the plain Hugging Face loop, in turns on the same rows, and the loss both reach.

    TANDEM_DATA=… python tests/benchmarks/training.py [atomic codes] [--lake FOLDER]          (the Beauty paper set's real lengths)

Each contestant is a process of its own with one thread and the tiny backbone, its dropout .2, and AdamW at 1e-3; a turn is `--rows` examples. The plain loop
pads shuffled batches to their longest prompt, asks T5ForConditionalGeneration for the loss over the whole vocabulary in fp32 and runs torch's AdamW with
glibc's allocator as it comes; the tuned one groups batches by length, computes in bf16, takes oneDNN and keeps freed memory. Each at batches of 64 and
256, of which the faster counts; compiled ones (ours by `train.compiled`, theirs by torch.compile, both dynamic) at 256. Everybody's decoder begins with PAD.
After its turns each contestant tells its mean loss on held-out rows, over item tokens alone, at batches of 256, and the share of its seconds that went into
making batches. A first turn of 2,048 examples warms up; its seconds, compiling among them, are told apart.

Writes tests/benchmarks/results/speed_training_NAMES.json and the figure `train_vs_hf`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from decode import TUNED, read
from figures import keep, origin, ratio, write
from quality import begun, verb

NAMES = {  # without pointers, which the plain loop has none of
    "atomic": ["train.pointers=0"],
    "codes": ["identifiers.scheme=semantic", "identifiers.construction=content", "identifiers.levels=3", "train.softmax=all"],
}
# contestant → (what runs, precision, compiled, tuned, batch sizes)
CONTESTANTS = {
    "tandem fp32": ("tandem", "fp32", False, True, (256,)),
    "tandem bf16": ("tandem", "bf16", False, True, (256,)),
    "tandem bf16 compiled": ("tandem", "bf16", True, True, (256,)),
    "hf": ("hf", "fp32", False, False, (64, 256)),
    "hf tuned": ("hf", "bf16", False, True, (64, 256)),
    "hf tuned compiled": ("hf", "bf16", True, True, (256,)),
}
HELD_OUT = FIRST = 2048


def training_of(spec: dict[str, Any], precision: str, compiled: bool, batch: int) -> Any:
    from model.train_unified import UnifiedTraining

    return UnifiedTraining(spec | {"train": spec["train"] | {"precision": precision, "compiled": compiled, "batch_size": batch, "warmup_share": 0.0}})


def tandem(spec: dict[str, Any], precision: str, compiled: bool, batch: int) -> tuple[Any, Any]:
    """Functions: of nothing, one step that returns how many rows it learnt from; of row numbers of the validation rows, their losses."""
    import torch

    from model import data

    training = training_of(spec, precision, compiled, batch)
    pad = np.zeros(len(training.model.level_sizes), np.int64)
    training.phrasing.start = lambda ask: pad  # ours begins with the latest item, and learns another curve

    def rows() -> Iterator[np.ndarray]:
        while True:
            yield from data.batches(training.train, training.lengths, batch, "proportional", 0, training.progress.epoch, training.chance)
            training.progress.epoch += 1

    made = rows()
    training.epochs = 10**6  # the learning rate stays where it is

    def step() -> int:
        training.model.train()
        chosen = next(made)
        training.train_step(chosen)
        training.progress.step += 1
        return len(chosen)

    @torch.no_grad()
    def losses(chosen: np.ndarray) -> np.ndarray:
        training.model.eval()
        batch = data.collate(data.asks(training.valid, chosen, np.zeros(len(chosen), bool)), training.phrasing, np.zeros(len(chosen), int))
        return training.model(*map(torch.from_numpy, batch)).numpy()

    return step, losses


def hf(spec: dict[str, Any], precision: str, compiled: bool, batch: int) -> tuple[Any, Any]:
    import torch
    from torch.nn import functional as F
    from transformers import T5ForConditionalGeneration

    from model import data

    training, tuned = training_of(spec, "fp32", False, batch), precision == "bf16"
    held = training.model.t5
    torch.set_float32_matmul_precision("medium" if tuned else "highest")
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(held.config)
    model.shared.weight.data.copy_(held.shared.weight.data)  # the same beginning: drawn, or of the items' vectors
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    if compiled:
        model.compile(dynamic=True)
    first, rng = training.model.first_answer, np.random.default_rng(0)

    def rows() -> Iterator[np.ndarray]:
        epoch = 0
        while True:
            if tuned:
                yield from data.batches(training.train, training.lengths, batch, "proportional", 0, epoch, training.chance)
            else:
                shuffled = rng.permutation(len(training.train))
                yield from (shuffled[i : i + batch] for i in range(0, len(shuffled), batch))
            epoch += 1

    made = rows()

    def collated(examples: Any, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        source, _, target = data.collate(data.asks(examples, chosen, np.zeros(len(chosen), bool)), training.phrasing, np.zeros(len(chosen), int))
        return torch.from_numpy(source), torch.from_numpy(target)

    def step() -> int:
        model.train()
        chosen = next(made)
        source, target = collated(training.train, chosen)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=source, attention_mask=(source != 0).long(), labels=target.masked_fill(target == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return len(chosen)

    @torch.no_grad()
    def losses(chosen: np.ndarray) -> np.ndarray:
        model.eval()
        source, target = collated(training.valid, chosen)
        logits = model(input_ids=source, attention_mask=(source != 0).long(), labels=target).logits[..., first:]
        return F.cross_entropy(logits.transpose(1, 2), target - first, reduction="none").sum(1).numpy()

    return step, losses


def contestant(name: str, batch: int, spec: dict[str, Any]) -> int:
    """A process: for each line `go ROWS` on stdin learns from as many and prints the seconds; at the end it prints its loss on held-out rows."""
    import torch

    torch.set_num_threads(1)
    kind, precision, compiled, _, _ = CONTESTANTS[name]
    step, losses = {"tandem": tandem, "hf": hf}[kind](spec, precision, compiled, batch)
    whole, making = 0.0, timed_input()
    print("ready", flush=True)
    for line in sys.stdin:
        wanted, begun = int(line.split()[1]), time.perf_counter()
        while wanted > 0:
            wanted -= step()
        whole += (taken := time.perf_counter() - begun)
        print(taken, flush=True)
    share = making[0] / whole
    print(float(np.mean(np.concatenate([losses(np.arange(i, i + 256)) for i in range(0, HELD_OUT, 256)]))), flush=True)
    print(share, flush=True)
    return 0


def timed_input() -> list[float]:
    """The seconds from now on that go into drawing batches and rendering prompts, which is all that stands between a table and a step."""
    from model import data

    spent = [0.0]

    def timed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            begun = time.perf_counter()
            made = function(*arguments)
            spent[0] += time.perf_counter() - begun
            return made

        return call

    data.collate, data.batches = timed(data.collate), timed(data.batches)
    return spent


def race(path: Path, rounds: int, rows: int) -> list[dict[str, Any]]:
    running: dict[tuple[str, int], subprocess.Popen[str]] = {}
    for name, (_, _, _, tuned, batches) in CONTESTANTS.items():
        for batch in batches:
            command = [sys.executable, __file__, "--contestant", name, "--batch", str(batch), "--spec", str(path)]
            limits = {**os.environ, **(TUNED if tuned else {}), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            running[name, batch] = subprocess.Popen(command, env=limits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if read(running[name, batch], name) != "ready":
                raise RuntimeError(f"{name} at batch {batch} did not start")
    speeds: dict[tuple[str, int], list[float]] = {key: [] for key in running}
    for turn in range(-1, rounds):  # the first warms up
        for key, process in running.items():
            count = FIRST if turn < 0 else rows
            process.stdin.write(f"go {count}\n")
            process.stdin.flush()
            speeds[key].append(round(count / float(read(process, key[0])), 1))
        print(f"round {turn + 1} of {rounds}: " + ", ".join(f"{n} {b}: {s[-1]}" for (n, b), s in speeds.items()), flush=True)
    losses, shares = {}, {}
    for key, process in running.items():
        process.stdin.close()
        losses[key] = float(read(process, key[0]))
        shares[key] = float(read(process, key[0]))
        process.wait()
    made = []
    for name in CONTESTANTS:
        best = max((key for key in speeds if key[0] == name), key=lambda key: float(np.median(speeds[key][1:])))
        row = {"contestant": name, "batch": best[1], "median": float(np.median(speeds[best][1:])), "rounds": speeds[best][1:]}
        row["first_seconds"] = round(FIRST / speeds[best][0], 1)
        made.append(row | {"loss_at_256": round(losses[name, 256], 4), "input_share": round(shares[best], 4)})
    return made


def spec_of(folder: Path, day: date, names: list[str]) -> dict[str, Any]:
    """As the verb `train` would write it."""
    from jobs.config import load
    from jobs.spark import session, versions
    from jobs.train import INPUTS, specification

    config = load(str(folder / "config.toml"), [*names, 'train.tasks=["recommend"]', "warehouse.searches=none", "corpora.history_length=20"])
    spark = session(config)
    held = versions(spark, config, INPUTS)
    spark.stop()
    return specification(config, day, held, held, None)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=list(NAMES), metavar="NAMES")
    options.add_argument("--lake", default=".tandem/benchmarks/training")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rows", type=int, default=10_240)
    options.add_argument("--contestant", help=argparse.SUPPRESS)
    options.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.contestant:
        return contestant(chosen.contestant, chosen.batch, json.loads(chosen.spec.read_text()))
    if "TANDEM_DATA" not in os.environ:
        print("TANDEM_DATA is not set: it names the folder that holds amazon_beauty_paper", file=sys.stderr)
        return 69
    folder = Path(chosen.lake).resolve()
    day = begun("beauty_paper", folder, ("ingest", "build_corpora", "embed_items"), [])
    for name in chosen.names:
        verb(folder, day, "assign_identifiers", NAMES[name])
        path = folder / f"spec-{name}.json"
        path.write_text(json.dumps(spec_of(folder, day, NAMES[name])))
        found = race(path, chosen.rounds, chosen.rows)
        command = f"python tests/benchmarks/training.py {name} --rounds {chosen.rounds} --rows {chosen.rows}"
        common = origin(command, "amazon_beauty_paper", [0], "torch", "transformers", more="1 thread")
        keep(f"speed_training_{name}", {"names": name, "rows": found, **common})
        print(json.dumps(found, indent=1))
        if name == "codes":
            row = {each["contestant"]: each for each in found}
            write([ratio("train_vs_hf", row["tandem bf16 compiled"]["rounds"], row["hf"]["rounds"], "hf", row["hf"]["median"])], common)
    return 0


if __name__ == "__main__":
    sys.exit(main())
