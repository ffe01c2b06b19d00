"""A release on a disk that has room for a little more at each try, and then on one that may only be read.

    unshare --user --map-root-user --mount python tests/full_disk.py LAKE PLACE BARRED DAY

Copies the lake to a file system of its own, in memory, at the folder PLACE, and, to be read only, at BARRED; nobody but this process and its children
sees them. Prints JSON: per try the exit code of `release`, the day served, and the rows of that day by the version that its release names; then the exit
code where nothing may be written, and whether anything was.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deltalake import DeltaTable

from jobs.__main__ import main

FREED = (0, 70_000, 70_000)  # bytes more for each try: a release writes some 250,000; then the rest
REST = 16_000_000


def served(lake: Path) -> tuple[str, int]:
    """The served day, and how many recommendations its readers find."""
    release = max(DeltaTable(str(lake / "releases")).to_pyarrow_table().to_pylist(), key=lambda row: row["released_at"])
    version = json.loads(release["output_versions"])["recommendations"]
    day = str(release["ds"])
    return day, len(DeltaTable(str(lake / "recommendations"), version=version).to_pyarrow_table(partitions=[("ds", "=", day)], columns=["rank"]))


def content(lake: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in lake.rglob("*") if path.is_file()}


def command(lake: Path, day: str) -> list[str]:
    settings = [f"lake.root={lake}", "spark.master=local[2]", "registry.uri=none", "spark.shuffle_partitions=2"]
    settings.append("spark.conf={'spark.sql.codegen.wholeStage' = 'false', 'spark.sql.codegen.factoryMode' = 'NO_CODEGEN'}")  # as in conftest.py
    return ["release", "--date", day, *(word for setting in settings for word in ("--set", setting))]


def tried(lake: Path, place: Path, barred: Path, day: str) -> dict:
    size = sum(path.stat().st_size + 8192 for path in lake.rglob("*")) + REST
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    shutil.copytree(lake, place / "lake")
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        while os.statvfs(place).f_bavail:
            file.write(bytes(4096))
            file.flush()
    tries = []
    for more in (*FREED, REST):
        os.truncate(ballast, max(ballast.stat().st_size - more, 0))
        tries.append([main(command(place / "lake", day)), *served(place / "lake")])
    # The same files by another way in, which may only read: what a failed writer left open keeps the first one from it.
    before = content(place / "lake")
    for options in (["--bind", place, barred], ["-o", "remount,ro,bind", barred]):
        subprocess.run(["mount", *options], check=True)
    return {"tries": tries, "read_only": main(command(barred / "lake", day)), "changed": before != content(place / "lake")}


if __name__ == "__main__":
    print(json.dumps(tried(*map(Path, sys.argv[1:4]), sys.argv[4])))
