"""Encoders without padding: every family and head, beside the same model with padding."""

from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from registry.heads import HEADS
from serving.engine.optimizations.attention import BMM_TOKENS, NEVER, REPEATS, find_min_bmm_tokens
from serving.engine.optimizations.first_token import can_prune, prune
from serving.engine.optimizations.packing import (
    BLOCK_SIZES,
    MIN_BLOCK_ROWS,
    bucket_size,
    find_head_indices,
    has_bucket_sizes,
    pack_rows,
)
from serving.engine.optimizations.unpadded import FAMILIES, can_pack, pack, unpack
from tests.alike import assert_alike

pytestmark = pytest.mark.processor

MAX_TOKENS = 160
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "max_position_embeddings": MAX_TOKENS + 2,
    "pad_token_id": 1,
    "initializer_range": 0.2,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 64,
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
}
TASKS = [task for task, head in HEADS.items() if not task.startswith(("image", "text2text", "text-gen"))]
HAVE_TYPES = ("bert", "albert", "electra", "ernie")


def build(family: str, task: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES)
    return getattr(transformers, HEADS[task].auto_class).from_config(config).eval()


def cells() -> list[tuple[str, str]]:
    found = []
    for task in TASKS:
        heads = getattr(transformers, HEADS[task].auto_class)._model_mapping
        found += [(family, task) for family in sorted(FAMILIES) if transformers.CONFIG_MAPPING[family] in heads]
    return found


def padded(lengths: list[int], family: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 100, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids[mask == 0] = 1
    ids[0, lengths[0] // 2] = 1  # what looks like padding may stand in a text, too
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | ({"token_type_ids": torch.randint(0, 2, ids.shape)} if family in HAVE_TYPES else {})


def shaped(inputs: dict[str, torch.Tensor], task: str) -> dict[str, torch.Tensor]:
    rows = ("input_ids", "attention_mask", "token_type_ids") if task == "multiple-choice" else ()
    return {name: each.unsqueeze(1) if name in rows else each for name, each in inputs.items()}


READ_FIRST = ("text-classification", "zero-shot-classification", "multiple-choice", "next-sentence-prediction")


@pytest.mark.sweep
@pytest.mark.parametrize("min_bmm_tokens", [NEVER, 40])
@pytest.mark.parametrize(
    ("family", "task", "pruned"),
    [(*cell, False) for cell in cells()]
    + [(family, task, True) for family, task in cells() if task in READ_FIRST and family != "albert"],
)
@torch.inference_mode()
def test_a_packed_model_answers_as_with_padding(family: str, task: str, pruned: bool, min_bmm_tokens: int) -> None:
    model = build(family, task)
    assert can_prune(model.base_model) == (family != "albert")
    assert can_pack(model, torch.device("cpu"), torch.float32)
    for lengths in (
        [5, 30, 17, 17, 1],
        [7, 7],
        [MAX_TOKENS],
        [60, 2],
        [90, 3, 64, 9, 9, 50, 1, 65, 90],
        [6, 3, 40] * 11,
    ):
        inputs = padded(lengths, family)
        expected = model(**shaped(inputs, task))
        pack(model, min_bmm_tokens=min_bmm_tokens, pruned=pruned)
        arrays = pack_rows(lengths, blocks=min_bmm_tokens < NEVER, bucketed=min_bmm_tokens < NEVER)
        packed = {name: torch.from_numpy(array) for name, array in arrays.items()}
        found = model(**shaped(inputs | packed, task))
        unpack(model)
        for name in expected.keys() & {"logits", "last_hidden_state", "start_logits", "end_logits", "pooler_output"}:
            has_tokens = expected[name].shape[:2] == inputs["input_ids"].shape
            real = inputs["attention_mask"].bool() if has_tokens else slice(None)
            assert_alike(found[name][real], expected[name][real])
        assert torch.equal(model(**shaped(inputs, task))[0], expected[0]), "as before, once it is unpacked"


@pytest.mark.parametrize("lengths", [[5, 30, 17, 17, 1], [7, 7]], ids=["packed", "equal"])
@pytest.mark.parametrize("family", [family for family, task in cells() if task == "fill-mask"])
@torch.inference_mode()
def test_a_head_computes_the_tokens_that_it_is_to_read(family: str, lengths: list[int]) -> None:
    model, inputs = build(family, "fill-mask"), padded(lengths, family)
    expected = model(**inputs).logits
    pack(model)
    is_packed = len(set(lengths)) > 1
    if not is_packed:
        inputs = {name: each for name, each in inputs.items() if name != "attention_mask"}
    rows = numpy.arange(len(lengths))
    wanted = numpy.array([[*rows, *rows], [*(length // 2 for length in lengths), *(length - 1 for length in lengths)]])
    arrays = (pack_rows(lengths) if is_packed else {}) | {
        "head_indices": find_head_indices(lengths, wanted, bucketed=True)
    }
    found = model(**inputs | {name: torch.from_numpy(array) for name, array in arrays.items()}).logits
    assert found.shape == (1, bucket_size(wanted.shape[1]), 100)
    assert_alike(found[0, : wanted.shape[1]], expected[tuple(torch.from_numpy(wanted))])


def test_an_encoder_whose_last_layer_is_not_its_own_is_not_pruned() -> None:
    with pytest.raises(ValueError, match="ask `can_prune`"):
        prune(build("albert", "text-classification").base_model)
    nothing = transformers.BertConfig(**SIZES | {"num_hidden_layers": 0})
    assert not can_prune(transformers.BertModel(nothing))


def test_decoders_and_a_gpu_in_float32_are_not_packed() -> None:
    config = transformers.BertConfig(**SIZES, is_decoder=True)
    assert not can_pack(transformers.BertLMHeadModel(config), torch.device("cpu"), torch.float32)
    assert not can_pack(build("bert", "fill-mask"), torch.device("cuda"), torch.float32)
    assert can_pack(build("bert", "fill-mask"), torch.device("cuda"), torch.bfloat16)


@pytest.mark.slow
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_a_packed_sequence_holds_each_row_once_and_in_order(lengths: list[int]) -> None:
    packed = pack_rows(lengths)
    indices, positions, cu_seqlens = (packed[name].tolist() for name in ("indices", "positions", "cu_seqlens"))
    longest = max(lengths)
    assert len(indices) == len(positions) == cu_seqlens[-1] == sum(lengths)
    assert sorted(indices) == [row * longest + at for row, length in enumerate(lengths) for at in range(length)]
    spans = [(indices[begin], end - begin) for begin, end in pairwise(cu_seqlens)]
    assert sorted(spans) == [(row * longest, length) for row, length in enumerate(lengths)]
    assert [length for _, length in spans] == sorted(lengths)
    assert positions == [at for _, length in spans for at in range(length)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_a_bucketed_sequence_has_a_bucket_size_and_holds_nothing_else(lengths: list[int]) -> None:
    packed, bucketed = pack_rows(lengths), pack_rows(lengths, bucketed=True)
    tokens, rows = sum(lengths), len(lengths)
    assert (bucketed["indices"].size, bucketed["cu_seqlens"].size - 1) == (bucket_size(tokens), bucket_size(rows))
    for name, count in (("indices", tokens), ("positions", tokens), ("cu_seqlens", rows + 1)):
        assert (bucketed[name][:count] == packed[name]).all()
        assert bucketed[name].dtype == packed[name].dtype
    assert (bucketed["indices"][tokens:] == rows * max(lengths)).all()
    assert (bucketed["cu_seqlens"][rows:] == tokens).all()
    assert has_bucket_sizes(lengths) == (bucketed["indices"].size == tokens and bucketed["cu_seqlens"].size == rows + 1)


def test_there_are_few_bucket_sizes_and_each_is_near() -> None:
    assert len({bucket_size(count) for count in range(1, 4097)}) == 16 + 8 * 8
    assert all(count <= bucket_size(count) <= max(count, count * 9 / 8) for count in range(1, 4097))


@pytest.mark.slow
@given(st.lists(st.integers(1, 90), min_size=1, max_size=40))
def test_blocks_hold_each_short_row_once_and_whole(lengths: list[int]) -> None:
    packed = pack_rows(lengths, blocks=True)
    segment_ids, slot_index, size = packed["segment_ids"], packed["slot_index"].tolist(), packed["segment_ids"].shape[1]
    assert size == BLOCK_SIZES[max(lengths) > BLOCK_SIZES[0]]
    short = sorted(length for length in lengths if length <= size)
    short = short if len(short) >= MIN_BLOCK_ROWS else []
    assert len(slot_index) == sum(short)
    assert segment_ids.size - (segment_ids == -1).sum() == len(slot_index)
    at = 0
    for row, length in enumerate(short):
        indices = slot_index[at : at + length]
        assert indices == list(range(indices[0], indices[0] + length))
        assert indices[0] // size == indices[-1] // size, "a row lies in one block"
        assert set(segment_ids.flat[indices]) == {row}
        at += length


@pytest.mark.parametrize(("packed", "blocks", "min_bmm_tokens"), [(2.0, 1.0, BMM_TOKENS), (1.0, 1.0, NEVER)])
def test_rows_use_batched_products_where_that_is_faster(packed: float, blocks: float, min_bmm_tokens: int) -> None:
    seconds = [0.0, packed] * REPEATS + [0.0, blocks] * REPEATS
    now = iter([sum(seconds[: index + 1]) for index in range(len(seconds))])
    assert find_min_bmm_tokens(build("bert", "fill-mask"), torch.bfloat16, lambda: next(now)) == min_bmm_tokens
