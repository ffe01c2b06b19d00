"""Worlds in which it is known what one task can teach the other: for the hypotheses of Penha et al. 2024; designs and sizes are ours.

    popularity   S1: inputs tell nothing, only how often an item is the answer; the knob is KL(p_rec || p_search)
    clusters     S2, S3: every item as popular as any other; tastes and topics agree on a share `alignment` of the items

A world holds both logs' examples and, for its test inputs, the exact chance of every item to be the answer: recall is an expectation,
not a draw. numpy only. Knows no model, no token and no file.
"""

from dataclasses import dataclass, field, replace

import numpy as np

HISTORY, QUERY_WORDS = 7, 3
HELD_OUT = 500  # examples that stop a training, and inputs that judge it
CLUSTER, TOPIC_WORDS, NOISE = 20, 10, 0.1
DEPTH = 30  # R@30, as in the papers
TASKS = ("recommend", "search")


@dataclass(frozen=True)
class Log:
    """One task's examples. inputs: int64 [n, width], items of a history or words of a query; targets: int64 [n]."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def flattened(self, rng: np.random.Generator) -> "Log":
        """As many examples, drawn from these so that every item that is an answer here is one equally often (to within one example)."""
        first, count = np.unique(np.sort(self.targets), return_index=True, return_counts=True)[1:]
        wanted = np.resize(rng.permutation(len(count)), len(self))
        rows = np.argsort(self.targets, kind="stable")[first[wanted] + rng.integers(0, count[wanted])]
        return Log(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class Side:
    """One task: what is trained on, what stops it, and test inputs int64 [HELD_OUT, width] with their answers' chances [HELD_OUT, items]."""

    train: Log
    valid: Log
    test: np.ndarray
    chances: np.ndarray

    def recall(self, ranked: np.ndarray) -> float:
        """Expected R@DEPTH of rankings int [HELD_OUT, ≥ DEPTH]."""
        return float(np.take_along_axis(self.chances, ranked[:, :DEPTH], axis=1).sum(axis=1).mean())

    def oracle(self) -> float:
        return self.recall(np.argsort(-self.chances, axis=1, kind="stable"))

    def count(self, *logs: Log) -> float:
        """Expected R@DEPTH of the items that are most often the answer in the logs."""
        counts = np.sum([np.bincount(log.targets, minlength=self.chances.shape[1]) for log in logs], axis=0)
        return self.recall(np.tile(np.argsort(-counts, kind="stable"), (len(self.test), 1)))

    def tested(self, seed: int) -> Log:
        """The test inputs with an answer each, drawn from its chances: what a log tells of them."""
        sums = self.chances.cumsum(axis=1)
        drawn = np.random.default_rng((seed, 10)).random((len(self.test), 1)) * sums[:, -1:]
        return Log(self.test, (sums <= drawn).sum(axis=1))


@dataclass(frozen=True)
class World:
    """items, words: sizes. kl (nats), redundancy: what the knob came to, nan where the world does not vary it.

    groups: taste (what co-occurs) and topic (what queries mean) of every item, int64 [items], in a world that has them.
    """

    items: int
    words: int
    recommend: Side
    search: Side
    kl: float
    redundancy: float
    groups: dict[str, np.ndarray] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """What is known before any training: what the knob came to, recall of the oracle and of counting, by the task's log or by both."""
        known = {"kl": self.kl, "redundancy": self.redundancy, "examples_search": float(len(self.search.train))}
        for task in TASKS:
            side = getattr(self, task)
            known[f"oracle.{task}"] = side.oracle()
            known[f"count_single.{task}"] = side.count(side.train)
            known[f"count_joint.{task}"] = side.count(self.recommend.train, self.search.train)
        return known

    def shuffled(self, seed: int) -> "World":
        """The same two logs, but search speaks of other items: nothing that it teaches holds for recommendation any more."""
        other = np.random.default_rng((seed, 9)).permutation(self.items)
        side = self.search
        logs = [Log(log.inputs, other[log.targets]) for log in (side.train, side.valid)]
        search = Side(*logs, side.test, side.chances[:, np.argsort(other)])
        return replace(self, search=search, kl=float("nan"), redundancy=float("nan"), groups={})

    def flattened(self, seed: int) -> "World":
        """Popularity removed from what is learnt (Penha et al. 2024): both tasks' training and validation answers are uniform; tests stay."""
        rng = np.random.default_rng((seed, 11))
        sides = {task: getattr(self, task) for task in TASKS}
        return replace(self, **{task: replace(side, train=side.train.flattened(rng), valid=side.valid.flattened(rng)) for task, side in sides.items()})

    def capped(self, per_item: int, seed: int) -> "World":
        """At most `per_item` search examples of an item (Penha et al. 2024, section 7)."""
        train = self.search.train
        order = np.random.default_rng((seed, 8)).permutation(len(train))
        by_item = order[np.argsort(train.targets[order], kind="stable")]
        items = train.targets[by_item]
        nth = np.arange(len(items)) - np.searchsorted(items, items)
        kept = np.sort(by_item[nth < per_item])
        return replace(self, search=replace(self.search, train=Log(train.inputs[kept], train.targets[kept])))


def popularity(kl: float, n_rec: int, n_search: int, seed: int, items: int = 1000, words: int = 500, alpha: float = 0.8) -> World:
    """S1. p_search mixes p_rec with a shuffled copy of itself so far that KL(p_rec || p_search) is `kl` nats; inf: the copy alone."""
    rng = np.random.default_rng((seed, 1))
    p_rec = np.arange(1, items + 1) ** -alpha
    p_rec = rng.permutation(p_rec / p_rec.sum())
    p_search = mixed(p_rec, p_rec[rng.permutation(items)], kl)

    def side(p: np.ndarray, n: int, draw_inputs, rng: np.random.Generator) -> Side:
        logs = [Log(draw_inputs(rng, size), rng.choice(items, size, p=p)) for size in (n, HELD_OUT)]
        return Side(*logs, draw_inputs(rng, HELD_OUT), np.tile(p, (HELD_OUT, 1)))

    recommend = side(p_rec, n_rec, lambda rng, n: rng.choice(items, (n, HISTORY), p=p_rec), np.random.default_rng((seed, 2)))
    search = side(p_search, n_search, lambda rng, n: rng.integers(0, words, (n, QUERY_WORDS)), np.random.default_rng((seed, 3)))
    return World(items, words, recommend, search, divergence(p_rec, p_search), float("nan"))


def mixed(p: np.ndarray, q: np.ndarray, kl: float) -> np.ndarray:
    """∝ p^(1-λ) q^λ with λ bisected so that KL(p || it) is `kl`; q itself where even that is not as far."""

    def at(share: float) -> np.ndarray:
        made = p ** (1 - share) * q**share
        return made / made.sum()

    if divergence(p, at(1.0)) <= kl:
        return at(1.0)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if divergence(p, at(middle)) < kl else (low, middle)
    return at(low)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of two distributions over the same items, q nowhere 0."""
    positive = p > 0
    return max(0.0, float((p[positive] * np.log(p[positive] / q[positive])).sum()))  # rounding may leave less than nothing


def clusters(alignment: float, n_rec: int, n_search: int, seed: int, items: int = 1000) -> World:
    """S2 (recommendation sparse) and S3 (search sparse), by the sizes. Topics are tastes, but for 1 - alignment of the items, shuffled."""
    rng = np.random.default_rng((seed, 4))
    many = items // CLUSTER
    taste = rng.permutation(np.repeat(np.arange(many), CLUSTER))
    topic = taste.copy()
    moved = rng.permutation(items)[: round((1 - alignment) * items)]
    topic[moved] = topic[rng.permutation(moved)]

    def items_of(groups: np.ndarray, wanted: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
        members = np.argsort(groups, kind="stable").reshape(many, CLUSTER)
        drawn = members[wanted[:, None], rng.integers(0, CLUSTER, (len(wanted), width))]
        return np.where(rng.random(drawn.shape) < NOISE, rng.integers(0, items, drawn.shape), drawn)

    def chances(groups: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return (1 - NOISE) * (groups == wanted[:, None]) / CLUSTER + NOISE / items

    def history(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return items_of(taste, wanted, 5, rng)

    def query(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        places = rng.permuted(np.tile(np.arange(TOPIC_WORDS), (len(wanted), 1)), axis=1)[:, :QUERY_WORDS]
        return wanted[:, None] * TOPIC_WORDS + places

    def side(groups: np.ndarray, n: int, inputs, rng: np.random.Generator) -> Side:
        logs = []
        for size in (n, HELD_OUT):
            wanted = rng.integers(0, many, size)
            logs.append(Log(inputs(wanted, rng), items_of(groups, wanted, 1, rng)[:, 0]))
        wanted = rng.integers(0, many, HELD_OUT)
        return Side(*logs, inputs(wanted, rng), chances(groups, wanted))

    recommend = side(taste, n_rec, history, np.random.default_rng((seed, 5)))
    search = side(topic, n_search, query, np.random.default_rng((seed, 6)))
    return World(items, many * TOPIC_WORDS, recommend, search, float("nan"), redundancy(taste, topic), {"taste": taste, "topic": topic})


def redundancy(taste: np.ndarray, topic: np.ndarray) -> float:
    """|pairs of items of one taste and one topic| / |pairs of one taste|: how much of co-occurrence co-relevance repeats."""
    _, both = np.unique(np.stack([taste, topic]), axis=1, return_counts=True)
    _, alone = np.unique(taste, return_counts=True)
    return float((both * (both - 1)).sum() / (alone * (alone - 1)).sum())


def purity(rows: np.ndarray, groups: np.ndarray, neighbours: int = CLUSTER - 1) -> float:
    """Share of each item's nearest rows (cosine) that are of its group, mean over items. rows: float [items, width]; groups: int [items].

    With as many neighbours as a cluster has other items, 1 is reached where every cluster stands apart, and chance is their share of all.
    """
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    found = np.argpartition(-near, neighbours - 1, axis=1)[:, :neighbours]
    return float((groups[found] == groups[:, None]).mean())
