"""Trie-constrained decoding against Hugging Face `generate`: users a second, in rounds that take turns, and whether the answers are the same.

    python tests/benchmarks/decode.py                       (all shapes: tiger, tiger_k50, small; or name some of them)

Random weights (norms' gains perturbed), 50,000 items of 4 random codes of 256, inputs of 64 tokens. Each contestant is a process of its own with one
thread: rivals by default (glibc's allocator as it comes) and tuned (no mmap for large blocks, matrix products by oneDNN; bf16), each at several batch
sizes, of which the fastest counts. A user is answered equally where sorted scores agree within 1e-3 nat and the sets of answers differ only by answers
within 2e-3 of the last score. CTranslate2, which knows no catalogue and so answers whatever it likes, is held against `generate` without one. The peak is
that of one large packed matrix product, measured in the same rounds.

Writes tests/benchmarks/results/decoding_SHAPE.json and a file per headline figure; with --elsewhere a decoding_SHAPE_elsewhere.json alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import keep, origin, ratio, write

LEVELS, CODES, ITEMS, LENGTH, USERS, ROUNDS, COMPARED = 4, 256, 50_000, 64, 512, 5, 64
SHAPES = {  # T5's sizes, and how many answers a user gets
    "tiger": ({"d_model": 128, "d_ff": 1024, "d_kv": 64, "num_heads": 6, "num_layers": 4, "num_decoder_layers": 4}, 20),
    "tiger_k50": ({"d_model": 128, "d_ff": 1024, "d_kv": 64, "num_heads": 6, "num_layers": 4, "num_decoder_layers": 4}, 50),
    "small": ({"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6}, 20),
}
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "1000000000"}
# contestant → (what runs, precision, environment, batch sizes)
CONTESTANTS: dict[str, tuple[str, str, dict[str, str], tuple[int, ...]]] = {
    "tandem fp32": ("tandem", "float32", {}, (16, 24, 32)),
    "tandem bf16": ("tandem", "bfloat16", {}, (16, 24, 32)),
    "hf": ("hf", "float32", {}, (8, 32)),
    "hf tuned": ("hf", "float32", TUNED, (8, 32)),
    "hf bf16": ("hf", "bfloat16", {}, (8, 32)),
    "hf bf16 tuned": ("hf", "bfloat16", TUNED, (8, 32)),
    "ctranslate2 fp32, no catalogue": ("ctranslate2", "float32", {}, (8, 16, 32)),
    "ctranslate2 int8, no catalogue": ("ctranslate2", "int8", {}, (8, 16, 32)),
    "peak fp32": ("peak", "float32", {}, (1,)),
    "peak bf16": ("peak", "bfloat16", {}, (1,)),
}


def megaflops(shape: str) -> float:
    """Useful work for one user, in millions of floating-point operations: keys and values of the input once for all beams, padding of none."""
    size, k = SHAPES[shape]
    d, ff, inner = size["d_model"], size["d_ff"], size["num_heads"] * size["d_kv"]
    own, dense = 4 * d * inner, 2 * d * ff
    encoder = size["num_layers"] * LENGTH * (own + dense + 2 * LENGTH * inner)
    cross = size["num_decoder_layers"] * LENGTH * 2 * d * inner
    steps = 1 + (LEVELS - 1) * k
    decoder = steps * (size["num_decoder_layers"] * (own + 2 * d * inner + dense + 2 * LENGTH * inner) + d * (2 + LEVELS * CODES))
    return 2 * (encoder + cross + decoder) / 1e6


def world() -> tuple[np.ndarray, np.ndarray]:
    """Codes int64 [items, levels], each code's row of the vocabulary; inputs int64 [users, LENGTH]."""
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, CODES, (2 * ITEMS, LEVELS)), axis=0)
    chosen = codes[rng.permutation(len(codes))[:ITEMS]]
    return chosen, rng.integers(2, 2 + LEVELS * CODES, (USERS, LENGTH))


def model_of(shape: str) -> Any:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=2 + LEVELS * CODES, feed_forward_proj="relu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, dropout_rate=0.0, **SHAPES[shape][0]
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if "layer_norm" in name:
            weight.data.mul_(1 + 0.2 * torch.randn_like(weight))
    return model


def tandem(shape: str, precision: str) -> Any:
    """Function of inputs [B, LENGTH] → (rows of the catalogue [B, K], scores [B, K])."""
    import torch

    from model import trie
    from model.decode import Constraint, Decoder, beam_search

    codes, _ = world()
    model, held = model_of(shape), trie.build(codes)
    decoder = Decoder(dict(model.state_dict()), model.config.to_dict(), 0, getattr(torch, precision))
    constraint = Constraint(held, [2 + level * CODES for level in range(LEVELS)])
    k = SHAPES[shape][1]

    def answer(source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = torch.zeros(len(source), LEVELS, dtype=torch.int64)
        leaves, scores = beam_search(decoder, constraint, torch.from_numpy(source), start, k, k)
        return held.items[leaves.numpy()], scores.numpy()

    return answer


def hf(shape: str, precision: str, free: bool = False) -> Any:
    """free: of any tokens, as numbers instead of rows."""
    import torch

    codes, _ = world()
    model = model_of(shape).to(getattr(torch, precision))
    tokens = codes + 2 + CODES * np.arange(LEVELS)
    k, following, row_of = SHAPES[shape][1], {}, {}
    for row, item in enumerate(tokens.tolist()):
        row_of[tuple(item)] = row
        for level in range(LEVELS):
            following.setdefault(tuple(item[:level]), set()).add(item[level])
    following = {prefix: sorted(allowed) for prefix, allowed in following.items()}
    bound = {} if free else {"prefix_allowed_tokens_fn": lambda _, said: following[tuple(said[1:].tolist())]}

    def answer(source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = model.generate(
            torch.from_numpy(source),
            attention_mask=torch.ones(source.shape, dtype=torch.int64),
            num_beams=k,
            num_return_sequences=k,
            max_new_tokens=LEVELS,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_scores=True,
            **bound,
        )
        rows = [number(said) if free else row_of[tuple(said)] for said in made.sequences[:, 1:].tolist()]
        return np.array(rows).reshape(-1, k), made.sequences_scores.float().numpy().reshape(-1, k)

    return answer


def number(tokens: list[int]) -> int:
    return sum(token * (2 + LEVELS * CODES) ** place for place, token in enumerate(tokens))


def ctranslate2(shape: str, precision: str) -> Any:
    """Function of inputs → (answers as numbers, scores)."""
    from ctranslate2 import Translator
    from ctranslate2.converters.transformers import T5Loader

    words = [f"t{row}" for row in range(2 + LEVELS * CODES)]
    spec = T5Loader().get_model_spec(model_of(shape))
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.decoder_start_token = spec.config.bos_token = spec.config.unk_token = words[0]
    spec.config.eos_token = words[1]
    spec.validate()
    spec.optimize()
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        translator = Translator(folder, device="cpu", compute_type=precision, inter_threads=1, intra_threads=1)
    k = SHAPES[shape][1]

    def answer(source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked = [[words[token] for token in row] for row in source.tolist()]
        length = {"min_decoding_length": LEVELS, "max_decoding_length": LEVELS, "length_penalty": 0}
        made = translator.translate_batch(asked, beam_size=k, num_hypotheses=k, return_scores=True, **length)
        rows = [[number([int(word[1:]) for word in said]) for said in each.hypotheses] for each in made]
        return np.array(rows), np.array([each.scores for each in made])

    return answer


def peak(shape: str, precision: str) -> Any:
    """Billions of operations a second of the largest product; in place of users."""
    import torch

    from model.decode import product

    inputs = torch.randn(1024, 1024, dtype=getattr(torch, precision))
    times = product(torch.randn(1024, 1024, dtype=inputs.dtype))

    def answer(_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            for _ in range(20):
                times(inputs)
        return np.empty(0), np.empty(0)

    return answer


def contestant(name: str, shape: str, batch: int, folder: Path) -> int:
    """A process: for each line `go COUNT` on stdin answers as many users and prints the seconds; then writes the first users' answers."""
    import torch

    from model.products import one_worker

    torch.set_num_threads(1)
    kind, precision, environment, _ = CONTESTANTS[name]
    if kind == "tandem":
        one_worker()  # as where Spark runs it
    if environment:
        torch.set_float32_matmul_precision("medium")  # F.linear by oneDNN; still fp32 on a machine without AMX
    answer = {"tandem": tandem, "hf": hf, "ctranslate2": ctranslate2, "peak": peak}[kind](shape, precision)
    _, sources = world()
    answer(sources[:batch])
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line.split()[1])
        begun = time.perf_counter()
        for first in range(0, count, batch):
            answer(sources[first : first + batch])
        print(time.perf_counter() - begun, flush=True)
    compared = {"peak": {}, "ctranslate2": {"": answer, "-rival": hf(shape, "float32", free=True)}}.get(kind, {"": answer})
    for suffix, of in compared.items():
        found = [of(sources[first : first + batch]) for first in range(0, COMPARED, batch)]
        rows, scores = (np.concatenate(part)[:COMPARED] for part in zip(*found, strict=True))
        np.savez(folder / f"{name}-{batch}{suffix}.npz", rows=rows, scores=scores)
    return 0


def equal(ours: Any, theirs: Any) -> float:
    """Share of users whose answers are the same by the rule above."""
    same = []
    for own_rows, own, rows, scores in zip(ours["rows"], ours["scores"], theirs["rows"], theirs["scores"], strict=True):
        close = np.abs(np.sort(own) - np.sort(scores)).max() <= 1e-3
        odd = [
            value
            for kept, values, others in ((own_rows, own, rows), (rows, scores, own_rows))
            for item, value in zip(kept, values, strict=True)
            if item not in others
        ]
        same.append(close and all(value - scores.min() <= 2e-3 for value in odd))
    return float(np.mean(same))


def overlap(ours: Any, theirs: Any) -> float:
    return float(np.mean([len(np.intersect1d(own, rows)) / len(rows) for own, rows in zip(ours["rows"], theirs["rows"], strict=True)]))


def race(shape: str, rounds: int, seconds: float) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="decode-"))
    running: dict[tuple[str, int], subprocess.Popen[str]] = {}
    for name, (_, _, environment, batches) in CONTESTANTS.items():
        for batch in batches:
            command = [sys.executable, __file__, shape, "--contestant", name, "--batch", str(batch), "--folder", str(folder)]
            limits = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            running[name, batch] = subprocess.Popen(command, env=limits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if read(running[name, batch], name) != "ready":
                raise RuntimeError(f"{name} at batch {batch} did not start")
    speeds: dict[tuple[str, int], list[float]] = {key: [] for key in running}
    count = {key: max(1, key[1]) for key in running}
    for turn in range(-1, rounds):  # the first only tells how many users fill a round
        for key, process in running.items():
            process.stdin.write(f"go {count[key]}\n")
            process.stdin.flush()
            took = float(read(process, key[0]))
            done = 20 * 2 * 1024**3 / 1e9 if key[0].startswith("peak") else count[key]
            if turn < 0:
                if not key[0].startswith("peak"):
                    count[key] = int(np.clip(key[1] * round(seconds / took), key[1], USERS // key[1] * key[1]))
            else:
                speeds[key].append(done / took)
        print(f"{shape}, round {turn + 1} of {rounds}: " + ", ".join(f"{n} {b}: {s[-1]:.1f}" for (n, b), s in speeds.items() if s), flush=True)
    for process in running.values():
        process.stdin.close()
        process.wait()
    best = {name: max((b for n, b in speeds if n == name), key=lambda b: np.median(speeds[name, b])) for name in CONTESTANTS}
    rows = [
        {
            "contestant": name,
            "batch": best[name],
            "median": float(np.median(speeds[name, best[name]])),
            "rounds": [round(s, 2) for s in speeds[name, best[name]]],
        }
        for name in CONTESTANTS
    ]
    answers = {name: np.load(folder / f"{name}-{best[name]}.npz") for name in CONTESTANTS if not name.startswith("peak")}
    for row in rows:
        if (name := row["contestant"]) in answers:
            other = folder / f"{name}-{best[name]}-rival.npz"
            rival = np.load(other) if other.exists() else answers["hf"]
            row |= {"equal_users": equal(answers[name], rival), "overlap": overlap(answers[name], rival)}
    return {"shape": shape, "k": SHAPES[shape][1], "megaflops_per_user": megaflops(shape), "rows": rows}


def read(process: subprocess.Popen[str], name: str) -> str:
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{name} ended: exit code {process.wait()}")
    return line


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The shape's headline figures: ratios of medians, with the least and the largest ratio of any round."""
    row = {each["contestant"]: each for each in found["rows"]}

    def against(figure: str, own: str, rival: str) -> dict[str, Any]:
        return ratio(figure, row[own]["rounds"], row[rival]["rounds"], rival, row[rival]["median"])

    if found["shape"] == "tiger_k50":
        return [against("decode_k50_vs_hf", "tandem fp32", "hf")]
    if found["shape"] != "tiger":
        return []
    tuned = max(("hf tuned", "hf"), key=lambda name: row[name]["median"])
    share = row["tandem fp32"]["median"] * found["megaflops_per_user"] / 1e3 / row["peak fp32"]["median"]
    return [
        against("decode_fp32_vs_hf", "tandem fp32", "hf"),
        against("decode_fp32_vs_hf_tuned", "tandem fp32", tuned),
        against("decode_bf16_vs_hf", "tandem bf16", "hf"),
        {"figure": "decode_fp32_equal_users", "value": row["tandem fp32"]["equal_users"], "unit": "fraction", "ci": None, "rival": None, "rival_value": None},
        {
            "figure": "decode_fp32_peak_share",
            "value": share,
            "unit": "fraction",
            "ci": None,
            "rival": "peak fp32, GFLOP/s",
            "rival_value": row["peak fp32"]["median"],
        },
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--seconds", type=float, default=4.0, help="of a contestant's turn")
    options.add_argument("--elsewhere", action="store_true", help="this is not the machine that the figures are of: a table of its own, and no figure")
    options.add_argument("--contestant", help=argparse.SUPPRESS)
    options.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.contestant:
        return contestant(chosen.contestant, chosen.shapes[0], chosen.batch, chosen.folder)
    for shape in chosen.shapes:
        found = race(shape, chosen.rounds, chosen.seconds)
        command = f"python tests/benchmarks/decode.py {shape} --rounds {chosen.rounds} --seconds {chosen.seconds:g}{' --elsewhere' * chosen.elsewhere}"
        data = f"{ITEMS:,} items of {LEVELS} random codes, {LENGTH} tokens, random weights"
        common = origin(command, data, [0], "torch", "transformers", "ctranslate2", more="1 thread")
        name = f"decoding_{shape}{'_elsewhere' * chosen.elsewhere}"
        keep(name, {**found, **common})
        write([] if chosen.elsewhere else figures(found), common)
        for row in found["rows"]:
            print(
                f"{shape}: {row['contestant']} at {row['batch']}: {row['median']:.1f}" + (f", equal {row['equal_users']:.3f}" if "equal_users" in row else "")
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
