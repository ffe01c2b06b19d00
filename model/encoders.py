"""Text encoders: text → vector of unit length, or zeros for a text without a known word.

Two kinds, one interface (`encode`): TF-IDF with truncated SVD, fitted here (scikit-learn) and applied with numpy and scipy alone; and a
Hugging Face encoder read from a folder (sentence-transformers). Both are frozen once they exist: the same text gives the same vector.

On disk an encoder is a folder of safetensors and JSON; nothing is ever unpickled. Knows no table, no Spark, no item.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORD = re.compile(r"\w\w+")
MAX_WORDS = 50_000
MAX_TOKENS = 256
BATCH = 64


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class TfidfEncoder:
    """Words weighted by (1 + ln tf) · idf, times one row per word: the first right singular vectors of the texts it was fitted on, or what
    `model.biencoder` made of them. Unit length."""

    vocabulary: dict[str, int]
    idf: np.ndarray  # float32 [words]
    components: np.ndarray  # float32 [words, dim]; columns of zeros where the texts have a lower rank
    settings: dict  # what it was fitted with

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, dim]; each row depends on its own text only."""
        return unit(self.weights(texts) @ self.components)

    def weights(self, texts: Sequence[str]) -> "csr_matrix":
        """float64 [n, words]: (1 + ln tf) · idf of each text's words. Not of unit length: `encode` makes the vector so."""
        from scipy.sparse import csr_matrix

        rows, columns, weights = [], [], []
        for row, text in enumerate(texts):
            counts = Counter(self.vocabulary[word] for word in words(text) if word in self.vocabulary)
            rows += [row] * len(counts)
            columns += counts.keys()
            weights += counts.values()
        found = np.asarray(columns, dtype=np.int64)
        tfidf = (1 + np.log(np.asarray(weights, dtype=np.float64))) * self.idf[found]
        return csr_matrix((tfidf, (rows, found)), shape=(len(texts), len(self.idf)))

    @property
    def version(self) -> str:
        """Names the content: two encoders of one version give the same vectors."""
        return content_hash(*self.parts())

    def save(self, folder: Path) -> None:
        write_folder(folder, *self.parts())

    def parts(self) -> tuple[dict[str, np.ndarray], dict]:
        ordered = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        return {"idf": self.idf, "components": self.components}, {"settings": self.settings, "vocabulary": ordered}


def fit_tfidf(texts: Sequence[str], dim: int, seed: int) -> TfidfEncoder:
    """Fit on a sample of texts; the order of texts does not matter to the meaning, but does to the last bits."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings = {"text_dim": dim, "seed": seed}
    if not any(map(words, texts)):
        return TfidfEncoder({}, np.zeros(0, np.float32), np.zeros((0, dim), np.float32), settings)
    vectorizer = TfidfVectorizer(tokenizer=words, token_pattern=None, lowercase=False, sublinear_tf=True, max_features=MAX_WORDS)
    weights = vectorizer.fit_transform(texts)
    components = np.zeros((weights.shape[1], dim), dtype=np.float32)
    rank = min(dim, *weights.shape)
    components[:, :rank] = TruncatedSVD(rank, random_state=seed).fit(weights).components_.T
    vocabulary = {word: int(column) for word, column in vectorizer.vocabulary_.items()}
    return TfidfEncoder(vocabulary, vectorizer.idf_.astype(np.float32), components, settings)


class SentenceEncoder:
    """A Hugging Face encoder as its folder describes it: sentence-transformers' modules where it names them, else the mean of the last hidden states."""

    def __init__(self, folder: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)  # Spark runs one worker per core already
        told = {"use_safetensors": True, "dtype": torch.float32}
        self.model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=told)
        self.model.max_seq_length = min(MAX_TOKENS, self.model.max_seq_length or MAX_TOKENS)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, dimensions]."""
        if not len(texts):
            return np.zeros((0, self.model.get_embedding_dimension()), np.float32)
        vectors = unit(self.model.encode(list(texts), batch_size=BATCH, show_progress_bar=False))
        vectors[[not text.strip() for text in texts]] = 0  # special tokens alone mean nothing
        return vectors


def load(folder: str | Path) -> TfidfEncoder | SentenceEncoder:
    """The encoder of a folder: one that `save` wrote, or a Hugging Face model."""
    folder = Path(folder)
    if not (folder / "tandem.json").exists():
        return SentenceEncoder(folder)
    arrays, about = read_folder(folder)
    return TfidfEncoder({word: column for column, word in enumerate(about["vocabulary"])}, arrays["idf"], arrays["components"], about["settings"])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length as float32; rows of zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def content_hash(arrays: dict[str, np.ndarray], about: dict) -> str:
    """Sixteen hex digits of what `write_folder` would write."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def write_folder(folder: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write arrays and JSON as one folder that appears whole or not at all; one that is there already stays."""
    from safetensors.numpy import save_file

    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial / "tensors.safetensors")
    (partial / "tandem.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    try:
        partial.rename(folder)
    except OSError:  # another run was first with the same content
        if not folder.exists():
            raise
        shutil.rmtree(partial)


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    from safetensors.numpy import load_file

    return load_file(folder / "tensors.safetensors"), json.loads((folder / "tandem.json").read_text(encoding="utf-8"))
