"""Which of its candidates a request chose: a conditional logit (McFadden 1974), the softmax over a request's candidates of what is known of them, weighed.

Fitted on requests that no training has seen, with few weights for few choices: each is held to what it would be if nothing but the first thing known, the
score that the candidates came with, counted. numpy and scipy; knows no item and no task.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

HELD = 10.0  # times the square of how far a weight is from there, in deviations of what it weighs: few choices move little (.1 and 1: as good after 370)
LEAST = 0.01  # that a deviation of the first thing counts


def fit(known: Sequence[np.ndarray], right: Sequence[int]) -> np.ndarray:
    """float64 [things known]: what each counts. known: of each request float64 [candidates, things known]. right: which candidate was chosen, -1 for none of
    them, of which nothing is learnt. The order of requests and of their candidates has no say but for rounding."""
    chosen = [(of, of[place]) for of, place in zip(known, right, strict=True) if place >= 0 and len(of) > 1]
    width = next((of.shape[1] for of in known), 1)
    if not chosen:
        return np.eye(width)[0]
    begins = np.cumsum([0, *(len(of) for of, _ in chosen[:-1])])
    lengths = [len(of) for of, _ in chosen]
    spread = np.concatenate([of - of.mean(axis=0) for of, _ in chosen]).std(axis=0)
    spread[spread == 0] = 1.0  # one that tells no candidate from another
    beyond = np.concatenate([of - best for of, best in chosen]) / spread  # of the chosen one: 0

    def lost(weights: np.ndarray, begin: np.ndarray, held: float) -> tuple[float, np.ndarray]:
        columns = beyond[:, : len(weights)]
        scores = columns @ weights
        highest = np.maximum.reduceat(scores, begins)
        raised = np.exp(scores - np.repeat(highest, lengths))
        total = np.add.reduceat(raised, begins)
        away = weights - begin
        return float((highest + np.log(total)).sum() + held * away @ away), columns.T @ (raised / np.repeat(total, lengths)) + 2 * held * away

    alone = np.zeros(width)
    alone[0] = minimize(lost, [1.0], (np.zeros(1), 0.0), jac=True, method="L-BFGS-B", bounds=[(LEAST, None)]).x[0]
    return minimize(lost, alone, (alone, HELD), jac=True, method="L-BFGS-B").x / spread
