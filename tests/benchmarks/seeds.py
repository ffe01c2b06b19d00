"""From ranks to what a table tells: a request's metrics, a method's over its seeds with intervals, and what is kept of seeds measured before.

Knows no file and no model.
"""

import numpy as np

SCORE_ALONE = "model_score_alone"  # the same model, its answers in the order of its own score: what `train.similarity` changes


def gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    found = ranks > 0
    place = np.where(found, ranks, 1)
    made = {"mrr": np.where(found, 1 / place, 0)}
    for k in (5, 10):
        made |= {f"recall@{k}": (found & (ranks <= k)).astype(float), f"ndcg@{k}": np.where(found & (ranks <= k), 1 / np.log2(place + 1), 0)}
    return made


def less(ours: np.ndarray, theirs: np.ndarray) -> dict[str, np.ndarray]:
    """The paired difference of each user, ours less theirs: what makes a user easy for both is then no noise."""
    return {metric: users - gains(theirs)[metric] for metric, users in gains(ours).items()}


def summary(per_seed: list[dict[str, np.ndarray]]) -> dict[str, dict]:
    """Metric → each seed's mean over users and its 95 % bootstrap interval, and what they come to. Of `gains`, or of their differences."""
    made = {}
    for metric in per_seed[0]:
        rng, values, intervals = np.random.default_rng(0), [], []
        for users in (seed[metric] for seed in per_seed):
            drawn = [users[rng.integers(0, len(users), len(users))].mean() for _ in range(1000)]
            values.append(float(users.mean()))
            intervals.append([float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))])
        made[metric] = over_seeds(values, intervals)
    return made


def over_seeds(values: list[float], intervals: list[list[float]]) -> dict:
    """The seeds' mean, and the mean of their intervals: all answer the same users, so their mean's own interval is at most as wide."""
    return {"value": float(np.mean(values)), "ci": np.mean(intervals, axis=0).tolist(), "seeds": values, "intervals": intervals}


def joined(before: dict, now: dict) -> dict:
    """What was measured now, and the seeds that were measured only before. A model of other settings than before's stands beside the rivals of before, but
    neither joins the earlier model's seeds nor what that one was compared with."""
    anew = before.get("config_hash") != now["config_hash"]
    earlier = {(row["task"], row["method"]): row for row in before["quality"]}
    for row in now["quality"]:
        was = earlier.get((row["task"], row["method"]))
        if was is None or "seeds" not in row or (anew and of_model(row["method"])):  # not measured then; a rival without a seed; another model
            continue
        # A comparison may be of fewer seeds than the models: of those that were there when it was first made.
        at = {seed: i for i, seed in enumerate(was["seeds"]) if seed not in row["seeds"]}
        row["seeds"] = [*at, *row["seeds"]]
        for metric, held in row["metrics"].items():
            old = was["metrics"][metric]
            told = old.get("intervals", [old["ci"]] * len(old["seeds"]))
            row["metrics"][metric] = over_seeds([old["seeds"][i] for i in at.values()] + held["seeds"], [told[i] for i in at.values()] + held["intervals"])
    measured = {(row["task"], row["method"]) for row in now["quality"]}
    kept = [row for key, row in earlier.items() if key not in measured and not (anew and of_model(row["method"]))]
    told = {key: "; ".join(dict.fromkeys([*before[key].split("; "), now[key]])) for key in ("machine", "commit")}
    seeds = now["seeds"] if anew else [seed for seed in before["seeds"] if seed not in now["seeds"]] + now["seeds"]
    return now | told | {"seeds": seeds, "quality": now["quality"] + kept}


def of_model(method: str) -> bool:
    return method.split()[0] in ("model", SCORE_ALONE)
