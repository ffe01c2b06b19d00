"""What this machine has and lacks, in seconds.     Needs no Java and starts no Spark (but for `--install`, which fetches the Delta jars).

Reads the machine and the configuration. Writes nothing but a probe file below lake.root and lake.files. Each line: ok, missing or note, what, what to do.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from jobs.config import Config
from jobs.errors import BadArgument, MissingInput

JAVA = 17  # Spark 4.2 runs on 17 and later
DISK_GB, MEMORY_GB = 5, 4
INSTALL_JAVA = (
    ("apt-get", "apt-get install -y openjdk-17-jre-headless"),  # Debian 13 has 21 alone: openjdk-21-jre-headless
    ("dnf", "dnf install -y java-17-openjdk-headless"),
    ("zypper", "zypper install -y java-17-openjdk-headless"),
    ("brew", "brew install openjdk@17"),
)


class Finding(NamedTuple):
    state: Literal["ok", "missing", "note"]
    what: str
    to_do: str = ""


def run(config: Config, day: date | None, run_id: str, install: bool = False) -> dict:
    """Print one line per finding. Returns {"ok", "missing", "note": how many}. Raises MissingInput (69) where something needed is missing."""
    if install:
        install_java()
        fetch_jars()
    found = [finding for look in LOOKS for finding in look(config)]
    for state, what, to_do in found:
        print(f"{state + ':':<9}{what}{f' — {to_do}' if to_do else ''}")
    missing = [finding.what for finding in found if finding.state == "missing"]
    if missing:
        raise MissingInput(f"missing on this machine: {'; '.join(missing)} (what to do stands above)")
    return {state: sum(finding.state == state for finding in found) for state in ("ok", "missing", "note")}


def python(config: Config) -> Iterator[Finding]:
    found = f"Python {platform.python_version()}"
    yield Finding("ok", found) if sys.version_info >= (3, 11) else Finding("missing", f"{found}, needed is 3.11 or later", "install it, then `make env`")
    needed = ("pyspark", "delta", "deltalake", "torch", "transformers", "pydantic", "pandas", "pyarrow")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        yield Finding("missing", f"Python packages {', '.join(absent)}", "make env")
    airflow = importlib.util.find_spec("airflow")
    yield Finding("note", f"Airflow is {'here too' if airflow else 'not in this environment'}: only the DAG files need it")


def java(config: Config) -> Iterator[Finding]:
    home = os.environ.get("JAVA_HOME")
    command = str(Path(home, "bin", "java")) if home else shutil.which("java")  # Spark looks in this order, and does not fall back
    version = java_version(command) if command else None
    where = f"JAVA_HOME={home}" if home else command
    if version is None:
        yield Finding("missing", f"Java {JAVA} or later ({f'no Java at {where}' if where else 'none on PATH'})", java_command())
    elif version < JAVA:
        yield Finding("missing", f"Java {JAVA} or later (found {version}, {where})", f"{java_command()}, and let JAVA_HOME name it")
    else:
        yield Finding("ok", f"Java {version} ({where})")


def java_version(command: str) -> int | None:
    """The feature release, e.g. 17 or (of "1.8.0_392") 8; None where the command does not run."""
    try:
        told = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(match.group(1)) if match else None


def java_command() -> str:
    """The command that installs Java here, with sudo where this user is not root."""
    for tool, command in INSTALL_JAVA:
        if shutil.which(tool):
            return command if tool == "brew" or os.geteuid() == 0 else f"sudo {command}"
    return f"install a Java {JAVA} runtime (a tar.gz needs no root: unpack it and let JAVA_HOME name the folder)"


def jars(config: Config) -> Iterator[Finding]:
    try:
        from jobs.spark import delta_jars
    except ImportError:
        return  # the line of Python packages tells
    if delta_jars():
        yield Finding("ok", "Delta's jars are cached")
    else:
        yield Finding("note", "Delta's jars are not cached: the first Spark session fetches them from Maven", "doctor --install does it now")


def machine(config: Config) -> Iterator[Finding]:
    root = existing(config.lake.files or config.lake.root)
    if root:
        disk = shutil.disk_usage(root).free / 1e9
        yield Finding("ok" if disk >= DISK_GB else "note", f"{disk:.0f} GB of disk free at {root}", "" if disk >= DISK_GB else f"{DISK_GB} GB are comfortable")
    memory = psutil.virtual_memory().available / 1e9
    enough = memory >= MEMORY_GB
    yield Finding("ok" if enough else "note", f"{memory:.1f} GB of memory available", "" if enough else f"{MEMORY_GB} GB are needed; close something")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    kinds = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f"), ("bf16", "avx512_bf16"), ("AMX", "amx_bf16")) if f" {flag}" in flags]
    yield Finding("ok", f"{os.cpu_count()} cores ({', '.join(kinds) or platform.machine()})")
    yield from without_bf16(config, kinds)
    if "AVX-512" in kinds and narrow_openblas():
        faster = "export OPENBLAS_CORETYPE=SkylakeX makes products of matrices 1.8 times as fast (measured on Zen 5)"
        yield Finding("note", "NumPy's OpenBLAS does not know this CPU and multiplies with AVX2 alone", faster)
    if config.train.compiled:
        from model.compiled import missing  # here: it brings torch

        lacking = missing()
        yield (
            Finding("note", f"train.compiled: {lacking}", "install it; until then a training here goes on without")
            if lacking
            else Finding("ok", "a C++ compiler")
        )
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        yield Finding("ok", f"GPU: {told.splitlines()[0].split(' (UUID')[0]}, {len(told.splitlines())} in all")
    except (OSError, subprocess.SubprocessError, IndexError):
        yield Finding("note", f"no GPU: training runs on the CPU, in {'bf16' if config.train.precision == 'bf16' else 'fp32'}")


def without_bf16(config: Config, kinds: list[str]) -> Iterator[Finding]:
    """kinds: of the CPU's instructions; none where they are not known."""
    for key in ("precision", "answer_precision"):
        if getattr(config.train, key) == "bf16" and kinds and "AVX-512" not in kinds:
            slow = f"train.{key} = 'bf16', for which this CPU has no instructions"
            yield Finding("note", slow, "without a GPU fp32 is some ten times as fast here (measured on Zen 2)")


def narrow_openblas() -> bool:
    """Whether OpenBLAS, of which each Python package carries its own, took kernels of a CPU without AVX-512."""
    if any(importlib.util.find_spec(name) is None for name in ("numpy", "threadpoolctl")):
        return False  # the line of Python packages tells
    import numpy  # noqa: F401  (what is loaded is told of)
    from threadpoolctl import threadpool_info

    return any(pool.get("architecture") in ("Haswell", "Zen") for pool in threadpool_info() if pool["internal_api"] == "openblas")


def lake(config: Config) -> Iterator[Finding]:
    try:
        places = {config.files: "lake.files", config.lake.root: "lake.root"}  # one line where both are one
    except BadArgument as error:
        yield Finding("missing", str(error), "--set lake.files=FOLDER")
        places = {config.lake.root: "lake.root"}
    for place, key in places.items():
        root = existing(place)
        if root is None:
            yield Finding("note", f"{key} = {place} is a URI: not looked at")
            continue
        try:
            with tempfile.TemporaryFile(dir=root):
                yield Finding("ok", f"{key} = {place} is writable")
        except OSError as error:
            yield Finding("missing", f"a writable {key} = {place} ({error.strerror} at {root})", f"--set {key}=FOLDER, or mend its rights")


def warehouse(config: Config) -> Iterator[Finding]:
    for name in ("interactions", "searches", "catalogue"):
        source = getattr(config.warehouse, name)
        if source is None or "://" in source.path:
            continue
        # A day's folder may come tonight: what must be there is the part before the day and the wildcards.
        path = Path(re.split(r"[*?\[{]", source.path)[0])
        path = path if path.exists() else path.parent
        if path.exists():
            yield Finding("ok", f"warehouse.{name} = {source.path}")
        elif source.path.startswith(config.simulate.path):
            yield Finding("note", f"warehouse.{name} = {source.path} is not there yet", "python -m jobs simulate --date D, or name your own")
        else:
            yield Finding("missing", f"warehouse.{name}: nothing at {path}", "mend its path in the configuration")


def existing(root: str) -> Path | None:
    """The nearest folder above or at a local root that exists; None of a URI."""
    if "://" in root:
        return None
    path = Path(root).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


LOOKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (python, java, jars, machine, lake, warehouse)


def install_java() -> None:
    """Install Java by apt-get where it is missing and this user may; else leave it to the line that tells the command."""
    if any(finding.state == "ok" for finding in java(Config())) or not shutil.which("apt-get"):
        return
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    print("Java is missing: installing it by apt-get", flush=True)
    for arguments in (["update"], ["install", "-y", "openjdk-17-jre-headless"], ["install", "-y", "openjdk-21-jre-headless"]):
        try:
            done = subprocess.run([*prefix, "apt-get", "-q", *arguments], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False)
        except OSError:
            return  # no sudo here
        if arguments[0] == "install" and done.returncode == 0:
            return


def fetch_jars() -> None:
    """Start a Spark session once in a process of its own, which leaves Delta's jars in the cache."""
    from jobs.spark import delta_jars

    if delta_jars() or not any(finding.state == "ok" for finding in java(Config())):
        return
    print("fetching Delta's jars (once)", flush=True)
    subprocess.run([sys.executable, "-c", "from jobs.config import Config; from jobs.spark import session; session(Config()).stop()"], check=False)
