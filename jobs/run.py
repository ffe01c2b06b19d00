"""The whole night of one day: ingest to report, in one process and one Spark session.

Reads and writes what its steps do. Knows their order, and nothing of what they do. Each step is the verb of its name, so a night that
failed is mended by that verb alone, or by the same command again: what is done already is found unchanged.
"""

import importlib
import logging
import threading
import time
from datetime import date
from types import TracebackType

import psutil

from jobs.config import Config

STEPS = ("ingest", "build_corpora", "embed_items", "assign_identifiers", "train", "evaluate", "recommend", "search", "suggest", "release", "report")

log = logging.getLogger("tandem")


def run(config: Config, day: date, run_id: str, allow_empty: bool = False) -> dict:
    """Run every step for the day. Returns {"steps": [{"verb", "seconds", "peak_mb", "result"}]}, in order.

    Raises what the failed step raised, after telling which one it was and which release is still served.
    """
    done = []
    for n, verb in enumerate(STEPS, 1):
        log.info("%d/%d %s", n, len(STEPS), verb)
        flags = {"allow_empty": True} if allow_empty and verb == "ingest" else {}
        started = time.monotonic()
        try:
            from jobs.lineage import told

            with PeakMemory() as memory, told(config, verb, day, run_id):
                result = importlib.import_module(f"jobs.{verb}").run(config, day, run_id, **flags)
        except Exception:
            log.error("%d/%d %s FAILED after %.1f s; %s", n, len(STEPS), verb, time.monotonic() - started, still_served(config))
            raise
        seconds = time.monotonic() - started
        log.info("%d/%d %s done: %.1f s, peak %d MB", n, len(STEPS), verb, seconds, memory.peak_mb)
        done.append({"verb": verb, "seconds": round(seconds, 1), "peak_mb": memory.peak_mb, "result": result})
    return {"steps": done}


def still_served(config: Config) -> str:
    """What readers see after a failure, in words. Never raises: it must not hide the failure it is told with."""
    try:
        from jobs.release import served
        from jobs.spark import session

        release = served(session(config), config)
        return f"served is still the release of {release.ds}" if release else "nothing was released yet"
    except Exception as error:
        return f"what is served could not be read ({type(error).__name__})"


class PeakMemory:
    """The most memory that this process and its children (the JVM, Python workers, the trainer) held at once, sampled while it is entered."""

    def __init__(self, every: float = 0.5) -> None:
        self.every = every
        self.peak_mb = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop.set()
        self.thread.join()

    def watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, memory_mb())
            if self.stop.wait(self.every):
                return


def memory_mb() -> int:
    """Memory of the process tree now, in MB (10⁶ bytes): proportional set sizes, so that pages which forked workers share count once."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            info = process.memory_full_info()
            total += getattr(info, "pss", info.rss)
        except psutil.Error:  # gone meanwhile
            continue
    return total // 10**6
