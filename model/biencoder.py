"""A compact bi-encoder: texts that belong together get near vectors.

Queries and items share one encoder, a `TfidfEncoder` whose rows per word are learnt: they begin as singular vectors and are trained to tell each
pair's second text from those of the other pairs in the batch (MultipleNegativesRankingLoss, bridge follow-up arXiv 2508.10478, table 1; a transformer
there, one linear layer here). On (query, item) pairs it is the search-tuned encoder; with a second loss on (item, item) pairs of one user, the
multi-task one. torch trains; what comes out encodes with numpy alone, and lies on disk as any encoder does.

Knows texts and pairs of them; no item, no table, no Spark.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.encoders import TfidfEncoder, fit_tfidf

BATCH = 512
EPOCHS = 5  # amazon_toys, 5 % latest clicks: search Recall@10 .22 after two epochs as after five; the items of one user gain until the fifth
FEWEST = 100  # steps, however short the log
RATE = 0.05  # of Adam, for rows of mean length 1
SCALE = 20.0  # of the cosines in the softmax, as in sentence-transformers


def fit(texts: Sequence[str], pairs: Sequence[np.ndarray], weights: Sequence[float], dim: int, seed: int, **settings: object) -> TfidfEncoder:
    """texts: distinct. pairs: for each loss int64 [n, 2], rows of `texts` that belong together; its weight in `weights`.

    An epoch goes through the first loss's pairs once, and draws as many batches of the others'; FEWEST steps at least.
    The same arguments give the same encoder.
    Returns the encoder that the texts alone give where there is no pair to learn from.
    """
    base = fit_tfidf(texts, dim, seed)
    settings = base.settings | settings
    if not len(base.idf) or not len(pairs[0]):
        return TfidfEncoder(base.vocabulary, base.idf, base.components, settings)
    words = base.weights(texts)
    values = torch.from_numpy(words.data.astype(np.float32))
    starts, columns = words.indptr.astype(np.int64), torch.from_numpy(words.indices.astype(np.int64))
    lengths = np.linalg.norm(base.components, axis=1)
    rows = torch.from_numpy(base.components / max(float(lengths.mean()), 1e-9)).requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=RATE, fused=True)

    def encode(chosen: np.ndarray) -> Tensor:
        sizes = starts[chosen + 1] - starts[chosen]
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        flat = torch.from_numpy(np.repeat(starts[chosen] - begins, sizes) + np.arange(sizes.sum()))
        bags = F.embedding_bag(columns[flat], rows, torch.from_numpy(begins), mode="sum", per_sample_weights=values[flat])
        return F.normalize(bags, dim=1)

    used = [(weight, learnt) for weight, learnt in zip(weights, pairs, strict=True) if len(learnt) and weight]
    steps = max(FEWEST, EPOCHS * -(-len(pairs[0]) // BATCH))
    streams = [batches(learnt, np.random.default_rng((seed, number))) for number, (_, learnt) in enumerate(used)]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss = torch.zeros(())
        for (weight, _), stream in zip(used, streams, strict=True):
            batch = next(stream)
            loss = loss + weight * contrast(encode(batch[:, 0]), encode(batch[:, 1]), torch.from_numpy(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return TfidfEncoder(base.vocabulary, base.idf, rows.detach().numpy(), settings)


def batches(pairs: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """int64 [≤ BATCH, 2], without end: one shuffled pass after the other."""
    while True:
        order = rng.permutation(len(pairs))
        for first in range(0, len(order), BATCH):
            yield pairs[order[first : first + BATCH]]


def contrast(left: Tensor, right: Tensor, pairs: Tensor) -> Tensor:
    """Mean cross-entropy of each left vector's own right one among the batch's. left, right: [B, dim] of unit length; pairs: int64 [B, 2].

    Rights of the same text, or of pairs with the same left text, are known to belong too, and a text is nearest to itself: none of them is counted as
    a wrong answer.
    """
    scores = SCALE * left @ right.T
    own, answer = pairs[:, 0], pairs[:, 1]
    belongs = (own[:, None] == own) | (answer[:, None] == answer) | (own[:, None] == answer)
    belongs.fill_diagonal_(False)
    return F.cross_entropy(scores.masked_fill(belongs, -torch.inf), torch.arange(len(pairs)))
