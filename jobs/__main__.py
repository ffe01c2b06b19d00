"""python -m jobs VERB --date D: the one command line, for Airflow and for a person at 3 a.m.

Knows the verbs and their order, and what an exit code means; imports only the verb that is asked for.
"""

import argparse
import importlib
import json
import logging
import os
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from jobs import config as configuration
from jobs.errors import BadArgument, MissingInput, TandemError, Transient
from jobs.run import STEPS

VERBS = {
    "simulate": "a world with known answers → warehouse logs",
    "ingest": "warehouse logs, catalogue → events, items, quarantine",
    "build_corpora": "events, items → corpora",
    "embed_items": "items, corpora → item_embeddings",
    "assign_identifiers": "item_embeddings → item_identifiers",
    "train": "corpora, item_identifiers → models",
    "evaluate": "corpora, models → metrics; passes the model, or not",
    "recommend": "events, items, models → recommendations (staged)",
    "search": "events, items, models → search_results (staged)",
    "suggest": "events, models → query_suggestions (staged), where suggest.k asks for them",
    "release": "staged rows → recommendations, search_results, query_suggestions, releases",
    "report": "metrics, checks, releases → one HTML page",
    "run": "the whole night, from ingest to report",
    "demo": "simulate a small warehouse, run its nights, show what came out",
    "rollback": "serve the release before the served one (one row in releases)",
    "erase": "delete a user everywhere, and refuse what the logs still hold of them → erasures",
    "maintain": "pack small files; delete what no promised version needs",
    "study": "does one task help the other: simulated worlds (h1, h2, cap, information), or a day's corpora (joint, gensar, gensr) → studies",
    "doctor": "what this machine has and lacks",
}
TOLD = (*STEPS, "rollback", "erase", "maintain")  # the steps of a night, and what changes tables besides
DATELESS = {"demo", "doctor", "study"}
SUBJECTS = {"study": ("h1", "h2", "cap", "information", "joint", "gensar", "gensr")}  # verbs that need one more word
DRY = ("ingest", "build_corpora", "recommend", "search", "suggest", "release")  # what a backfill does again, where it writes tables alone
FLAGS = {"allow_empty": ("ingest", "run"), "dry_run": DRY, "install": ("doctor",), "user": ("erase",)}

EXIT_CODES = (
    "exit codes: 0 done; 64 bad argument or configuration; 65 bad data, refused by a check; 69 a needed input is missing; 75 transient, retry; 70 our bug"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadArgument(f"{message}; `python -m jobs --help` prints the verbs and options")


def parser() -> Parser:
    flow = "\n".join(f"  {verb:<20}{meaning}" for verb, meaning in VERBS.items())
    made = Parser(
        prog="python -m jobs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"verbs, in the order of the flow:\n{flow}",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    made.add_argument("verb", metavar="VERB", help="one of the verbs above")
    made.add_argument("subject", metavar="SUBJECT", nargs="?", help="study: h1, h2, cap, information, joint, gensar or gensr")
    made.add_argument("--date", metavar="YYYY-MM-DD", help="the data day, UTC")
    made.add_argument("--config", metavar="FILE", help="TOML file; else $TANDEM_CONFIG, else the defaults")
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key: section.key=value")
    made.add_argument("--run-id", metavar="R", help="name of this execution in every row it writes")
    made.add_argument("--result", metavar="FILE", help="write a small JSON of what was done")
    made.add_argument("--allow-empty", action="store_true", help="ingest, run: accept a day without rows")
    made.add_argument("--dry-run", action="store_true", help=f"{', '.join(DRY)}: say what rows would come and go, and change nothing")
    made.add_argument("--user", metavar="U", help="erase: the user's key, as in events")
    made.add_argument("--install", action="store_true", help="doctor: install what is missing, where this user may")
    return made


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options with `day`, a valid `run_id`, the read `config` and the verb's `flags`; BadArgument before anything is touched."""
    if options.verb not in VERBS:
        raise BadArgument(f"verb {options.verb[:40]!r}: expected one of {', '.join(VERBS)}")
    if options.subject not in SUBJECTS.get(options.verb, (None,)):
        wanted = f"one of {', '.join(SUBJECTS[options.verb])} after it" if options.verb in SUBJECTS else "no further word"
        raise BadArgument(f"{options.verb}: found {(options.subject or 'nothing')[:40]!r}, expected {wanted}")
    if options.date is None and options.verb not in DATELESS:
        raise BadArgument(f"{options.verb} needs --date YYYY-MM-DD, the data day")
    options.day = None if options.date is None else configuration.parse_day(options.date)
    made_up = f"{options.verb}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    options.run_id = configuration.parse_run_id(made_up if options.run_id is None else options.run_id)
    options.flags = {name: getattr(options, name) for name in FLAGS if getattr(options, name)}
    for name in options.flags:
        if options.verb not in FLAGS[name]:
            raise BadArgument(f"--{name.replace('_', '-')} is of {', '.join(FLAGS[name])}; found the verb {options.verb}")
    if options.verb == "erase" and not options.user:
        raise BadArgument("erase needs --user U, the user's key")
    if options.subject:
        options.flags["subject"] = options.subject
    if options.result is not None:
        if options.result.endswith("/") or Path(options.result).is_dir():
            raise BadArgument(f"--result {options.result!r}: expected a file, found the name of a folder")
        if not os.access(Path(options.result).absolute().parent, os.W_OK):
            raise BadArgument(f"--result {options.result!r}: its folder is not there, or not writable")
    options.config = configuration.load(options.config, options.set)
    return options


# What an error of Java's or Python's says of the machine, and what that means to who runs it.
OF_THE_MACHINE = {
    "JAVA_GATEWAY_EXITED": (MissingInput, "Spark's Java did not start: is Java 17 or later there? `python -m jobs doctor` tells"),
    "No space left on device": (
        Transient,
        "a disk is full: the lake's (lake.root = {root}), the models' (lake.files), or that of Spark's temporary files (spark.local.dir); make room, retry",
    ),
    "Read-only file system": (
        MissingInput,
        "a disk may only be read: the lake's (lake.root = {root}), the models' (lake.files), or that of Spark's temporary files (spark.local.dir)",
    ),
}


def run(options: argparse.Namespace) -> Any:
    """Run the verb, with a row of lineage where it changes the lake for a day; `run` and `demo` give their steps one each."""
    verb = importlib.import_module(f"jobs.{options.verb}").run
    if options.verb not in TOLD:
        return verb(options.config, options.day, options.run_id, **options.flags)
    from jobs.lineage import told
    from jobs.writes import dry_run

    with dry_run(options.flags.pop("dry_run", False)), told(options.config, options.verb, options.day, options.run_id):
        return verb(options.config, options.day, options.run_id, **options.flags)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code. Errors go to stderr, progress to stdout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if not arguments:
        parser().print_help()
        return 0
    started = time.monotonic()
    try:
        options = checked(parser().parse_args(arguments))
        result = run(options)
        if options.result:
            Path(options.result).write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
        logging.getLogger("tandem").info("%s done in %.1f s", options.verb, time.monotonic() - started)
        return 0
    except TandemError as error:
        print(f"tandem: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        for sign, (kind, meaning) in OF_THE_MACHINE.items():
            if sign in str(error):
                print(f"tandem: {meaning.replace('{root}', options.config.lake.root)}", file=sys.stderr)
                return kind.exit_code
        traceback.print_exc()
        print("tandem: this is a bug of tandem or of the machine below it (exit 70)", file=sys.stderr)
        return 70


if __name__ == "__main__":
    sys.exit(main())
