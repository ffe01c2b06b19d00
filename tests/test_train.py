"""Training: it learns a known world, survives kill -9 to the same weights, and refuses what is not sound."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import DAY, ITEMS, WORDS, checkerboard_rows, training_spec, write_lake

from model import artifact, data, rank, train, train_unified
from model.data import Examples, Ragged
from model.recipes import RECIPES
from model.tasks import item_part


def trained(root: Path, **settings: object) -> rank.Ranker:
    write_lake(root, checkerboard_rows())
    path = root / "spec.json"
    path.write_text(json.dumps(training_spec(root, **settings)))
    assert train.main([str(path)]) == 0
    return rank.load(str(root / "artifact"))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> rank.Ranker:
    return trained(tmp_path_factory.mktemp("world"))


def acts(items: list[int]) -> list[dict[str, Any]]:
    return [{"item_id": ITEMS[i], "surface": "recommendation", "query": None} for i in items]


def test_learns_the_world(ranker: rank.Ranker) -> None:
    """A query's item first for all twelve; a walk's next item first, also after a history that no training row held."""
    searched = ranker.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1)
    assert [ITEMS[items[0]] for items, _ in searched] == ITEMS
    walks = [[(start + 2 * step) % 12 for step in range(4)] for start in range(12)]
    walked = ranker.rank("recommend", [acts(walk) for walk in walks], [None] * 12, 3)
    assert [int(items[0]) for items, _ in walked] == [(walk[-1] + 2) % 12 for walk in walks]


@pytest.mark.fault("R38", "R39")
def test_contract(ranker: rank.Ranker) -> None:
    """Distinct known items, scores falling, batch = single, asking for more than exist, exclusions, availability, empty requests."""
    histories = [acts([0, 2]), acts([1]), [], acts([3, 5, 7])]
    together = ranker.rank("recommend", histories, [None] * 4, 50)
    assert [len(items) for items, _ in together] == [12, 12, 0, 12]
    for (items, scores), history in zip(together, histories, strict=True):
        assert len(set(items.tolist())) == len(items) and (np.diff(scores) <= 0).all() and (scores < 0).all()
        alone = ranker.rank("recommend", [history], [None], 50)[0]
        np.testing.assert_array_equal(alone[0], items)
        np.testing.assert_allclose(alone[1], scores, atol=1e-5)
    allowed = np.array([i % 3 != 0 for i in range(12)])
    filtered = ranker.rank("recommend", histories, [None] * 4, 50, exclude=[[ITEMS[1], "never heard of"], [], [ITEMS[4]], []], allowed=allowed)
    assert sorted(filtered[0][0].tolist()) == [i for i in range(12) if i % 3 and i != 1]
    assert sorted(filtered[1][0].tolist()) == [i for i in range(12) if i % 3]
    assert [len(items) for items, _ in ranker.rank("search", [[]] * 3, ["", None, "qqq"], 5)][:2] == [0, 0]
    assert ranker.rank("recommend", [[{"item_id": "left the shop", "surface": "recommendation"}]], [None], 5)[0][0].size == 0
    with pytest.raises(ValueError, match="'swim': this model was trained on recommend, search"):
        ranker.rank("swim", [[]], ["x"], 1)


def test_semantic_codes_learn_the_same_world(tmp_path: Path) -> None:
    write_lake(tmp_path, checkerboard_rows(), np.array([[i % 2, i // 4, i // 2 % 2] for i in range(12)]), scheme="semantic")
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(training_spec(tmp_path, scheme="semantic")))
    assert train.main([str(path)]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    searched = found.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 12, beams=12)
    assert [found.item_ids[items[0]] for items, _ in searched] == ITEMS
    assert all(len(set(items.tolist())) == 12 for items, _ in searched)


def test_a_name_per_task_learns_the_same_world(tmp_path: Path) -> None:
    """The first code (the colour) is both tasks' own, the other two are each task's: no answer has a code of the other task."""
    codes = {view: np.array([[i % 2, *other(i)] for i in range(12)]) for view, other in (("recommend", by_place), ("search", by_word))}
    write_lake(tmp_path, checkerboard_rows(), codes, scheme="semantic")
    spec = training_spec(tmp_path, scheme="semantic") | {"shared_levels": 1}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    tokens = {view: set(held[:, 1:].ravel()) for view, held in found.vocabulary.item_tokens.items()}
    assert not tokens["recommend"] & tokens["search"]
    np.testing.assert_array_equal(*(held[:, 0] for held in found.vocabulary.item_tokens.values()))
    for view in ("recommend", "search"):
        allowed = {int(token) + found.vocabulary.text_size for level in found.constraint(view, None).tokens for token in level}
        assert allowed == set(found.vocabulary.item_tokens[view].ravel().tolist())
    searched = found.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 12, beams=12)
    assert [found.item_ids[items[0]] for items, _ in searched] == ITEMS and all(len(set(items.tolist())) == 12 for items, _ in searched)
    walks = [[(begin + 2 * step) % 12 for step in range(4)] for begin in range(12)]
    walked = found.rank("recommend", [acts(walk) for walk in walks], [None] * 12, 3, beams=12, exclude=[[ITEMS[walk[0]]] for walk in walks])
    assert [found.item_ids[items[0]] for items, _ in walked] == [ITEMS[(walk[-1] + 2) % 12] for walk in walks]


def test_gensar_learns_the_same_world_and_the_words(tmp_path: Path) -> None:
    """Six tasks in one model: the next item, the item of a query, an item by words of its text, and which query comes next."""
    codes = {view: np.array([[i % 2, *other(i)] for i in range(12)]) for view, other in (("recommend", by_place), ("search", by_word))}
    rows = checkerboard_rows()
    for row in rows:
        row["history"] = by_turns(row["history"])
    write_lake(tmp_path, rows, codes, scheme="semantic")
    own = RECIPES["gensar"].settings["train"]
    # Searches are asked without a history below: half of them are learnt so, too.
    chosen = own | {"recipe": "gensar", "epochs": 16, "mixing": own["mixing"] | {"next_query": 1.0}, "history_in_search": 0.5}
    spec = training_spec(tmp_path, scheme="semantic", **chosen) | {"shared_levels": 1}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert train.main([str(tmp_path / "spec.json")]) == 0
    found = rank.load(str(tmp_path / "artifact"))
    searched = found.rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 12, beams=12)
    assert [found.item_ids[items[0]] for items, _ in searched] == ITEMS and all(len(set(items.tolist())) == 12 for items, _ in searched)
    walks = [[(begin + 2 * step) % 12 for step in range(4)] for begin in range(12)]
    histories = [by_turns(acts(walk)) for walk in walks]
    walked = found.rank("recommend", histories, [None] * 12, 3, beams=12)
    assert [found.item_ids[items[0]] for items, _ in walked] == [ITEMS[(walk[-1] + 2) % 12] for walk in walks]
    queries, numbers = found.query_catalogue([f"thing {word}" for word in WORDS] + ["thing one", "", "THING TWO"])
    suggested = found.suggest(found.asks("next_query", histories, [None] * 12), queries, 12, 12)
    assert [int(numbers[leaves[0]]) for leaves, _ in suggested] == [(walk[-1] + 2) % 12 for walk in walks]
    assert sorted(numbers.tolist()) == list(range(12))  # of equal words the first, and no empty query


def by_turns(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every second step was a search for the item."""
    return [act | {"surface": "search", "query": f"thing {WORDS[ITEMS.index(act['item_id'])]}"} if step % 2 else act for step, act in enumerate(history)]


def by_place(item: int) -> tuple[int, int]:
    return item // 4, item // 2 % 2


def by_word(item: int) -> tuple[int, int]:
    return (item // 2 + 1) % 2, (item // 2) // 2


def test_pseudo_queries_find_what_nobody_has_searched(tmp_path: Path) -> None:
    """Half of the items are first searched on the validation day: bridge alone knows no word of theirs, and with queries made of their texts it finds each."""
    known = [row for row in checkerboard_rows() if row["task"] == "recommend" or row["target_item_id"] in ITEMS[:6] or (DAY - row["ds"]).days < 2]
    found = {}
    for tasks in (["recommend", "search"], ["recommend", "search", "pseudo_search"]):
        root = tmp_path / f"{len(tasks)}"
        root.mkdir()
        write_lake(root, known)
        (root / "spec.json").write_text(json.dumps(training_spec(root, tasks=tasks, pseudo_per_item=16, pointers=0)))
        assert train.main([str(root / "spec.json")]) == 0
        searched = rank.load(str(root / "artifact")).rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1)
        found[len(tasks)] = [ITEMS[items[0]] == item for (items, _), item in zip(searched, ITEMS, strict=True)]
    assert all(found[2][:6]) and sum(found[2][6:]) <= 2 and all(found[3])


def test_one_task_alone(tmp_path: Path) -> None:
    found = trained(tmp_path, tasks=["search"], epochs=1)
    with pytest.raises(ValueError, match="trained on search"):
        found.rank("recommend", [acts([1])], [None], 1)


def test_only_training_rows_train(tmp_path: Path) -> None:
    """Rows of the validation and test days may say anything: the weights stay the same (early stopping aside)."""
    weights = []
    for name, spoil in (("a", False), ("b", True)):
        rows = checkerboard_rows(users=20)
        for row in rows:
            if spoil and (DAY - row["ds"]).days < 2:
                row |= {"target_item_id": ITEMS[0]} | ({"query": "leaked word"} if row["query"] else {})
        root = tmp_path / name
        root.mkdir()
        write_lake(root, rows)
        path = root / "spec.json"
        path.write_text(json.dumps(training_spec(root, epochs=1)))
        assert train.main([str(path)]) == 0
        weights.append(artifact.load(root / "artifact"))
    assert all(np.array_equal(weights[0][0][name], weights[1][0][name]) for name in weights[0][0])
    assert "leaked" not in weights[1][1].tokenizer.get_vocab()


@pytest.mark.fault("R48")
@pytest.mark.parametrize("users", [("user3",), ("user3", "user4")])
def test_what_one_person_alone_typed_is_no_token(tmp_path: Path, users: tuple[str, ...]) -> None:
    """In two queries of one person a card number does not become a token; in two that two people asked it is a word as any other."""
    rows = checkerboard_rows(users=6)
    for user in users:
        asked = [row for row in rows if row["user_id"] == user and row["task"] == "search"]
        for row, word in zip(asked, ("pay", "call"), strict=False):
            row["query"] = f"{word} 4111111111111111"
    write_lake(tmp_path, rows)
    vocabulary = train_unified.UnifiedTraining(training_spec(tmp_path)).vocabulary
    assert any("4111" in token for token in vocabulary.tokenizer.get_vocab()) is (len(users) > 1)


def start(spec: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "model.train", str(spec)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def weight_delta(root: Path, kills: int) -> float:
    """The largest difference between the weights of a straight training and of one that is killed so often; the second kill also damages a checkpoint."""
    write_lake(root, checkerboard_rows(users=20))
    finished = {}
    for name, times in (("straight", 0), ("killed", kills)):
        work = root / name
        spec = training_spec(root, epochs=6, dropout=0.3, checkpoint_steps=2) | {"work": str(work), "output": str(root / f"{name}-artifact")}
        path = root / f"{name}.json"
        path.write_text(json.dumps(spec))
        for kill in range(times):
            process = start(path)
            before = {p.name for p in work.glob("checkpoint-*")}
            while process.poll() is None and len({p.name for p in work.glob("checkpoint-*")} - before) < 1:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert process.returncode == -signal.SIGKILL, "the training ended before it could be killed"
            if kill == 1:
                newest = max(work.glob("checkpoint-*"))
                (newest / "state.safetensors").write_bytes(b"half a file")
        process = start(path)
        assert process.wait() == 0, process.stderr.read().decode()
        finished[name] = artifact.load(root / f"{name}-artifact")
        assert not work.exists()
    straight, killed = finished["straight"], finished["killed"]
    return max(float((straight[0][name] - killed[0][name]).abs().max()) for name in straight[0])


@pytest.mark.fault("R27", "R32", "R33")
def test_killed_and_resumed_equals_straight(tmp_path: Path) -> None:
    """Kill -9 after each of three checkpoints, one of which is then damaged; the weights differ by nothing."""
    assert weight_delta(tmp_path, 3) <= 1e-6


def test_warm_start_keeps_what_was_learnt_and_grows(tmp_path: Path) -> None:
    """The parent's answers hold at the start of the first warm epoch; the new item gets a row, old items keep theirs."""
    rows = checkerboard_rows()
    write_lake(tmp_path, rows, np.arange(12)[:, None])
    spec = training_spec(tmp_path, warm_epochs=1, learning_rate=1e-9)
    elder = trained_on(tmp_path / "elder", items=11)
    spec["parent"] = str(elder)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    assert train.main([str(path)]) == 0
    old, new = artifact.load(elder), artifact.load(tmp_path / "artifact")
    before, after = old[0]["t5.shared.weight"], new[0]["t5.shared.weight"]
    assert after.shape[0] == before.shape[0] + 1
    np.testing.assert_allclose(after[: before.shape[0]].numpy(), before.numpy(), atol=1e-6)


def trained_on(root: Path, items: int) -> Path:
    """A one-epoch model of the first `items` items only."""
    root.mkdir()
    write_lake(root, checkerboard_rows(users=20), np.arange(items)[:, None])
    path = root / "spec.json"
    path.write_text(json.dumps(training_spec(root, epochs=1)))
    assert train.main([str(path)]) == 0
    return root / "artifact"


@pytest.mark.fault("R35")
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda spec: spec.update(valid_from="2020-01-01T00:00:00+00:00"), "no training example"),
        (lambda spec: spec["train"].update(learning_rate=1e30), "loss is"),
    ],
)
def test_unsound_training_stops_with_65_and_leaves_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, told: str) -> None:
    write_lake(tmp_path, checkerboard_rows(users=10))
    spec = training_spec(tmp_path)
    spoil(spec)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    assert train.main([str(path)]) == 65
    assert told in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists() and Path(spec["work"], "exit").read_text() == "65"


def test_patience_counts_the_epochs_that_bring_nothing(tmp_path: Path) -> None:
    """At a learning rate of 0 no epoch is better than the first: the second is the one that patience allows."""
    write_lake(tmp_path, checkerboard_rows(users=10))
    spec = training_spec(tmp_path)
    spec["train"].update(learning_rate=0.0, patience=1, epochs=9)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    assert train.main([str(path)]) == 0
    assert len(json.loads((tmp_path / "artifact/curve.json").read_text())) == 2


def test_few_examples_choose_nothing_beside_many(tmp_path: Path) -> None:
    """99 searches have no say beside 100 recommendations, 100 have; where neither task has as many, both are heard."""
    write_lake(tmp_path, checkerboard_rows())
    training = train_unified.UnifiedTraining(training_spec(tmp_path))
    figures, heard = {"recommend_ndcg@10": 0.3, "search_ndcg@10": 0.9, "loss": 1.0}, {}
    for recommendations, searches in ((100, 99), (100, 100), (99, 5)):
        tasks = np.repeat([0, 1], [recommendations, searches])
        training.valid = of_tasks(tasks, np.zeros(len(tasks), int))
        heard[recommendations, searches] = training.judged(figures)
    both = {"recommend": 0.3, "search": 0.9}
    assert heard == {(100, 99): {"recommend": 0.3}, (100, 100): both, (99, 5): both}
    assert training.judged({"recommend_ndcg@10": 0.3}) == {"recommend": 0.3}


@pytest.mark.fault("R34")
def test_a_changed_artifact_is_refused(tmp_path: Path) -> None:
    """R34: another byte, a missing file, or a pickle named in the manifest."""
    folder = trained_on(tmp_path / "a", items=12)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "items.json").write_text((folder / "items.json").read_text().replace("item00", "item99"))
    with pytest.raises(ValueError, match=r"items\.json has hash"):
        artifact.load(folder)
    (folder / "items.json").unlink()
    with pytest.raises(ValueError, match="no file"):
        artifact.load(folder)
    manifest["files"] = {"evil.pkl": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"evil\.pkl"):
        artifact.load(folder)


def test_what_is_never_served_is_not_learnt() -> None:
    """Repeats are found row by row, also where a history is empty."""
    examples = Examples(
        ("recommend",),
        np.zeros(4, np.int8),
        Ragged(np.array([1, 2, 3, 3]), np.array([0, 2, 2, 3, 4])),
        Ragged(np.empty(0), np.zeros(5, int)),
        np.array([2, 1, 1, 3]),
        np.zeros(4, "datetime64[us]"),
        np.zeros(4, int),
    )
    assert examples.repeats.tolist() == [True, False, False, True]


def test_old_examples_are_drawn_less_often() -> None:
    """Three half-lives old: one epoch in eight; none: every epoch; without a half-life all alike."""
    n = 4000
    old = np.arange(n) < n // 2
    at = np.where(old, np.datetime64("2026-01-01", "us"), np.datetime64("2026-01-31", "us"))
    empty = Ragged(np.empty(0, np.int32), np.zeros(n + 1, int))
    examples = Examples(("recommend", "search"), (np.arange(n) % 2).astype(np.int8), empty, empty, np.zeros(n, int), at, np.zeros(n, int))
    drawn = {}
    for mixing in ("proportional", "balanced"):
        rows = np.concatenate(data.batches(examples, data.lengths(examples), 256, mixing, 7, 0, data.chances(examples, 10.0)))
        drawn[mixing] = old[rows].mean()
        assert len(np.unique(rows)) == len(rows) if mixing == "proportional" else len(rows) % 2 == 0
    # 2,000 new rows to 250 old ones, of which each task has its half.
    assert all(abs(share - 1 / 9) < 0.02 for share in drawn.values()), drawn
    assert len(np.concatenate(data.batches(examples, data.lengths(examples), 256, "proportional", 7, 0, data.chances(examples, 0)))) == n


def test_rows_of_like_length_are_batched_together() -> None:
    """Textual answers apart from identifiers, whatever the prompt; then by prompt; the batches in random order."""
    lengths, empty = np.array([[0, 9], [5, 1], [0, 2], [0, 8], [0, 3], [6, 9]]), Ragged(np.empty(0, np.int32), np.zeros(7, int))
    examples = Examples(("recommend",), np.zeros(6, np.int8), empty, empty, np.zeros(6, int), np.zeros(6, "datetime64[us]"), np.zeros(6, int))
    epochs = [[set(rows.tolist()) for rows in data.batches(examples, lengths, 2, "proportional", 7, epoch, np.ones(6))] for epoch in range(10)]
    assert all(sorted(map(sorted, made)) == [[0, 3], [1, 5], [2, 4]] for made in epochs)
    assert len({tuple(map(tuple, map(sorted, made))) for made in epochs}) > 1


def of_tasks(task: np.ndarray, target: np.ndarray) -> Examples:
    n = len(task)
    empty = Ragged(np.empty(0, np.int32), np.zeros(n + 1, int))
    return Examples(("recommend", "search"), task.astype(np.int8), empty, empty, target, np.full(n, np.datetime64("2026-01-01", "us")), np.zeros(n, int))


@pytest.mark.parametrize(("mixing", "search"), [("proportional", 0.1), (1.0, 0.1), (2.0, 0.25), ("balanced", 0.5), (float("inf"), 0.5)])
def test_mixing_sets_the_tasks_shares(mixing: str | float, search: float) -> None:
    """900 against 100 examples: at temperature 2 the shares are 30 to 10. The epoch stays as long, and the rare task's rows come equally often."""
    examples = of_tasks(np.arange(1000) % 10 == 0, np.zeros(1000, int))
    rows = data.epoch_rows(examples, mixing, np.random.default_rng(0), np.ones(1000))
    asked = examples.task[rows] == 1
    assert abs(len(rows) - 1000) <= 1 and abs(asked.mean() - search) < 0.002
    times = np.bincount(rows[asked], minlength=1000)[examples.task == 1]
    assert times.max() - times.min() <= 1


def test_a_cap_holds_per_item_and_task() -> None:
    """Item 0 has 90 searches and 10 recommendations, item 1 has 3 of each; a cap of 5 on search touches the searches of item 0 alone."""
    task, target = np.repeat([1, 0, 1, 0], [90, 10, 3, 3]), np.repeat([0, 0, 1, 1], [90, 10, 3, 3])
    kept = data.capped(of_tasks(task, target), {"search": 5}, seed=7)
    counts = {(t, i): int(((kept.task == t) & (kept.target == i)).sum()) for t in (0, 1) for i in (0, 1)}
    assert counts == {(1, 0): 5, (0, 0): 10, (1, 1): 3, (0, 1): 3}
    assert len(data.capped(of_tasks(task, target), {}, seed=7)) == 106


def test_an_item_counts_once_where_it_stood_last() -> None:
    """A prompt's history: a b a c c → b a c; the limit counts what is left."""
    history = np.array([[11], [12], [11], [13], [13]])
    assert item_part(history, 9) == [12, 11, 13]
    assert item_part(history, 2) == [11, 13]
    assert item_part(np.array([[1, 5], [1, 6], [1, 5]]), 9) == [1, 6, 1, 5]
    assert item_part(history, 0) == item_part(history[:0], 3) == []


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """torchrun, gloo, two processes: one artifact, and it has learnt the queries."""
    write_lake(tmp_path, checkerboard_rows())
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(training_spec(tmp_path, epochs=6, batch_size=32)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model.train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = rank.load(str(tmp_path / "artifact")).rank("search", [[]] * 12, [f"thing {word}" for word in WORDS], 1)
    assert [ITEMS[items[0]] for items, _ in answers] == ITEMS
