"""Decoders, one by one: each kind gives the logits of the model, with a graph of its steps, too."""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import DataDependentOutputException

from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.seq2seq_decoder import Seq2SeqDecoder
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.step_graph import CausalStep, trace_step
from serving.engine.generation.verification import KINDS, choose_decoder, choose_steps, find_difference
from serving.errors import EngineError
from tests.families import MAX_TOKENS, build
from tests.serving.engine.generation.rows import (
    CAUSAL,
    SEQ2SEQ,
    Found,
    alone,
    finish,
    load,
    make_scheduler,
    prompt_of,
    row,
)

pytestmark = [pytest.mark.processor, pytest.mark.slow]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "biogpt", *SEQ2SEQ])
def test_steps_as_a_graph_write_the_same(family: str) -> None:
    module = load(family)
    scheduler, found = make_scheduler(module, max_rows=5), Found()
    decoder = scheduler.decoder
    choose_steps(decoder, module.config.vocab_size, MAX_TOKENS)
    assert decoder.is_traced
    forward = decoder._forward
    prefills: list[int] = []
    decoder._forward = lambda *given, **named: (prefills.append(1), forward(*given, **named))[1]  # type: ignore[method-assign]
    for number in range(10):
        scheduler.add(b"front", row(number, prompt_of(number), max_new_tokens=3 + number), 0.0)
        found.take(scheduler.step())
    finish(scheduler, found)
    for number in range(10):
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=3 + number), number
    assert len(prefills) <= 10, "every step went through the graph"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sliding_window": 8}, "a ready mask would pass over its windows or chunks"),
        ({"attention_chunk_size": 8}, "a ready mask would pass over its windows or chunks"),
        (
            {"layer_types": ["full_attention", "chunked_attention"]},
            "a ready mask would pass over its windows or chunks",
        ),
        ({"attn_implementation": "eager"}, "its attention may not take a ready mask"),
    ],
)
def test_a_model_that_a_ready_mask_does_not_suit_keeps_its_steps(
    changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headwaiter.engine")
    folder = build(Path(mkdtemp()), "mistral", "AutoModelForCausalLM")
    given: Any = {"dtype": torch.float32, "attn_implementation": changed.pop("attn_implementation", "sdpa")}
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, **given).eval()
    for name, value in changed.items():
        setattr(module.config, name, value)
    decoder = CausalDecoder(module, 0)
    choose_steps(decoder, module.config.vocab_size, MAX_TOKENS)
    assert not decoder.is_traced
    assert f"steps are taken module by module: {reason}" in caplog.text


class Late(torch.nn.Module):
    """Llama's, whose logits are other ones from a position on."""

    def __init__(self, module: Any, first: int) -> None:
        super().__init__()
        self.module, self.first = module, first

    def forward(self, position_ids: torch.Tensor, **given: Any) -> Any:
        output = self.module(position_ids=position_ids, **given)
        output.logits = output.logits * (2 if position_ids.max() >= self.first else 1)
        return output


@torch.inference_mode()
def test_a_step_that_looks_at_its_position_is_not_traced() -> None:
    module = load("llama")
    late = Late(module, first=MAX_TOKENS - 1)

    def run(positions: torch.Tensor, **given: Any) -> Any:
        return late(position_ids=positions, use_cache=True, **given).logits[:, -1]

    late.config, late.dtype = module.config, module.dtype
    cache = module(torch.tensor([[5]]), use_cache=True).past_key_values
    like = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    with pytest.raises(DataDependentOutputException):
        trace_step(CausalStep(late, run), {"attention_mask": like}, module.config.vocab_size, MAX_TOKENS)


@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_every_kind_of_decoder_that_is_tried_writes_the_same(family: str) -> None:
    module = load(family)
    for kind in KINDS[module.config.is_encoder_decoder]:
        assert find_difference(kind(module, 0), module.config.vocab_size) is None


def test_a_sliding_window_looks_back_as_far_as_generate_does() -> None:
    folder = build(Path(mkdtemp()), "mistral", "AutoModelForCausalLM")
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, sliding_window=8).eval()
    module.generation_config.max_length = None
    scheduler = make_scheduler(module)
    for number in range(6):
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=12), 0.0)
    found = finish(scheduler)
    for number in range(6):
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=12, pad_token_id=0)


class Miscounting(CausalDecoder):
    """Counts positions from 1."""

    def _forward(self, positions: torch.Tensor, **arguments: Any) -> torch.Tensor:
        return super()._forward(positions + 1, **arguments)


def test_a_decoder_that_does_not_fit_is_found_out_and_the_next_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("gpt2")
    assert "other logits" in str(find_difference(Miscounting(module, 0), module.config.vocab_size))
    monkeypatch.setitem(KINDS, False, (Miscounting, SequentialDecoder))
    assert isinstance(choose_decoder(module, 0, module.config.vocab_size), SequentialDecoder)
    monkeypatch.setitem(KINDS, False, (Miscounting,))
    with pytest.raises(EngineError, match="come out otherwise"):
        choose_decoder(module, 0, module.config.vocab_size)


def test_prompts_have_bucketed_widths_and_are_counted_with_their_padding() -> None:
    decoder = CausalDecoder(load("llama"), 0)
    assert [decoder.width(longest) for longest in (1, 9, 69, 300)] == [1, 9, 69, 300]
    decoder.max_width = 70
    assert [decoder.width(longest) for longest in (1, 8, 9, 65, 69, 70, 75)] == [8, 8, 16, 70, 70, 70, 75]
    decoder.max_width = 4096
    assert len({decoder.width(longest) for longest in range(1, 2049)}) == 16 + 8 * 4
    scheduler, found = make_scheduler(load("llama"), max_rows=100, pass_tokens=40, max_width=512), Found()
    for number in range(9):
        scheduler.add(b"front", row(number, prompt_of(0), max_new_tokens=2), 0.0)
    found.take(scheduler.step())
    assert scheduler.running == 40 // 8
    finish(scheduler, found)


def test_positions_are_compared_although_a_model_repeats_padding() -> None:
    module = load("m2m_100", "AutoModelForSeq2SeqLM")
    bias = 20.0 * torch.nn.functional.one_hot(torch.tensor(0), module.config.vocab_size)
    module.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    assert module.generate(torch.tensor([[5, 9]]), max_new_tokens=3).tolist() == [[0, 0, 0, 0]]
    assert "other logits" in str(find_difference(Seq2SeqDecoder(module, 0), module.config.vocab_size))
    assert find_difference(SequentialDecoder(module, 0), module.config.vocab_size) is None
