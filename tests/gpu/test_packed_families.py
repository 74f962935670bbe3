"""Every packed family and head on a GPU, beside the same model with padding; and in float32, where none is packed."""

import pytest
import torch

from serving.engine.optimizations.first_token import can_prune
from serving.engine.optimizations.packing import pack_rows
from serving.engine.optimizations.unpadded import can_pack, pack, unpack
from tests.alike import assert_alike
from tests.serving.engine.optimizations.test_unpadded import MAX_TOKENS, READ_FIRST, build, cells, padded, shaped

pytestmark = pytest.mark.gpu

OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits", "pooler_output")
BATCHES = ([5, 30, 17, 17, 1], [7, 7], [MAX_TOKENS], [60, 2], [90, 3, 64, 9, 9, 50, 1, 65, 90], [6, 3, 40] * 11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("family", "task"), cells())
@torch.inference_mode()
def test_a_packed_model_answers_as_with_padding(
    device: torch.device, family: str, task: str, dtype: torch.dtype
) -> None:
    model = build(family, task).to(device, dtype)
    assert can_pack(model, device, dtype)
    prunings = (False, True) if task in READ_FIRST and can_prune(model.base_model) else (False,)
    for lengths in BATCHES:
        inputs = {name: each.to(device) for name, each in padded(lengths, family).items()}
        arrays = {name: torch.from_numpy(array).to(device) for name, array in pack_rows(lengths).items()}
        expected = model(**shaped(inputs, task))
        for pruned in prunings:
            pack(model, pruned=pruned)
            found = model(**shaped(inputs | arrays, task))
            unpack(model)
            for name in expected.keys() & set(OUTPUTS):
                has_tokens = expected[name].shape[:2] == inputs["input_ids"].shape
                real = inputs["attention_mask"].bool() if has_tokens else slice(None)
                assert_alike(found[name][real], expected[name][real])


@pytest.mark.parametrize(("family", "task"), cells())
@torch.inference_mode()
def test_a_model_in_float32_answers_as_on_a_cpu(device: torch.device, family: str, task: str) -> None:
    model = build(family, task)
    assert device.type == "cpu" or not can_pack(model, device, torch.float32)
    cases = [shaped(padded(lengths, family), task) for lengths in BATCHES]
    expected = [model(**case) for case in cases]
    model.to(device)
    for case, wanted in zip(cases, expected, strict=True):
        found = model(**{name: each.to(device) for name, each in case.items()})
        real = case["attention_mask"].bool()
        for name in wanted.keys() & set(OUTPUTS):
            has_tokens = wanted[name].shape[: real.ndim] == real.shape
            answers = real if has_tokens else slice(None)
            assert_alike(found[name].cpu()[answers], wanted[name][answers])
