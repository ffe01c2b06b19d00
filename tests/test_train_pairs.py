"""gensr trained from Delta tables on the checkerboard: who likes which colour, and which word means which item, is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import worlds

from model import artifact, lightgcn, train
from model.questions import Form
from model.rerank import Reranker
from model.train_pairs import PairTraining

FORM = {"filter": "bilinear", "weight": 0.01}


def spec(root: Path, **settings) -> dict:
    made = worlds.training_spec(root, recipe="gensr", **({"epochs": 5, "batch_size": 32, "backbone": "micro", "learning_rate": 2e-3} | settings))
    return made | {"pairs": {"form": FORM, "negatives": 4, "hard": 0.5, "pool": 8, "item_words": 4, "first": 0.0, "first_pool": 1, "blend": False}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("pairs")
    worlds.write_lake(root, worlds.checkerboard_rows())
    patch = pytest.MonkeyPatch()
    patch.setattr(lightgcn, "FEWEST", 100)
    made = spec(root)
    (root / "spec.json").write_text(json.dumps(made))
    assert train.main([str(root / "spec.json")]) == 0
    patch.undo()
    return root, made


def test_it_learns_the_checkerboard(trained) -> None:
    """Among all twelve items, a user's colour and a query's item come first; the curve tells each epoch, and nothing of the work is left."""
    root, made = trained
    weights, vocabulary, item_ids, config, _ = artifact.load(Path(made["output"]))
    model = Reranker(weights, vocabulary, item_ids, config)
    histories = [[{"item_id": worlds.ITEMS[n]} for n in (2 * start + colour for start in range(3))] for colour in (0, 1)]
    for colour, (items, _) in enumerate(model.rank("recommend", histories, [None, None], [worlds.ITEMS] * 2, 4)):
        assert sum(int(item[4:]) % 2 == colour for item in items) >= 3
    found = model.rank("search", [histories[n % 2] for n in range(12)], [f"thing {word}" for word in worlds.WORDS], [worlds.ITEMS] * 12, 2)
    assert sum(worlds.ITEMS[n] in items for n, (items, _) in enumerate(found)) >= 9
    curve = json.loads((Path(made["output"]) / "curve.json").read_text())
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4, 5] and curve[-1]["loss"] < 0.4 < curve[0]["loss"]
    assert curve[-1]["search_ndcg@10"] > 0.8  # .52 by chance among seven
    assert not (root / "work").exists()


def test_the_artifact_tells_what_it_is(trained) -> None:
    _, made = trained
    weights, vocabulary, item_ids, config, _ = artifact.load(Path(made["output"]))
    assert config["recipe"] == "gensr" and Form(**{**config["form"], "views": tuple(config["form"]["views"])}) == Form(**FORM)
    assert vocabulary.level_sizes == (2,) and item_ids == worlds.ITEMS and len(weights["texts"]) == len(weights["table"]) == 12


def test_training_rows_alone_make_the_table(trained) -> None:
    """The last two days' pairs are held out: no interaction of theirs is learnt from, and no target stands among its negatives."""
    _, made = trained
    fit = lightgcn.fit
    seen = {}

    def spied(pairs: np.ndarray, *rest, **more):
        seen["pairs"] = pairs
        return fit(pairs, *rest, **more)

    patch = pytest.MonkeyPatch()
    patch.setattr(lightgcn, "fit", spied)
    patch.setattr(lightgcn, "FEWEST", 1)
    training = PairTraining(made)
    patch.undo()
    bound = np.datetime64(made["valid_from"].split("+")[0], "us")
    assert (training.train.at < bound).all() and (training.valid.at >= bound).all() and len(training.valid)
    told = {(user, item) for user, item, at in zip(training.train.user, training.train.target, training.train.at, strict=True) if at < bound}
    assert {tuple(pair) for pair in seen["pairs"].tolist()} <= told | {
        (user, int(item)) for n, user in enumerate(training.train.user) for item in training.train.history[n]
    }
    drawn = training.drawing.candidates(training.train, (1,))
    assert not (drawn[:, 1:] == drawn[:, :1]).any()
    of_search = training.train.pool.lengths[training.train.task == 1]
    assert (of_search > 0).all() and not training.train.pool.lengths[training.train.task == 0].any()
