"""Which of its candidates a request chose: a conditional logit (McFadden 1974), the softmax over a request's candidates of their weighed features.

Fitted on requests that no training has seen, with few weights for few choices: each is held to what it would be if the first feature alone counted, the score
that the candidates came with. numpy and scipy; knows no item and no task.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

SCORE = "score"  # the first feature
HELD = 10.0  # times the square of how far a weight is from there, in deviations of its feature: few choices move little (.1 and 1: as good after 370)
LEAST = 0.01  # that a deviation of the score counts


def fit(names: Sequence[str], features: Sequence[np.ndarray], chosen: Sequence[int]) -> dict[str, float]:
    """Each feature's weight. names: of the features, the first of which is the score. features: of each request float64 [candidates, names]. chosen: which
    candidate was, -1 for none of them, of which nothing is learnt. Where nothing is, the score alone counts."""
    choices = [(of, of[place]) for of, place in zip(features, chosen, strict=True) if place >= 0 and len(of) > 1]
    weights = np.eye(len(names))[0]
    if choices:
        begins = np.cumsum([0, *(len(of) for of, _ in choices[:-1])])
        lengths = [len(of) for of, _ in choices]
        spread = np.concatenate([of - of.mean(axis=0) for of, _ in choices]).std(axis=0)
        spread[spread == 0] = 1.0  # tells no candidate from another
        beyond = np.concatenate([of - best for of, best in choices]) / spread  # the chosen one

        def lost(weights: np.ndarray, begin: np.ndarray, held: float) -> tuple[float, np.ndarray]:
            columns = beyond[:, : len(weights)]
            utilities = columns @ weights
            highest = np.maximum.reduceat(utilities, begins)
            raised = np.exp(utilities - np.repeat(highest, lengths))
            total = np.add.reduceat(raised, begins)
            away = weights - begin
            return float((highest + np.log(total)).sum() + held * away @ away), columns.T @ (raised / np.repeat(total, lengths)) + 2 * held * away

        alone = np.zeros(len(names))
        alone[0] = minimize(lost, [1.0], (np.zeros(1), 0.0), jac=True, method="L-BFGS-B", bounds=[(LEAST, None)]).x[0]
        weights = minimize(lost, alone, (alone, HELD), jac=True, method="L-BFGS-B").x / spread
    return dict(zip(names, weights.tolist(), strict=True))


def utility(weights: Mapping[str, float], names: Sequence[str], features: np.ndarray) -> np.ndarray:
    """float64 [candidates]: the higher the likelier chosen. features: [candidates, names]; one without a weight does not count."""
    return features @ np.array([weights.get(name, 0.0) for name in names])


def formula(weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weight:.3g} · {name}" for name, weight in weights.items())
