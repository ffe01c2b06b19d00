"""What is shipped: one distribution with three packages, one lock with hashes and without URLs, documents made from the code."""

import json
import re
import subprocess
import sys
import zipfile
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "udfs", "model")
MARKED = re.compile(r"<!-- tables -->\n(.*?)<!-- /tables -->", re.DOTALL)


@cache
def lock() -> dict[str, str]:
    """Locked distribution (normalised name) → the requirement with its hashes, one logical line."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {re.split(r"[=\s;\[]", line, maxsplit=1)[0].lower().replace("_", "-"): line for line in lines}


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def breaches(text: str) -> list[str]:
    """Machine paths and package indexes, which no committed file may hold."""
    words = ("home", "root", "work", "Users", "mnt", "tmp/tandem")  # spelled apart, or this file would be its own breach
    machine = rf"(?<![\w.{{}}$/-])/(?:{'|'.join(words)})/\w[\w./-]*"
    index = r"--(?:extra-)?index-url\s*[= ]\s*\S+|https?://[^\s\"')]*(?:simple/?(?=[\s\"')]|$)|pypi|pythonhosted|artifactory|nexus|registry)[^\s\"')]*"
    return re.findall(f"{machine}|{index}", text)


def test_the_three_names_are_ours_alone() -> None:
    owners = packages_distributions()
    assert {name: set(owners[name]) for name in PACKAGES} == {name: {"tandem"} for name in PACKAGES}


def test_every_requirement_has_hashes_and_no_url() -> None:
    assert len(lock()) > 100
    for name, line in lock().items():
        assert re.match(r"[A-Za-z0-9_.\[\],-]+==[^\s;]+", line), f"{name} is not pinned"
        assert "--hash=sha256:" in line, f"{name} has no hash"
        assert not re.search(r"://| @ |--index|--find-links", line), f"{name} names a place"


@pytest.mark.parametrize("pin", ["pyspark==4.2.0", "delta-spark==4.4.0", "apache-airflow==3.3.2", "torch==2.15.0", "transformers==5.23.0", "deltalake==1.6.6"])
def test_pins_that_work_together(pin: str) -> None:
    assert lock()[pin.split("==")[0]].split()[0] == pin


def test_what_looks_right_but_is_not_stays_out() -> None:
    assert re.match(r"pandas==2\.", lock()["pandas"]), "PySpark 4.2 does not fully support pandas 3"
    # The Spark provider brings pyspark-client, whose files overwrite pyspark's; full mlflow forces pandas 1.5.
    assert set(lock()) & {"apache-airflow-providers-apache-spark", "pyspark-client", "mlflow"} == set()


def test_every_declared_dependency_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[<>=\[;\s]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in declared}
    assert names - set(lock()) == set()


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, built in the folder without an index and without leaving anything in the checkout."""
    source = folder / "source"
    for path in [ROOT / "pyproject.toml", ROOT / "README.md", *(p for name in PACKAGES for p in (ROOT / name).glob("*.py"))]:
        if path.exists():
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (source / "README.md").touch()  # the wheel needs one
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("tandem-*.whl")
    return wheel


def test_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    files = {name for name in zipfile.ZipFile(build_wheel(tmp_path)).namelist() if ".dist-info/" not in name}
    assert files == {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).glob("*.py")}


def test_no_tracked_file_names_a_machine_or_an_index() -> None:
    found = {}
    for path in tracked():
        try:
            hits = breaches(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if hits:
            found[str(path.relative_to(ROOT))] = hits[:3]
    assert found == {}


def test_breaches_sees_what_it_should() -> None:
    slash, scheme = "/", "https:" + "//"
    for planted in (
        f"root = '{slash}home{slash}ann{slash}lake'",
        f"cd {slash}work{slash}main",
        f"--index{'-url'} {scheme}x.org/simple",
        f"{scheme}pypi.example.com/simple",
        f"{scheme}mirror.example/simple/",
    ):
        assert breaches(planted), planted
    for fine in ("s3://bucket/tandem", "lake/root/artifacts", f"{scheme}airflow.apache.org/docs", "/etc/tandem.toml", "#!/usr/bin/env python3", "${HOME}/lake"):
        assert not breaches(fine), fine


def test_example_configuration_is_the_reference() -> None:
    printed = subprocess.run([sys.executable, "-m", "jobs.config"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "examples" / "tandem.toml").read_text() == printed, "run: python -m jobs.config > examples/tandem.toml"


def test_readme_tables_are_the_declared_ones() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    sections = MARKED.findall(readme.read_text())
    assert len(sections) == 1, "README.md needs one section between <!-- tables --> and <!-- /tables -->"
    printed = subprocess.run([sys.executable, "-m", "jobs.tables"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert sections[0].strip() == printed.strip(), "put the output of `python -m jobs.tables` between the markers"


# Known vulnerabilities that the lock may keep for now: id → why.
ACCEPTED: dict[str, str] = {}


def vulnerabilities(report: str) -> dict[str, list[str]] | None:
    """Package → ids, of pip-audit's JSON; None where the index told nothing of any package."""
    told = [package for package in json.loads(report)["dependencies"] if "vulns" in package]
    return {package["name"]: ids for package in told if (ids := [each["id"] for each in package["vulns"] if each["id"] not in ACCEPTED])} if told else None


def test_a_report_is_read_for_what_it_says() -> None:
    sound, unsound = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "1", "vulns": [{"id": "PYSEC-0", "fix_versions": []}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert [vulnerabilities(json.dumps({"dependencies": each})) for each in ([skipped], [sound, skipped], [sound, unsound])] == [None, {}, {"b": ["PYSEC-0"]}]


def test_no_locked_package_has_a_known_vulnerability() -> None:
    """As `make audit` does, which fails where the index cannot be asked."""
    audit = [Path(sys.executable).with_name("uv"), "tool", "run", "pip-audit@2.10.1", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run([*audit, "--format", "json", "-r", "requirements.lock"], cwd=ROOT, capture_output=True, text=True)
    if not done.stdout:
        assert re.search(r"Failed to fetch|error sending request|Connection", done.stderr), done.stderr[-3000:]
        pytest.skip("no index can be reached for pip-audit")
    found = vulnerabilities(done.stdout)
    if found is None:
        pytest.skip("the index tells nothing of vulnerabilities")
    assert found == {}
