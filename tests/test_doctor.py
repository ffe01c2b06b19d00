"""The doctor tells what is missing, with what to do, and never says ok of what does not run."""

import importlib.metadata
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import doctor
from jobs.config import load
from jobs.errors import MissingInput
from jobs.spark import delta_jars


def fake_java(folder, text, code=0):
    folder.mkdir(parents=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("text", "code", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 0, 17),
        ('openjdk version "21" 2023-09-19', 0, 21),
        ('java version "1.8.0_392"', 0, 8),
        ('openjdk version "25-ea" 2025-09-16', 0, 25),
        ("the operation could not be completed: unable to locate a Java Runtime", 1, None),  # macOS's stub
        ("something else", 0, None),
    ],
)
def test_java_version(tmp_path, text, code, version):
    assert doctor.java_version(str(fake_java(tmp_path / "bin", text, code))) == version


def test_java_is_looked_for_where_spark_looks(tmp_path, config, monkeypatch):
    new = fake_java(tmp_path / "new" / "bin", 'openjdk version "17.0.1"')
    old = fake_java(tmp_path / "old" / "bin", 'java version "1.8.0_1"')
    monkeypatch.setenv("PATH", f"{new.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert [finding.state for finding in doctor.java(config)] == ["ok"]
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))  # Spark takes JAVA_HOME and does not fall back to PATH
    (found,) = doctor.java(config)
    assert found.state == "missing" and "found 8" in found.what and "JAVA_HOME" in found.to_do
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    (found,) = doctor.java(config)
    assert found.state == "missing" and "nowhere" in found.what


@pytest.mark.skipif("avx512f" not in Path("/proc/cpuinfo").read_text(), reason="this CPU has no AVX-512: OpenBLAS cannot take kernels of one that has it")
@pytest.mark.parametrize(("kernels", "narrow"), [("Haswell", True), ("SkylakeX", False)])
def test_narrow_kernels_of_openblas_are_seen(kernels, narrow):
    asked = [sys.executable, "-c", "from jobs.doctor import narrow_openblas; print(narrow_openblas())"]
    found = subprocess.run(asked, env={**os.environ, "OPENBLAS_CORETYPE": kernels}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(narrow)]


def test_the_command_that_installs_java_is_exact(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "JAVA_HOME" in doctor.java_command()
    for tool, root, command in (
        ("brew", 501, "brew install openjdk@17"),
        ("dnf", 1000, "sudo dnf install -y java-17-openjdk-headless"),
        ("apt-get", 1000, "sudo apt-get install -y openjdk-17-jre-headless"),
        ("apt-get", 0, "apt-get install -y openjdk-17-jre-headless"),
    ):
        (tmp_path / tool).touch(mode=0o755)
        monkeypatch.setattr(os, "geteuid", lambda root=root: root)
        assert doctor.java_command() == command


@pytest.mark.fault("R29")
def test_what_is_missing_ends_with_69_and_a_way_out(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "file").touch()
    config = load(None, [f"lake.root={tmp_path / 'lake'}", "warehouse.catalogue={path = '/nowhere/at/all/items.jsonl', format = 'jsonl'}"])
    with pytest.raises(MissingInput, match=r"Java 17 or later.*warehouse\.catalogue: nothing at /nowhere/at/all"):
        doctor.run(config, None, "r")
    told = capsys.readouterr().out.splitlines()
    assert all(" — " in line for line in told if line.startswith("missing"))
    assert any(line.startswith("note:    no GPU") for line in told)  # no nvidia-smi on this PATH
    assert not (tmp_path / "lake").exists()  # looking makes nothing


def test_warehouse_and_lake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the searches' default lies below the working folder, where a demo may have left some
    drops = tmp_path / "drops"
    drops.mkdir()
    sources = {"interactions": f"{drops}/ds={{ds}}/*.csv", "catalogue": f"{drops}/items.csv"}
    config = load(None, [f"lake.root={tmp_path}", *(f"warehouse.{name}={{path = '{path}', format = 'csv'}}" for name, path in sources.items())])
    assert [finding.state for finding in doctor.warehouse(config)] == ["ok", "note", "ok"]
    assert [finding.state for finding in doctor.lake(config)] == ["ok"]
    assert [finding.state for finding in doctor.lake(load(None, ["lake.root=s3a://bucket/lake"]))] == ["missing", "note"]
    assert [finding.state for finding in doctor.lake(load(None, ["lake.root=s3a://bucket/lake", "lake.files=/tmp"]))] == ["ok", "note"]


def test_a_compiler_is_looked_for_where_training_wants_one(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = {asked: [f.what for f in doctor.machine(load(None, [f"train.compiled={asked}"])) if "compiler" in f.what] for asked in ("true", "false")}
    assert told["false"] == []
    assert [what.startswith("train.compiled: no C++ compiler found (no-such-compiler") for what in told["true"]] == [True]


@pytest.mark.parametrize(("kinds", "noted"), [(["AVX2"], 2), (["AVX2", "AVX-512"], 0), ([], 0)])
def test_bf16_on_a_cpu_without_it_is_noted(kinds, noted):
    found = list(doctor.without_bf16(load(None, ["train.precision=bf16", "train.answer_precision=bf16"]), kinds))
    assert [finding.state for finding in found] == ["note"] * noted and list(doctor.without_bf16(load(None, []), kinds)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_lake_that_cannot_be_written_is_missing(tmp_path):
    tmp_path.chmod(0o500)
    assert [finding.state for finding in doctor.lake(load(None, [f"lake.root={tmp_path}/lake"]))] == ["missing"]


def test_the_doctor_starts_no_spark():
    import subprocess

    code = "import sys; from jobs import doctor; from jobs.config import Config; [list(look(Config())) for look in doctor.LOOKS];"
    code += "from pyspark.sql import SparkSession; from pyspark import SparkContext; assert SparkContext._gateway is None; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_jars_are_looked_for_where_ivy_is_told_to_put_them(spark, tmp_path, monkeypatch):
    """Whatever $HOME is: Java alone would ask the password file."""
    cache = Path(spark.sparkContext.getConf().get("spark.jars.ivy")).relative_to(Path.home())
    version = importlib.metadata.version("delta-spark")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert delta_jars() == []
    fetched = [tmp_path / cache / "jars" / f"io.delta_delta-{name}-{version}.jar" for name in ("spark_2.13", "storage")]
    fetched[0].parent.mkdir(parents=True)
    for jar in fetched:
        jar.touch()
    assert delta_jars() == [str(jar) for jar in fetched]
