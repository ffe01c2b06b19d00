"""The trie, the beam, and the T5 that runs without transformers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from model import trie
from model.artifact import weights_of
from model.decode import Constraint, Decoder, beam_search, start_rows
from model.products import by_onednn, product
from model.unified import UnifiedModel, from_sizes


def random_model(gated: bool = False, tied: bool = True, layers: int = 2, text_size: int = 20, level_sizes: tuple[int, ...] = (5, 4, 3)) -> UnifiedModel:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=text_size + sum(level_sizes),
        d_model=16,
        d_ff=24,
        d_kv=4,
        num_heads=3,
        num_layers=layers,
        num_decoder_layers=layers,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=tied,
        pad_token_id=0,
        decoder_start_token_id=0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )
    backbone = T5ForConditionalGeneration(config).eval()
    if not tied:  # what the config alone does not do
        backbone.lm_head.weight = torch.nn.Parameter(torch.randn_like(backbone.shared.weight))
    for parameter in backbone.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return UnifiedModel(backbone, text_size, level_sizes).eval()


def decoder_of(model: UnifiedModel) -> Decoder:
    return Decoder({name.removeprefix("t5."): weight for name, weight in weights_of(model).items()}, model.t5.config.to_dict(), model.text_size)


def sources(rows: int = 4, longest: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    source = torch.randint(1, 20, (rows, longest), generator=generator)
    for row in range(rows):
        source[row, longest - 7 * row :] = 0
    return source


STARTS = torch.tensor([[21, 26, 30], [0, 0, 0], [24, 25, 31], [0, 0, 0]])  # the latest item's tokens, or nothing


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_same_numbers_as_transformers(gated: bool, tied: bool) -> None:
    """Each level's log-probabilities equal those of T5ForConditionalGeneration, also where the prompt is longer than the furthest bucket."""
    model, source = random_model(gated, tied), sources()
    target = torch.tensor([[21, 26, 30], [20, 25, 29], [24, 28, 31], [22, 27, 29]])
    with torch.no_grad():
        rows = model.t5.shared.weight
        begin = torch.stack([rows[21] + rows[26] + rows[30], rows[0], rows[24] + rows[25] + rows[31], rows[0]])
        answered = torch.cat([begin[:, None], rows[target[:, :-1]]], 1)
        full = model.t5(input_ids=source, attention_mask=(source != 0).long(), decoder_inputs_embeds=answered).logits
        expected = full[:, :, 20:].log_softmax(-1)
        decoder = decoder_of(model)
        cross, mask = decoder.encode(source)
        x = start_rows(rows, STARTS)[:, None]
        past = decoder.nothing_said(x)
        for level in range(3):
            hidden, past = decoder.step(x, level, past, cross, mask)
            found = decoder.logits(hidden)
            torch.testing.assert_close(found.log_softmax(-1)[:, 0], expected[:, level], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(decoder.logits(hidden, (3, 7)), found[..., 3:7])
            x = rows[target[:, level : level + 1]]
        losses = model(source, STARTS, target)
        torch.testing.assert_close(losses, -expected.gather(-1, (target - 20)[..., None])[..., 0].sum(1), atol=1e-4, rtol=1e-5)


def test_bf16_products_are_nearer_to_fp32_than_those_of_transformers() -> None:
    """Only products round to bf16; what is added up from layer to layer, norms and softmaxes do not."""
    model, source = random_model(), sources()
    weights = {name.removeprefix("t5."): weight for name, weight in weights_of(model).items()}
    asked = {"input_ids": source, "attention_mask": (source != 0).long(), "decoder_input_ids": torch.zeros(len(source), 1, dtype=torch.int64)}
    with torch.no_grad():
        exact = model.t5(**asked).logits[:, 0].log_softmax(-1)
        rounded = model.t5.bfloat16()(**asked).logits[:, 0].float().log_softmax(-1)
        decoder = Decoder(weights, model.t5.config.to_dict(), 0, torch.bfloat16)
        x = start_rows(weights["shared.weight"], torch.zeros(len(source), 1, dtype=torch.int64))[:, None]
        hidden, _ = decoder.step(x, 0, decoder.nothing_said(x), *decoder.encode(source))
        found = decoder.logits(hidden).log_softmax(-1)
    assert 0 < (found[:, 0] - exact).abs().mean() < (rounded - exact).abs().mean()


def test_products_by_onednn_are_of_fp32() -> None:
    """Their error against fp64 is that of torch's own; in bf16 it would be a thousand times that. And the setting is left as it was found."""
    one, other = torch.randn(48, 64, 64), torch.randn(48, 64, 64)
    exact, before = one.double() @ other.double(), torch.backends.mkldnn.matmul.fp32_precision
    error = (one @ other - exact).abs().max()
    with by_onednn():
        assert (one @ other - exact).abs().max() < 4 * error
        assert (product(other[0])(one[0]) - one[0].double() @ other[0].double().T).abs().max() < 4 * error
    assert torch.backends.mkldnn.matmul.fp32_precision == before


CODES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30, unique=True)


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 2**15, 2**30]), min_size=5, max_size=5).map(tuple), min_size=1, max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_leaves_are_in_the_order_of_the_codes_however_large_they_are(codes: list[tuple[int, ...]]) -> None:
    """Five codes of 30 bits do not fit one number."""
    assert [codes[row] for row in trie.build(np.array(codes)).items] == sorted(codes)


@given(codes=CODES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_trie_spells_the_catalogue_and_nothing_else(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    """Walking all live paths gives exactly the allowed identifiers, each ending at its own item."""
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    held = trie.build(np.array(codes)).allow(allowed)
    paths = [((), 0)]
    for level in range(held.depth):
        grown = []
        for prefix, node in paths:
            for child in range(held.first_child[level][node], held.first_child[level][node + 1]):
                if held.alive[level][child]:
                    grown.append(((*prefix, int(held.tokens[level][child])), child))
        paths = grown
    assert sorted(prefix for prefix, _ in paths) == sorted(code for code, keep in zip(codes, allowed, strict=True) if keep)
    assert all(codes[held.items[leaf]] == prefix for prefix, leaf in paths)


def test_shared_identifiers_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"rows 0 and 2 share the identifier \[1, 1\]"):
        trie.build(np.array([[1, 1], [1, 2], [1, 1]]))


def exhaustive(model: UnifiedModel, source: torch.Tensor, starts: torch.Tensor, codes: np.ndarray) -> np.ndarray:
    """float [B, items]: teacher-forced log-probability of every identifier."""
    offsets = np.concatenate([[0], np.cumsum(model.level_sizes)[:-1]])
    tokens = torch.from_numpy(codes + offsets + model.text_size)
    with torch.no_grad():
        pairs = zip(source, starts, strict=True)
        return np.stack([-model(row[None].expand(len(codes), -1), start[None].expand(len(codes), -1), tokens).numpy() for row, start in pairs])


@pytest.mark.fault("R38")
@given(codes=CODES, k=st.integers(1, 40), data=st.data())
@settings(max_examples=40, deadline=None)
def test_beams_as_many_as_items_is_exhaustive_scoring(codes: list[tuple[int, ...]], k: int, data: st.DataObject) -> None:
    """k best of the allowed, not excluded items, each once, in order, with teacher-forced scores; fewer where fewer exist."""
    catalogue = np.array(codes)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    barred = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=3))
    model, source = MODEL, sources(2, 12)
    built = trie.build(catalogue).allow(allowed)
    leaf_of = np.argsort(built.items)
    excluded = torch.tensor([[leaf_of[i] for i in barred] + [-1], [-1] * (len(barred) + 1)])
    constraint = Constraint(built, [0, 5, 9])
    leaves, scores = beam_search(decoder_of(model), constraint, source, STARTS[:2], k, max(k, len(codes)), excluded)
    expected = exhaustive(model, source, STARTS[:2], catalogue)
    for row in range(2):
        open_ = [i for i in range(len(codes)) if allowed[i] and not (row == 0 and i in barred)]
        best = sorted(open_, key=lambda i: -expected[row, i])[:k]
        found = [(int(built.items[leaf]), float(score)) for leaf, score in zip(leaves[row], scores[row], strict=True) if np.isfinite(score)]
        assert len(found) == len(best) and len({item for item, _ in found}) == len(found) and {item for item, _ in found} <= set(open_)
        np.testing.assert_allclose([score for _, score in found], [expected[row, i] for i in best], atol=1e-4)


MODEL = random_model()
WHOLE = random_model()  # its softmax runs over text and identifiers
WHOLE.first_answer = 0


@given(codes=CODES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_answers_with_marks_and_an_end_are_exhaustive_scoring_too(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    """Of each row's candidates alone: teacher-forced scores of mark, identifier and end; a renormalised one sums to 1 over the candidates."""
    catalogue = np.array(codes)
    chosen = [data.draw(st.lists(st.integers(0, len(codes) - 1), min_size=1, max_size=6, unique=True)) for _ in range(2)]
    built, source = trie.build(catalogue), sources(2, 12)
    leaf_of = np.argsort(built.items)
    candidates = torch.tensor([[*leaf_of[rows].tolist(), *[-1] * (6 - len(rows))] for rows in chosen])
    decoder = Decoder({name.removeprefix("t5."): weight for name, weight in weights_of(WHOLE).items()}, WHOLE.t5.config.to_dict(), 0)
    constraint = Constraint(built, [20, 25, 29])
    forced = {"opening": [7], "closing": [1], "candidates": candidates}
    leaves, scores = beam_search(decoder, constraint, source, STARTS[:2], 6, max(6, len(codes)), **forced)
    tokens = torch.from_numpy(catalogue + np.array([20, 25, 29]))
    answers = torch.cat([torch.full((len(codes), 1), 7), tokens, torch.ones(len(codes), 1, dtype=torch.int64)], dim=1)
    for row in range(2):
        with torch.no_grad():
            expected = -WHOLE(source[row][None].expand(len(codes), -1), STARTS[row][None].expand(len(codes), -1), answers).numpy()
        best = sorted(chosen[row], key=lambda i: -expected[i])
        found = scores[row][torch.isfinite(scores[row])]
        assert sorted(built.items[leaves[row][: len(found)].numpy()].tolist()) == sorted(best)
        np.testing.assert_allclose(found, expected[best], atol=1e-4)
    _, renormalised = beam_search(decoder, constraint, source, STARTS[:2], 6, max(6, len(codes)), among="open", **forced)
    np.testing.assert_allclose(renormalised.exp().sum(dim=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="among = 'some': expected one of all, valid, open"):
        beam_search(decoder, constraint, source, STARTS[:2], 6, 6, among="some")
    with pytest.raises(ValueError, match=r"pointed, with among = 'all': .* expected valid or open"):
        beam_search(decoder, constraint, source, STARTS[:2], 6, 6, **forced, pointed=[torch.zeros(2, 1)] * 3)


def test_an_answer_may_be_shorter_than_its_trie() -> None:
    """Queries of one and two words, each with its end: the scores are teacher-forced, whatever PAD fills the shorter one."""
    queries = [[5, 1, 0], [5, 6, 1], [9, 1, 0]]
    built = trie.build(np.array(queries))
    decoder = Decoder({name.removeprefix("t5."): weight for name, weight in weights_of(WHOLE).items()}, WHOLE.t5.config.to_dict(), 0)
    leaves, scores = beam_search(decoder, Constraint(built, [0, 0, 0]), sources(1, 12), STARTS[:1], 3, 3)
    with torch.no_grad():
        expected = -WHOLE(sources(1, 12).expand(3, -1), STARTS[:1].expand(3, -1), torch.tensor(queries)).numpy()
    np.testing.assert_allclose(scores[0], np.sort(expected)[::-1], atol=1e-4)
    assert built.items[leaves[0].numpy()].tolist() == np.argsort(-expected).tolist()


def test_atomic_identifiers_are_one_masked_softmax() -> None:
    torch.manual_seed(0)
    model = from_sizes("tiny", 20, (50,), 0.0, True).eval()
    source, codes = sources(3, 10), np.arange(50)[:, None]
    constraint = Constraint(trie.build(codes), [0])
    starts = torch.tensor([[25], [0], [69]])
    leaves, scores = beam_search(decoder_of(model), constraint, source, starts, 10, 10)
    expected = torch.from_numpy(exhaustive(model, source, starts, codes)).topk(10)
    torch.testing.assert_close(scores, expected.values.float(), atol=1e-4, rtol=1e-5)
    assert torch.equal(leaves, expected.indices)


def test_padding_does_not_change_an_answer() -> None:
    source = sources(4, 30)
    constraint = Constraint(trie.build(np.array(list(itertools.product(range(5), range(4), range(3))))), [0, 5, 9])
    together = beam_search(decoder_of(MODEL), constraint, source, STARTS, 5, 10)
    for row in range(4):
        alone = beam_search(decoder_of(MODEL), constraint, source[row : row + 1, : int((source[row] != 0).sum())], STARTS[row : row + 1], 5, 10)
        assert torch.equal(alone[0][0], together[0][row])
        torch.testing.assert_close(alone[1][0], together[1][row], atol=1e-5, rtol=1e-5)
