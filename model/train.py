"""Train one model from a specification: `python -m model.train SPEC.json`, or `torchrun … -m model.train SPEC.json`.

Reads what its recipe's training reads; writes checkpoints and, at the end, one artifact. Knows no Spark. One training at a time writes a work folder.
Exit codes: 0 done, 65 bad data (left in the work folder as `exit`, too, for a launcher that has codes of its own), 75 another training is at work there.
"""

import fcntl
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from torch import distributed

from model import artifact
from model.loop import BadCorpus, Training
from model.recipes import RECIPES
from model.train_pairs import PairTraining
from model.train_unified import UnifiedTraining


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
    return PairTraining if RECIPES[recipe].second_stage else UnifiedTraining


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
        Path(spec["work"], "exit").write_text("65")
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
