"""gensr behind a generative first stage: trained, stored and answering as one model."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from worlds import ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from jobs.config import load as configured
from jobs.train import of_first_stage, of_gensr
from model import rank, train
from model.corpus import splits
from model.train_pairs import PairTraining
from model.two_stage import TwoStage


def acts(items: list[int]) -> list[dict]:
    return [{"item_id": ITEMS[i], "surface": "recommendation", "query": None} for i in items]


def pair_spec(root: Path, first: Path, **settings: object) -> dict:
    asked = of_gensr(configured(None, ["gensr.candidates=6", "gensr.item_words=4"]))
    told = {name: asked[name] for name in ("pairs", "history_length", "depth")} | {"candidates": str(first), "model_version": "second"}
    spec = training_spec(root, **{"recipe": "gensr", "batch_size": 32, "epochs": 12, **settings}) | told
    return spec | {"output": str(root / "second"), "work": str(root / "work-second"), "spec_hash": "1" * 64}


def test_a_second_stage_has_a_pace_of_its_own() -> None:
    """What a model of items learns well at, a model of pairs may not learn at at all."""
    config = configured(None, ["train.recipe=gensr", "train.learning_rate=0.002", "train.batch_size=512"])
    told, first = of_gensr(config)["train"], of_first_stage(config).train
    assert (told["learning_rate"], told["batch_size"]) == (config.gensr.learning_rate, config.gensr.batch_size) == (3e-4, 64)
    assert (first.learning_rate, first.batch_size) == (0.002, 512)


def run(spec: dict, path: Path) -> int:
    path.write_text(json.dumps(spec))
    return train.main([str(path)])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages trained on the checkerboard, the first one shortly: it is the second that has to order."""
    root = tmp_path_factory.mktemp("world")
    write_lake(root, checkerboard_rows())
    assert run(training_spec(root, epochs=8), root / "first.json") == 0
    assert run(pair_spec(root, root / "artifact"), root / "second.json") == 0
    return root


def test_it_answers_as_one_model(lake: Path) -> None:
    found = rank.load(str(lake / "second"))
    assert isinstance(found, TwoStage)
    walks = [[(start + 2 * step) % 12 for step in range(4)] for start in range(12)]
    histories, nothing = [acts(walk) for walk in walks], [None] * 12
    candidates = rank.load(str(lake / "artifact")).rank("recommend", histories, nothing, 6)
    answers = found.rank("recommend", histories, nothing, 3)
    for (items, scores), (offered, _) in zip(answers, candidates, strict=True):
        assert len(items) == 3 and set(items) <= set(offered) and (np.diff(scores) <= 0).all()
    excluded = found.rank("recommend", histories, nothing, 6, exclude=[[ITEMS[items[0]]] for items, _ in answers])
    assert all(first[0][0] not in again[0] for first, again in zip(answers, excluded, strict=True))
    assert [len(items) for items, _ in found.rank("recommend", [[], acts([3])], [None, None], 2)] == [0, 2]
    searched = found.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 12)
    assert sum(found.item_ids[items[0]] == item for (items, _), item in zip(searched, ITEMS, strict=True)) >= 10
    curve = json.loads((lake / "second" / "curve.json").read_text())
    assert curve[-1]["search_ndcg@10"] >= max(0.9, curve[0]["search_ndcg@10"]) and curve[-1]["loss"] < curve[0]["loss"]


def test_a_first_stage_that_changed_is_refused(lake: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("artifact", "second"):
        shutil.copytree(lake / name, tmp_path / name)
    manifest = tmp_path / "artifact" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match="expected the first stage with manifest"):
        rank.load(str(tmp_path / "second"))


def test_stopped_and_started_again_it_ends_at_the_same_weights(lake: Path, tmp_path: Path) -> None:
    """Three epochs at once; and three of which the first attempt ends after one."""
    from safetensors.numpy import load_file

    straight = pair_spec(lake, lake / "artifact", epochs=3) | {"output": str(tmp_path / "straight"), "work": str(tmp_path / "w1")}
    assert run(straight, tmp_path / "a.json") == 0
    broken = pair_spec(lake, lake / "artifact", epochs=3) | {"output": str(tmp_path / "resumed"), "work": str(tmp_path / "w2")}
    training = train.kind("gensr")(broken)
    training.resume()
    training.started = 0.0
    training.run_epoch()
    training.end_epoch()
    assert run(broken, tmp_path / "b.json") == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "resumed"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_scores_are_those_of_both_stages(lake: Path) -> None:
    """A score adds up what the artifact's weights say of the first stage's score, of the odds and of each similarity; without weights the order is of the odds
    alone, with nothing but the first's it is the first's, and an earlier artifact's one number weighs the odds beside the first's."""
    found = rank.load(str(lake / "second"))
    names = [f"{view} {how}" for view in ("collaborative", "semantic") for how in ("mean", "nearest", "latest")]
    assert {task: list(each) for task, each in found.weights.items()} == {"recommend": ["score", "odds", *names], "search": ["score", "odds", *names, "query"]}
    histories, nothing = [acts([start, (start + 2) % 12]) for start in range(12)], [None] * 12
    first = [dict(zip((found.item_ids[row] for row in rows), scores, strict=True)) for rows, scores in found.first.rank("recommend", histories, nothing, 6)]
    offered, second = [list(of) for of in first], found.second
    seen = [[second.rows[act["item_id"]] for act in history] for history in histories]
    numbers, before = [[second.rows[item] for item in of] for of in offered], [list(of.values()) for of in first]
    features = second.scorer.features("recommend", seen, [[]] * 12, numbers, before)
    asked = {
        "odds alone": (None, [0, 1, 0, 0, 0, 0, 0, 0]),
        "first alone": ({"score": 1.0}, [1, 0, 0, 0, 0, 0, 0, 0]),
        "an earlier artifact": (2.0, [1, 2, 0, 0, 0, 0, 0, 0]),
        "some": ({"semantic latest": -1.0, "score": 0.5, "collaborative nearest": 3.0, "odds": 2.0}, [0.5, 2, 0, 3, 0, 0, 0, -1]),
    }
    for weights, each in asked.values():
        model = TwoStage(found.first, second, 6, {} if weights is None else {"recommend": weights})
        for (rows, scores), of_first, of_items in zip(model.rank("recommend", histories, nothing, 6), first, features, strict=True):
            expected = dict(zip(of_first, of_items @ each, strict=True))
            np.testing.assert_allclose(scores, [expected[found.item_ids[row]] for row in rows], atol=5e-4)
            assert len(rows) == 6 and (np.diff(scores) <= 0).all()


def test_a_task_without_validation_requests_stays_in_the_first_stages_order(lake: Path) -> None:
    training = PairTraining(pair_spec(lake, lake / "artifact"))
    weights, ranks = training.weighed(training.scorer(), "search", np.empty(0, np.int64))
    assert {name: weight for name, weight in weights.items() if weight} == {"score": 1.0} and not len(ranks)


@pytest.mark.parametrize("new_only", [True, False])
def test_wrong_items_are_the_first_stages_own(lake: Path, new_only: bool) -> None:
    """Half of them; none is the right one, nor of the history where recommendations are of new items alone."""
    spec = pair_spec(lake, lake / "artifact") | {"exclude_seen": new_only}
    training = PairTraining(spec | {"pairs": spec["pairs"] | {"first_pool": 6}})
    rows = np.arange(0, len(training.train), 7)
    batch, answers = training.train.take(rows), training.answers.take(rows)
    drawn = training.drawing.candidates(batch, (1,), answers)
    assert (drawn[:, 0] == batch.target).all() and all(len(set(row)) == len(row) for row in drawn.tolist())
    for i in range(len(rows)):
        barred = set(batch.history[i].tolist()) if new_only and batch.task[i] == 0 else set()
        offered, wrong = set(answers[i].tolist()), set(drawn[i, 1:].tolist())
        assert not barred & (wrong | offered) and len((offered - {int(batch.target[i])}) & wrong) >= min(2, len(offered) - 1)
    _, asked = training.requests(splits(spec)["train"], spec["train"]["max_query_tokens"])
    told = rank.load(str(lake / "artifact")).rank("recommend", asked.take(pa.array(rows))["history"].to_pylist(), [None] * len(rows), 6, ordered=False)
    walks = [i for i in range(len(rows)) if batch.task[i] == 0]
    assert any(answers[i].tolist() != told[i][0].tolist() for i in walks) == new_only
