"""Encoders without padding: every family and head, beside the same model with padding."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from registry.heads import HEADS
from serving.packed import FAMILIES, can_pack, pack, unpack
from serving.padding import pack_rows

LONGEST = 160
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "max_position_embeddings": LONGEST + 2,
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
    choices = task == "multiple-choice"
    return {name: each.unsqueeze(1) if choices and each.ndim == 2 else each for name, each in inputs.items()}


@pytest.mark.parametrize(("family", "task"), cells())
@torch.inference_mode()
def test_a_packed_model_answers_as_with_padding(family: str, task: str) -> None:
    model = build(family, task)
    assert can_pack(model, torch.device("cpu"), torch.float32)
    for lengths in ([5, 30, 17, 17, 1], [7, 7], [LONGEST], [60, 2]):
        inputs = padded(lengths, family)
        expected = model(**shaped(inputs, task))
        pack(model)
        line = {name: torch.from_numpy(array) for name, array in pack_rows(lengths).items()}
        found = model(**shaped(inputs | line, task))
        unpack(model)
        for name in expected.keys() & {"logits", "last_hidden_state", "start_logits", "end_logits", "pooler_output"}:
            has_tokens = expected[name].shape[:2] == inputs["input_ids"].shape
            real = inputs["attention_mask"].bool() if has_tokens else slice(None)
            torch.testing.assert_close(found[name][real], expected[name][real], rtol=1e-4, atol=1e-4)
        assert torch.equal(model(**shaped(inputs, task))[0], expected[0]), "as before, once it is unpacked"


def test_decoders_and_a_gpu_in_float32_are_not_packed() -> None:
    config = transformers.BertConfig(**SIZES, is_decoder=True)
    assert not can_pack(transformers.BertLMHeadModel(config), torch.device("cpu"), torch.float32)
    assert not can_pack(build("bert", "fill-mask"), torch.device("cuda"), torch.float32)
    assert can_pack(build("bert", "fill-mask"), torch.device("cuda"), torch.bfloat16)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_the_line_holds_each_row_once_and_in_order(lengths: list[int]) -> None:
    line = pack_rows(lengths)
    places, positions, cuts = (line[name].tolist() for name in ("places", "positions", "cuts"))
    longest = max(lengths)
    assert len(places) == len(positions) == cuts[-1] == sum(lengths)
    assert sorted(places) == [row * longest + at for row, length in enumerate(lengths) for at in range(length)]
    spans = [(places[begin], end - begin) for begin, end in pairwise(cuts)]
    assert sorted(spans) == [(row * longest, length) for row, length in enumerate(lengths)]
    assert [length for _, length in spans] == sorted(lengths)
    assert positions == [at for _, length in spans for at in range(length)]
