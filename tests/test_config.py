"""The configuration: precedence, and errors that tell what was found, what is allowed, and where it was set."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config import Config, load, parse_run_id, reference
from jobs.errors import BadArgument
from jobs.sections import Corpora

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_defaults_then_file_then_set(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[train]\nepochs = 3\nbackbone = "small"\n')
    config = load(str(path), ["train.epochs=4", "recommend.exclude_seen=false", "ingest.base_day=2026-01-02", "lake.root=/x y"])
    assert (config.train.epochs, config.train.backbone, config.train.seed) == (4, "small", 7)
    assert (config.recommend.exclude_seen, config.ingest.base_day, config.lake.root) == (False, date(2026, 1, 2), "/x y")


def test_the_reference_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(reference())
    assert load(str(path)) == Config()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_examples_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DATA", "/data")
    assert load(str(EXAMPLES / name)).hash() == load(str(EXAMPLES / name)).hash()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs=0", r"train\.epochs = 0: .*greater than or equal to 1 \(--set train\.epochs=0\)"),
        ("train.recipe=gensrr", r"train\.recipe = 'gensrr': .*'bridge'.* \(--set"),
        ("train.epoch=3", r"unknown key 'train\.epoch': allowed are recipe, .*epochs.* \(--set train\.epoch=3\)"),
        ("trian.epochs=3", r"unknown key 'trian': allowed are lake, warehouse, .*train.* \(--set"),
        ("train=3", r"--set 'train=3': expected section\.key=value"),
        ("lake.root.deep=1", r"lake\.root"),
        ("lake.root=${TANDEM_NO_SUCH}", r"TANDEM_NO_SUCH.*not set"),
    ],
)
def test_errors_have_two_sides_and_a_place(override: str, told: str) -> None:
    with pytest.raises(BadArgument, match=told):
        load(None, [override])


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nepochs = 'many'\n")
    with pytest.raises(BadArgument, match=r"train\.epochs = 'many': .*c\.toml"):
        load(str(path))
    path.write_text("[train\n")
    with pytest.raises(BadArgument, match=r"c\.toml.* is not valid TOML"):
        load(str(path))
    with pytest.raises(BadArgument, match="cannot be read"):
        load(str(tmp_path / "none.toml"))


@given(epochs=st.integers(1, 50), seed=st.integers(0, 9))
@settings(max_examples=50)
def test_a_hash_changes_exactly_with_its_sections(epochs: int, seed: int) -> None:
    config = load(None, [f"train.epochs={epochs}", f"embed.seed={seed}"])
    assert (config.hash("train") == Config().hash("train")) == (epochs == Config().train.epochs)
    assert (config.hash("embed") == Config().hash("embed")) == (seed == Config().embed.seed)


def test_the_night_parts_time_without_gap_or_overlap() -> None:
    valid_from, test_from = Corpora(valid_days=2, test_days=3).bounds(date(2026, 3, 1))
    assert (valid_from, test_from) == (datetime(2026, 2, 25, tzinfo=UTC), datetime(2026, 2, 27, tzinfo=UTC))


@pytest.mark.parametrize("run_id", ["", "../../etc/passwd", "a b", "x'; DROP", "-x", "é", "a" * 201])
def test_hostile_run_ids_are_refused(run_id: str) -> None:
    with pytest.raises(BadArgument, match="--run-id"):
        parse_run_id(run_id)


def test_a_log_can_be_said_not_to_exist() -> None:
    """TOML has no null; only where nothing is meant does "none" stand for it."""
    assert load(None, ["warehouse.searches=none"]).warehouse.searches is None
    assert load().warehouse.searches is not None
    with pytest.raises(BadArgument, match=r"warehouse\.interactions"):
        load(None, ["warehouse.interactions=none"])


def test_prefix_share_leaves_each_task_a_level() -> None:
    semantic = ["identifiers.scheme=semantic", "identifiers.construction=prefix_share"]
    with pytest.raises(BadArgument, match=r"shared_levels = 2 leaves none of 2 levels"):
        load(None, [*semantic, "identifiers.levels=2", "identifiers.shared_levels=2"])
    held = load(None, [*semantic, "identifiers.levels=2"]).identifiers
    assert (held.views, held.shared) == (("recommend", "search"), 1)
    assert load(None, ["identifiers.construction=prefix_share"]).identifiers.views == ("joint",), "an atomic name has no first codes to share"
    assert load(None, ["identifiers.construction=separate"]).identifiers.views == ("recommend", "search")


def test_a_recipe_stands_behind_what_is_asked_for() -> None:
    """gensar's own settings; gensr with those of its first stage, but for its tasks; a key that is set stays as it is set."""
    gensar = load(None, ["train.recipe=gensar", "identifiers.levels=5"])
    assert (gensar.identifiers.construction, gensar.identifiers.levels, len(gensar.train.tasks), gensar.search.personalised) == ("dual", 5, 6, True)
    gensr = load(None, ["train.recipe=gensr", "train.batch_size=32"])
    assert (gensr.identifiers, gensr.train.mixing, gensr.train.batch_size) == (Config().identifiers, "proportional", 32)
    behind = load(None, ["train.recipe=gensr", "gensr.candidates_from=gensar"])
    assert (behind.identifiers, behind.train.mixing) == (load(None, ["train.recipe=gensar"]).identifiers, gensar.train.mixing)
    assert behind.train.tasks == gensr.train.tasks == ("recommend", "search")
