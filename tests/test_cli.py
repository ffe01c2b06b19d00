"""The command line: what it refuses, with which exit code, before anything is touched."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.__main__ import VERBS, main
from jobs.run import STEPS, PeakMemory


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_help_lists_the_verbs_in_order(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    places = [told.index(f"\n  {verb} ") for verb in VERBS]
    assert places == sorted(places)
    assert list(VERBS)[:12] == [
        "simulate",
        "ingest",
        "build_corpora",
        "embed_items",
        "assign_identifiers",
        "train",
        "evaluate",
        "recommend",
        "search",
        "suggest",
        "release",
        "report",
    ]
    assert tuple(verb for verb in VERBS if verb in STEPS) == STEPS
    assert "64 bad argument" in told


def test_every_verb_has_a_module():
    assert [verb for verb in VERBS if not Path("jobs", f"{verb}.py").exists()] == []


@pytest.mark.fault("R18")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ingst", "--date", "2026-11-19"], "verb 'ingst': expected one of simulate, ingest"),
        (["../ingest", "--date", "2026-11-19"], "expected one of"),
        (["ingest"], "needs --date"),
        (["ingest", "2026-11-19"], "ingest: found '2026-11-19', expected no further word"),
        (["study"], "study: found 'nothing', expected one of h1, h2, cap, information, joint, gensar, gensr after it"),
        (["study", "h3"], "study: found 'h3', expected one of h1, h2, cap, information, joint, gensar, gensr after it"),
        (["ingest", "--date"], "expected one argument"),
        (["ingest", "--date="], "expected a day as YYYY-MM-DD"),
        (["ingest", "--date", "2026-02-30"], "day is out of range"),
        (["ingest", "--date", "20261119"], "expected a day as YYYY-MM-DD"),
        (["ingest", "--dat", "2026-11-19"], "--dat"),
        (["ingest", "--date", "2099-01-01' OR '1'='1"], "expected a day as YYYY-MM-DD"),
        (["ingest", "--date", "2026-11-19", "--run-id", "../../etc/passwd"], "--run-id '../../etc/passwd': expected letters"),
        (["ingest", "--date", "2026-11-19", "--run-id", ""], "--run-id ''"),
        (["ingest", "--date", "2026-11-19", "--run-id", "a" * 201], "at most 200"),
        (["ingest", "--date", "2026-11-19", "--set", "train.epoch=3"], "unknown key 'train.epoch': allowed are recipe, tasks"),
        (["ingest", "--date", "2026-11-19", "--set", "trian.epochs=3"], "unknown key 'trian': allowed are lake, warehouse"),
        (["ingest", "--date", "2026-11-19", "--set", "train.epochs=three"], "train.epochs = 'three'"),
        (["ingest", "--date", "2026-11-19", "--set", "train.epochs=0"], "greater than or equal to 1 (--set train.epochs=0)"),
        (["ingest", "--date", "2026-11-19", "--set", "epochs"], "expected section.key=value"),
        (["ingest", "--date", "2026-11-19", "--config", "nowhere.toml"], "'nowhere.toml' cannot be read: No such file"),
        (["ingest", "--date", "2026-11-19", "--config", "."], "cannot be read"),
        (["ingest", "--date", "2026-11-19", "--result", "no/such/folder/result.json"], "--result"),
        (["ingest", "--date", "2026-11-19", "--result", "."], "--result '.': expected a file"),
        (["ingest", "--date", "2026-11-19", "--result", "new/"], "--result 'new/': expected a file"),
        (["erase", "--date", "2026-11-19"], "erase needs --user"),
        (["train", "--date", "2026-11-19", "--user", "u1"], "--user is of erase; found the verb train"),
        (["train", "--date", "2026-11-19", "--dry-run"], "--dry-run is of ingest, build_corpora, recommend, search, suggest, release; found the verb train"),
        (["train", "--date", "2026-11-19", "--allow-empty"], "--allow-empty is of ingest, run; found the verb train"),
        (["ingest", "--date", "2026-11-19", "--install"], "--install is of doctor"),
        (["ingest", "--date", "2026-11-19", "spare"], "unrecognized arguments: spare"),
    ],
)
def test_bad_arguments_are_64_and_say_what_is_allowed(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 64
    assert told in capsys.readouterr().err
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nepochs = 'many'\n", "train.epochs = 'many'"),
        ("[train]\nepoch = 3\n", "unknown key 'train.epoch'"),
        ("[train\n", "is not valid TOML"),
        ("[lake]\nroot = '${TANDEM_NOT_SET}/lake'\n", "TANDEM_NOT_SET"),
    ],
)
def test_a_bad_file_is_64_and_is_named(tmp_path, capsys, text, told):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert main(["ingest", "--date", "2026-11-19", "--config", str(path)]) == 64
    error = capsys.readouterr().err
    assert told in error and "mine.toml" in error
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["ingest", "--date", "2026-11-19", "--config", str(path)]) == 64


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.builds(lambda tail: f"2026-11-19{tail}", st.text(min_size=1, max_size=40)),
    st.builds(lambda head, tail: f"{head}2026-11-19{tail}", st.sampled_from(["'", '"', "../", "ds=", "`", "$(", "; ", " "]), st.text(max_size=10)),
    st.from_regex(r"\d{4}-\d{2}-\d{2}", fullmatch=True).filter(lambda text: not text.isascii()),  # other scripts' digits
)


@pytest.mark.fault("R18")
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
@example("2099-01-01' OR '1'='1")
@example("2026-11-19\n")
@example("２０２６-１１-１９")
@example("")
def test_no_hostile_date_reaches_a_verb(tmp_path, monkeypatch, text):
    """R18: exit 64 and nothing written, for a thousand strings and for every verb that writes."""
    monkeypatch.chdir(tmp_path)
    for verb in ("release", "ingest"):
        assert main([verb, f"--date={text}", "--set", f"lake.root={tmp_path / 'lake'}"]) == 64
    assert files(tmp_path) == []


def test_the_light_path_loads_nothing_heavy():
    """A refused argument, and --help, cost no import of Spark or torch."""
    code = "import sys; from jobs.__main__ import main; main(['ingest', '--date', 'x']); main([])\n"
    code += "assert not {'pyspark', 'torch', 'transformers', 'delta'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_missing_tables_are_69_and_bad_ones_leave_nothing(spark, tmp_path, capsys):
    """Every verb that reads a table names the one that is missing, and who writes it; the lake stays empty."""
    root = tmp_path / "lake"
    shared = ["--date", "2026-11-19", "--set", f"lake.root={root}", "--set", f"warehouse.interactions={{path = '{tmp_path}/none', format = 'jsonl'}}"]
    for verb, table in {"build_corpora": "events", "embed_items": "items", "release": "items|staged", "rollback": "released", "report": "nothing"}.items():
        assert main([verb, *shared]) == 69, verb
        error = capsys.readouterr().err
        assert any(name in error for name in table.split("|")), error
        assert error.startswith("tandem: ") and "Traceback" not in error
    assert files(tmp_path) == []


def test_a_night_that_fails_says_where_and_what_is_served(spark, tmp_path, caplog, capsys):
    with caplog.at_level("INFO", logger="tandem"):
        code = main(
            ["run", "--date", "2026-11-19", "--set", f"lake.root={tmp_path}", "--set", f"warehouse.catalogue={{path = '{tmp_path}/no', format = 'csv'}}"]
        )
    assert code == 69
    assert re.search(r"1/11 ingest FAILED after [\d.]+ s; nothing was released yet", caplog.text)
    assert "2/10" not in caplog.text
    assert capsys.readouterr().err.startswith("tandem: ")


def test_peak_memory_counts_children():
    with PeakMemory(every=0.05) as quiet:
        pass
    with PeakMemory(every=0.05) as busy:
        subprocess.run([sys.executable, "-c", "import time; held = bytearray(300_000_000); time.sleep(1)"], check=True)
    assert quiet.peak_mb > 0 and busy.peak_mb >= quiet.peak_mb + 250


def test_result_is_json_and_our_bugs_are_70(tmp_path, monkeypatch, capsys):
    from jobs import doctor

    result = tmp_path / "result.json"
    monkeypatch.setattr(doctor, "LOOKS", (lambda config: iter([doctor.Finding("ok", "all of it")]),))
    assert main(["doctor", "--result", str(result)]) == 0
    assert json.loads(result.read_text()) == {"ok": 1, "missing": 0, "note": 0}
    monkeypatch.setattr(doctor, "LOOKS", (lambda config: 1 / 0,))
    assert main(["doctor"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_as_a_process():
    """The console line itself: exit code and stderr as Airflow sees them."""
    done = subprocess.run([sys.executable, "-m", "jobs", "release", "--date", "tomorrow"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr == "tandem: --date 'tomorrow': expected a day as YYYY-MM-DD, e.g. 2026-11-19\n"
