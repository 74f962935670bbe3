"""Prompts that change each other's logits in a shared prefill are found out, whatever their order."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers

from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.verification import try_batches
from tests.families import build

PROMPTS = [[5 + place % 30 for place in range(length)] for length in (3, 9, 40)]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build(tmp_path_factory.mktemp("gpt2"), "gpt2", "AutoModelForCausalLM")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def changing(module: Any, is_changed: Callable[[list[int], int], bool]) -> CausalDecoder:
    """A decoder that gives other logits to the rows for whose lengths and place `is_changed` holds."""

    class Changing(CausalDecoder):
        def prefill(
            self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]], callers: Sequence[str] = ()
        ) -> torch.Tensor:
            logits, lengths = super().prefill(prompts, written, callers), [len(prompt) for prompt in prompts]
            for place in range(len(lengths)):
                logits[place] *= 1 + is_changed(lengths, place)
            return logits

    return Changing(module, 0)


@pytest.mark.parametrize(
    "is_changed",
    [
        lambda lengths, place: lengths[place] < max(lengths),
        lambda lengths, place: lengths[place] > min(lengths),
        lambda lengths, place: place == 0 and lengths[0] == max(lengths),
        lambda lengths, place: place > 0 and lengths[place] < lengths[place - 1],
    ],
    ids=["beside a longer one", "beside a shorter one", "the longest first", "after a longer one"],
)
def test_a_prompt_that_company_changes_is_found(module: Any, is_changed: Callable[[list[int], int], bool]) -> None:
    decoder = changing(module, is_changed)
    assert "tokens among others" in str(try_batches(decoder, PROMPTS))


def test_prompts_that_do_not_change_each_other_share_a_prefill(module: Any) -> None:
    decoder = CausalDecoder(module, 0)
    for prompts in (PROMPTS, PROMPTS[:1]):
        assert try_batches(decoder, prompts) is None
    assert decoder.prefill(PROMPTS[:2], [[], []]).shape[0] == 2, "the decoder has no rows of the proof"
