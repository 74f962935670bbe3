"""Rows that are written together: each comes out as transformers' `generate` writes it alone, whatever its batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import numpy
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException

from serving.engine.generation.admission import MAX_ISOLATED, MIN_ADMITTED_TOKENS
from serving.engine.generation.decoder import CausalDecoder, Decoder, Seq2SeqDecoder
from serving.engine.generation.scheduler import MAX_PREFILL_TOKENS, Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.step_graph import trace_step
from serving.engine.generation.verification import (
    KINDS,
    check_sampling,
    choose_decoder,
    choose_steps,
    find_difference,
)
from serving.errors import EngineError
from serving.wire.messages import Failure, Row, SamplingSettings, TokenDelta
from tests.families import MAX_TOKENS, build

pytestmark = pytest.mark.processor

CAUSAL = ("gpt2", "llama", "mistral", "gptj")
SEQ2SEQ = ("t5", "mt5", "bart")
FOREVER = float("inf")


@cache
def load(family: str, auto_class: str = "", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model with random weights."""
    auto_class = auto_class or ("AutoModelForSeq2SeqLM" if family in SEQ2SEQ else "AutoModelForCausalLM")
    folder = build(Path(mkdtemp()), family, auto_class)
    module = getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype).eval()
    module.generation_config.pad_token_id = 0
    module.generation_config.max_length = None
    return module


class Encoder:
    """Reads each token as a letter, so that stop strings can be asked for."""

    def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + token % 26) for token in ids)


def make_scheduler(module: Any, kind: type[Decoder] | None = None, *, max_width: int = 0, **bounds: Any) -> Scheduler:
    kind = kind or KINDS[module.config.is_encoder_decoder][0]
    isolated = SequentialDecoder(module, 0) if module.dtype != torch.float32 else None
    given: Any = {"limit_tokens": 100_000, "max_rows": 8, "isolated": isolated, **bounds}
    decoder = kind(module, 0)
    decoder.max_width = max_width
    return Scheduler(decoder, Encoder(), **given)  # type: ignore[arg-type]  # reads like a TextEncoder


def row(number: int, prompt: list[int], *, streams: bool = False, deadline: float = FOREVER, **asked: Any) -> Row:
    settings = SamplingSettings(**{"max_new_tokens": 8, "do_sample": False, **asked})
    tokens = numpy.asarray(prompt, dtype=numpy.int32).tobytes()
    return Row(number, len(prompt), tokens, b"", "", deadline, settings.pack(), settings.max_new_tokens, streams)


def prompt_of(number: int, vocabulary: int = 40) -> list[int]:
    """A prompt of 1 to 40 tokens."""
    return [(number * 31 + 7 * place) % (vocabulary - 5) + 5 for place in range(1 + (number * 13) % 40)]


@dataclass
class Found:
    """What came of rows."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    parts: dict[int, list[TokenDelta]] = field(default_factory=dict)

    def take(self, replies: list[tuple[bytes, TokenDelta | Failure]]) -> None:
        for _, reply in replies:
            if isinstance(reply, Failure):
                self.failures |= dict.fromkeys(reply.ids, reply.reason)
                continue
            assert reply.id not in self.finishes, "nothing comes after the end"
            new = numpy.frombuffer(reply.tokens, dtype=numpy.int32).tolist()
            self.tokens.setdefault(reply.id, []).extend(new)
            self.parts.setdefault(reply.id, []).append(reply)
            assert reply.written == len(self.tokens[reply.id])
            if reply.finish:
                self.finishes[reply.id] = reply.finish


def finish(scheduler: Scheduler, found: Found | None = None) -> Found:
    found = found or Found()
    for _ in range(5000):
        if not scheduler:
            return found
        found.take(scheduler.step())
    raise AssertionError("the scheduler does not come to an end")


def alone(module: Any, prompt: list[int], **asked: Any) -> list[int]:
    """What `generate` writes."""
    ids = torch.tensor([prompt])
    made = module.generate(
        ids, attention_mask=torch.ones_like(ids), **{"max_new_tokens": 8, "do_sample": False, **asked}
    )
    return list(made[0, 1 if module.config.is_encoder_decoder else len(prompt) :].tolist())


@pytest.mark.sweep
@pytest.mark.parametrize("max_width", [0, 39, 512])
@pytest.mark.parametrize("family", [*CAUSAL, *SEQ2SEQ])
def test_rows_added_and_removed_midway_get_the_tokens_of_generate(family: str, max_width: int) -> None:
    module = load(family)
    scheduler, found = make_scheduler(module, max_rows=5, max_width=max_width), Found()
    asked = {number: 3 + (number * 5) % 17 for number in range(14)}
    for number, most in asked.items():  # a new one each step: lengths differ, and rows join and leave all the time
        scheduler.add(b"front", row(number, prompt_of(number), max_new_tokens=most, streams=number % 2 == 0), 0.0)
        found.take(scheduler.step())
    finish(scheduler, found)
    for number, most in asked.items():
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=most), number
        assert found.finishes[number] == "length"
        assert len(found.parts[number]) == (most if number % 2 == 0 else 1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
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
    late.config, late.dtype = module.config, module.dtype
    cache = module(torch.tensor([[5]]), use_cache=True).past_key_values
    like = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    with pytest.raises(DataDependentOutputException):
        trace_step(late, like, module.config.vocab_size, MAX_TOKENS)


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


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_no_end_token_comes_before_the_least_number_of_tokens(
    family: str, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, prompt = load(family), prompt_of(3)
    ends = [alone(module, prompt)[0]] if beams == 1 else list(range(0, module.config.vocab_size, 2))
    least_length = 6 if module.config.is_encoder_decoder else len(prompt) + 5
    monkeypatch.setattr(module.generation_config, "eos_token_id", ends)
    monkeypatch.setattr(module.generation_config, "min_length", least_length)
    for least in (None, 0, 3, 7):  # None: the checkpoint's own, 5
        asked = {"num_beams": beams} | ({} if least is None else {"min_new_tokens": least})
        scheduler = make_scheduler(module)
        scheduler.add(b"f", row(1, prompt, **asked), 0.0)
        written = finish(scheduler).tokens[1]
        assert written == alone(module, prompt, **asked)[: len(written)]
        assert len(written) > (5 if least is None else least)
        assert least != 0 or beams > 1 or written == ends


DRAWN = (
    {"seed": 1, "temperature": 1.5},
    {"seed": 1, "temperature": 0.7, "top_k": 5},
    {"seed": 2, "top_p": 0.8, "top_k": 2000},
    {"seed": 3, "top_p": 0.9, "repetition_penalty": 1.3},
    {"seed": 4, "top_k": 1},
)


def draw(number: int) -> dict[str, Any]:
    return {"do_sample": True, **DRAWN[number % len(DRAWN)]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_same_seed_gives_the_same_text_in_any_batch(family: str, dtype: torch.dtype) -> None:
    module = load(family, dtype=dtype)
    by_itself = {}
    for number in range(10):
        scheduler = make_scheduler(module)
        scheduler.add(b"f", row(number, prompt_of(number), **draw(number)), 0.0)
        by_itself |= finish(scheduler).tokens
    scheduler, found = make_scheduler(module, max_rows=4), Found()
    for number in reversed(range(10)):
        scheduler.add(b"f", row(number, prompt_of(number), **draw(number)), 0.0)
        scheduler.add(b"g", row(number, prompt_of(number + 1), do_sample=True), 0.0)
        found.take([reply for reply in scheduler.step() if reply[0] == b"f"])
    while scheduler:
        found.take([reply for reply in scheduler.step() if reply[0] == b"f"])
    assert found.tokens == by_itself
    assert by_itself[4] == alone(module, prompt_of(4)), "the best of one is the likeliest"
    assert by_itself[0] != by_itself[5] or prompt_of(0) == prompt_of(5)


def test_isolated_rows_leave_half_of_the_cache_to_others() -> None:
    scheduler, found = make_scheduler(load("llama", dtype=torch.bfloat16), limit_tokens=200), Found()
    for number in range(3):
        asked = row(number, prompt_of(0), do_sample=True, seed=number, max_new_tokens=60)
        scheduler.add(b"f", asked, 0.0)
    scheduler.add(b"f", row(3, prompt_of(0), max_new_tokens=60), 0.0)
    found.take(scheduler.step())
    assert scheduler.running == 2, "one of them, and the one that has no seed"
    assert set(finish(scheduler, found).finishes) == set(range(4))


@dataclass
class Failing:
    """A module that fails on prompts with this token, so often."""

    module: Any
    token: int
    times: int = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        if input_ids.shape[1] > 1 and (input_ids == self.token).any() and self.times:
            self.times -= 1
            raise RuntimeError("no memory")
        return self.module(input_ids=input_ids, **given)


def test_an_isolated_row_that_cannot_be_prefilled_fails_alone() -> None:
    module = load("llama", dtype=torch.bfloat16)
    prompts = {1: [5, 6, 7], 2: [5, 9, 7], 3: [8, 6, 5]}
    asked: Any = {"do_sample": True, "seed": 1}
    by_itself = {}
    for number, prompt in prompts.items():
        scheduler = make_scheduler(module)
        scheduler.add(b"f", row(number, prompt, **asked), 0.0)
        by_itself |= finish(scheduler).tokens
    failing = SequentialDecoder(module, 0)
    failing.module = Failing(module, token=9)
    scheduler = make_scheduler(module, isolated=failing)
    for number, prompt in prompts.items():
        scheduler.add(b"f", row(number, prompt, **asked), 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed"}
    assert found.tokens == {number: by_itself[number] for number in (1, 3)}


def test_few_rows_are_isolated_at_a_time() -> None:
    scheduler, found = make_scheduler(load("llama", dtype=torch.bfloat16), max_rows=MAX_ISOLATED + 2), Found()
    for number in range(6):
        scheduler.add(b"f", row(number, prompt_of(number), do_sample=True, seed=number, max_new_tokens=40), 0.0)
    scheduler.step()
    assert scheduler.running == MAX_ISOLATED
    for number in (6, 7):
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=2), 0.0)
    while not found.finishes:
        found.take(scheduler.step())
    assert set(found.finishes) == {6, 7}, "others need not wait for them"
    assert set(finish(scheduler, found).finishes) == set(range(8))


def test_each_row_has_its_own_settings_and_penalties_are_those_of_generate() -> None:
    module = load("gpt2")
    asked: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.8}, {"repetition_penalty": 0.5}, {"max_new_tokens": 3}]
    scheduler = make_scheduler(module)
    for number, each in enumerate(asked):
        scheduler.add(b"f", row(number, prompt_of(2), **each), 0.0)
    found = finish(scheduler)
    for number, each in enumerate(asked):
        assert found.tokens[number] == alone(module, prompt_of(2), **each)
    assert found.tokens[0] != found.tokens[1]


def test_what_the_checkpoint_asks_for_holds_where_the_request_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("bart")
    config = transformers.GenerationConfig(
        **{**module.generation_config.to_diff_dict(), "forced_bos_token_id": 9, "no_repeat_ngram_size": 2}
    )
    config.max_length = None
    monkeypatch.setattr(module, "generation_config", config)
    scheduler = make_scheduler(module)
    for number in range(4):
        scheduler.add(b"f", row(number, prompt_of(number), do_sample=None, max_new_tokens=20), 0.0)
    found = finish(scheduler)
    for number in range(4):
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=20)
        assert found.tokens[number][0] == 9


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
def test_beams_are_those_of_generate_and_run_beside_other_rows(family: str) -> None:
    module = load(family)
    scheduler, found = make_scheduler(module, max_width=512), Found()
    search = {"num_beams": 3, "length_penalty": 0.8, "max_new_tokens": 7}
    for number in range(3):
        scheduler.add(b"f", row(number, prompt_of(5), **search), 0.0)
        scheduler.add(b"f", row(number + 10, prompt_of(number), max_new_tokens=3), 0.0)
    while 12 not in found.finishes:
        found.take(scheduler.step())
    assert not found.tokens.keys() & {0, 1, 2}, "short rows end while a search goes on"
    finish(scheduler, found)
    for number in range(3):
        assert found.tokens[number] == alone(module, prompt_of(5), **search)
        assert found.tokens[number + 10] == alone(module, prompt_of(number), max_new_tokens=3)


@pytest.mark.parametrize(
    ("family", "auto_class"),
    [
        ("gpt2", "AutoModelForCausalLM"),
        ("bart", "AutoModelForCausalLM"),  # counts positions from the left, and generate pads prompts there
        ("led", "AutoModelForSeq2SeqLM"),  # padding changes its encoder's states
    ],
)
def test_beams_of_prompts_of_other_lengths_are_those_of_each_alone(family: str, auto_class: str) -> None:
    module = load(family, auto_class)
    decoder = choose_decoder(module, 0, 40)
    scheduler = make_scheduler(module, type(decoder), max_rows=16)
    search = {"num_beams": 3, "max_new_tokens": 7}
    prompts = [[(number * 31 + 7 * place) % 30 + 8 for place in range(length)] for number, length in enumerate((3, 30))]
    prompts += [[(number * 31 + 7 * place) % 30 + 8 for place in range(14)] for number in (2, 3)]
    for number, prompt in enumerate(prompts):
        scheduler.add(b"f", row(number, prompt, **search), 0.0)
    found = finish(scheduler)
    assert found.tokens == {number: alone(module, prompt, **search) for number, prompt in enumerate(prompts)}


def test_an_end_token_ends_a_row_and_a_stop_string_too(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("gpt2")
    expected = alone(module, prompt_of(3), max_new_tokens=12)
    stop = Encoder().read(expected[1:3])
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(1, prompt_of(3), max_new_tokens=12, stop=(stop, "-")), 0.0)
    found = finish(scheduler)
    assert found.finishes == {1: "stop_sequence"}
    written = Encoder().read(expected)
    assert Encoder().read(found.tokens[1]) == written[: written.index(stop) + len(stop)]
    end = expected[5]
    monkeypatch.setattr(module.generation_config, "eos_token_id", end)
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(2, prompt_of(3), max_new_tokens=12), 0.0)
    found = finish(scheduler)
    assert found.finishes == {2: "eos_token"}
    assert found.tokens[2] == expected[: expected.index(end) + 1]


def test_a_cancelled_row_leaves_at_once_and_a_late_one_with_the_next_step() -> None:
    module = load("llama")
    scheduler = make_scheduler(module)
    for number in range(3):
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=200, streams=True), 0.0)
    scheduler.add(b"f", row(7, prompt_of(7), max_new_tokens=200, deadline=0.0), 0.0)
    found = Found()
    found.take(scheduler.step())
    assert found.failures == {7: "deadline"}
    assert (scheduler.running, len(scheduler)) == (3, 3)
    assert scheduler.cancel(b"other", [0, 1]) == 0
    assert scheduler.cancel(b"f", [0, 1]) == 2
    assert (scheduler.running, len(scheduler)) == (1, 1)
    found.take(scheduler.step())
    assert scheduler.cancel(b"f", [2]) == 1
    assert (len(scheduler), scheduler.cached_tokens) == (0, 0)


def test_the_rows_of_a_front_that_is_gone_leave_waiting_or_running_and_no_others() -> None:
    scheduler = make_scheduler(load("llama"), max_rows=2)
    for number, front in enumerate((b"gone", b"f", b"gone", b"f")):
        scheduler.add(front, row(number, prompt_of(number), max_new_tokens=20, streams=True), 0.0)
    found = Found()
    found.take(scheduler.step())
    assert (scheduler.running, len(scheduler)) == (2, 4)
    assert scheduler.forget_client(b"gone") == 2
    finish(scheduler, found)
    assert found.finishes.keys() == {1, 3}
    assert scheduler.cached_tokens == 0


def test_a_row_that_must_be_alone_is_written_by_itself_in_its_turn() -> None:
    scheduler, found = make_scheduler(load("llama")), Found()
    told: list[list[int]] = []
    scheduler.announce = lambda sequences: told.append([each.row.id for each in sequences])
    for number in range(5):
        each = row(number, prompt_of(number), max_new_tokens=6, num_beams=2 if number == 2 else None)
        scheduler.add(b"f", msgspec.structs.replace(each, is_alone=number in (1, 2)), 0.0)
    finish(scheduler, found)
    assert found.finishes.keys() == set(range(5))
    assert all(len(ids) == 1 for ids in told if {1, 2} & set(ids))
    assert [ids for ids, before in zip(told, [[], *told], strict=False) if ids != before] == [[0], [1], [2], [3, 4]]


@pytest.mark.parametrize("times", [1, 2])
def test_a_row_whose_prefill_fails_is_tried_once_more(times: int) -> None:
    module = load("llama")
    whole = make_scheduler(module)
    whole.add(b"f", row(1, [5, 9, 7]), 0.0)
    scheduler = make_scheduler(module)
    scheduler.decoder.module = Failing(module, token=9, times=times)
    scheduler.add(b"f", row(1, [5, 9, 7]), 0.0)
    found = finish(scheduler)
    assert found.failures == ({} if times == 1 else {1: "failed"})
    assert found.tokens == (finish(whole).tokens if times == 1 else {})


def test_short_rows_overtake_long_ones_and_no_row_starves() -> None:
    module = load("gpt2")
    scheduler, found = make_scheduler(module, max_rows=2), Found()
    for number in range(4):
        scheduler.add(b"f", row(number, prompt_of(1), max_new_tokens=150, streams=True), 0.0)
    for _ in range(MIN_ADMITTED_TOKENS + 1):
        found.take(scheduler.step())
    scheduler.add(b"f", row(9, prompt_of(2), max_new_tokens=2), 0.5)
    steps = 0
    while 9 not in found.finishes:
        found.take(scheduler.step())
        steps += 1
    assert steps <= 3, "a short row need not wait until a long one ends"
    number = 100
    while len(found.finishes.keys() & {0, 1, 2, 3}) < 4:  # short ones keep coming; the long ones end all the same
        number += 1
        scheduler.add(b"f", row(number, prompt_of(2), max_new_tokens=2), number / 50)
        found.take(scheduler.step())
        assert number < 3000
    expected = alone(module, prompt_of(1), max_new_tokens=150)
    assert all(found.tokens[number] == expected for number in range(4)), "who lost its place goes on with its text"


def test_rows_of_one_length_are_prefilled_together_and_the_first_is_never_passed_over() -> None:
    module = load("llama")
    scheduler, found = make_scheduler(module, max_rows=30, pass_tokens=20), Found()
    for number in range(6):  # of 2 and of 9 tokens in turn
        scheduler.add(b"f", row(number, [5, 6] * (1 + number % 2 * 4), max_new_tokens=8, streams=True), 0.0)
    for begun in ({0, 2, 4}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4, 5}):
        found.take(scheduler.step())
        assert {number: len(parts) for number, parts in found.parts.items()} == dict.fromkeys(begun, 1)
    scheduler.add(b"f", row(9, [5] * 19, max_new_tokens=8, streams=True), 0.0)
    for number in range(10, 20):  # later ones that would fit together without it
        scheduler.add(b"f", row(number, [5, 6], max_new_tokens=8, streams=True), 1.0)
    found.take(scheduler.step())
    assert {number for number in found.parts if number > 5} == {9}


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


def test_prefilled_tokens_between_two_steps_are_bounded() -> None:
    module = load("llama")
    scheduler, found = make_scheduler(module, max_rows=100, pass_tokens=40), Found()
    scheduler.add(b"f", row(0, [5, 6], max_new_tokens=50, streams=True), 0.0)
    found.take(scheduler.step())
    joined = 0
    while len(found.parts[0]) == 1:
        joined += 1
        scheduler.add(b"f", row(joined, [5] * 30, max_new_tokens=2), 1.0)
        found.take(scheduler.step())
    assert abs(30 * (joined - 1) - MAX_PREFILL_TOKENS) < 30


def test_rows_fit_the_cache_even_when_each_is_as_long_as_it_may_get() -> None:
    module = load("gpt2")
    scheduler, found = make_scheduler(module, limit_tokens=120), Found()
    for number in range(9):
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=15), 0.0)
    while scheduler:
        found.take(scheduler.step())
        assert scheduler.cached_tokens <= 120 or scheduler.running == 1
    assert len(found.finishes) == 9


class Fragile(CausalDecoder):
    """Fails where told."""

    fails: Callable[[list[int]], bool] = staticmethod(lambda tokens: False)

    def prefill(self, prompts: Any, written: Any) -> torch.Tensor:
        if any(13 in prompt for prompt in prompts):
            raise RuntimeError("no thirteen")
        return super().prefill(prompts, written)

    def step(self, tokens: Any) -> torch.Tensor:
        if type(self).fails(list(tokens)):
            raise RuntimeError("a step failed")
        return super().step(tokens)


def test_a_row_at_fault_fails_alone_and_a_failed_step_fails_its_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("gpt2")
    looked: list[bool] = []
    scheduler = Scheduler(
        Fragile(module, 0),
        Encoder(),  # type: ignore[arg-type]  # reads like a TextEncoder
        limit_tokens=10_000,
        max_rows=8,
        verify=lambda: looked.append(True),
    )
    scheduler.add(b"f", row(1, [5, 6, 7]), 0.0)
    scheduler.add(b"f", row(2, [12, 13]), 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed"}
    assert found.tokens[1] == alone(module, [5, 6, 7])
    assert looked == [True], "whether the model still works is looked at"
    monkeypatch.setattr(Fragile, "fails", staticmethod(lambda tokens: len(tokens) == 2))
    scheduler.add(b"f", row(3, [5, 6, 7]), 0.0)
    scheduler.add(b"f", row(4, [8, 9]), 0.0)
    found = finish(scheduler)
    assert found.failures == {3: "failed", 4: "failed"}
    scheduler.add(b"f", row(5, [5, 6, 7]), 0.0)
    assert finish(scheduler).tokens[5] == alone(module, [5, 6, 7])


def test_a_model_that_no_longer_works_is_reported_and_no_row_gets_the_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise EngineError("the model does not work any more")

    scheduler = Scheduler(
        Fragile(load("gpt2"), 0),
        Encoder(),  # type: ignore[arg-type]  # reads like a TextEncoder
        limit_tokens=10_000,
        max_rows=1,
        verify=broken,
    )
    monkeypatch.setattr(Fragile, "fails", staticmethod(lambda tokens: True))
    for number in range(3):
        scheduler.add(b"f", row(number, prompt_of(number)), 0.0)
    scheduler.step()
    with pytest.raises(EngineError):
        scheduler.step()
    assert scheduler.take_due() == []


class Rule(transformers.LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """A sampling rule that fails on rows whose text has this token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if (input_ids == self.token).any():
            raise RuntimeError("a rule failed")
        return scores


def test_a_row_whose_sampling_cannot_be_set_up_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("gpt2")
    expected = alone(module, [5, 6, 7])

    def missing(*given: Any, **named: Any) -> Any:
        raise AttributeError("a private method of transformers is gone")

    monkeypatch.setattr(module, "_get_logits_processor", missing)
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(1, [5, 6, 7]), 0.0)
    scheduler.add(b"f", row(2, [5, 6, 7], repetition_penalty=1.5), 0.0)
    broken = row(3, [5, 6, 7])
    broken.payload = b"no settings"
    scheduler.add(b"f", broken, 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed", 3: "failed"}
    assert found.tokens == {1: expected}
    scheduler.add(b"f", row(4, [5, 6, 7], repetition_penalty=1.5), 0.0)
    assert scheduler, "its failure is still to be told"
    assert finish(scheduler).failures == {4: "failed"}


def test_a_row_whose_rule_fails_midway_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("gpt2")
    expected = {1: alone(module, [5, 6, 7]), 3: alone(module, [12, 13])}
    monkeypatch.setattr(
        module, "_get_logits_processor", lambda *given, **named: transformers.LogitsProcessorList([Rule(13)])
    )
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(1, [5, 6, 7], repetition_penalty=1.5), 0.0)
    scheduler.add(b"f", row(2, [12, 13], repetition_penalty=1.5), 0.0)
    scheduler.add(b"f", row(3, [12, 13]), 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed"}
    assert found.tokens == expected


def test_a_row_whose_text_cannot_be_read_fails_alone() -> None:
    module = load("gpt2")
    expected = alone(module, [5, 6, 7])

    class Broken(Encoder):
        def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
            raise ValueError("no such token")

    scheduler = Scheduler(CausalDecoder(module, 0), Broken(), limit_tokens=1000, max_rows=8)  # type: ignore[arg-type]
    scheduler.add(b"f", row(1, [5, 6, 7]), 0.0)
    scheduler.add(b"f", row(2, [5, 6, 7], stop=("-",)), 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed"}
    assert found.tokens == {1: expected}


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_a_model_whose_sampling_cannot_be_set_up_is_not_loaded(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(family)
    check_sampling(KINDS[module.config.is_encoder_decoder][0](module, 0), module.config.vocab_size)

    def missing(*given: Any, **named: Any) -> Any:
        raise AttributeError("a private method of transformers is gone")

    monkeypatch.setattr(module, "_prepare_special_tokens", missing)
    with pytest.raises(EngineError, match="sampling .* AttributeError: a private method"):
        check_sampling(KINDS[module.config.is_encoder_decoder][0](module, 0), module.config.vocab_size)


@dataclass
class FailingStep:
    """A module that fails on steps at this token."""

    module: Any
    token: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        if input_ids.shape[1] == 1 and (input_ids == self.token).any():
            raise RuntimeError("no memory")
        return self.module(input_ids=input_ids, **given)


@pytest.mark.parametrize("by_themselves", [True, False])
def test_of_rows_that_step_one_by_one_only_the_one_at_fault_fails(*, by_themselves: bool) -> None:
    module = load("llama", dtype=torch.bfloat16 if by_themselves else torch.float32)
    prompts = {1: [5, 6, 7], 2: [9, 9, 9, 9], 3: [8, 6, 5]}
    asked: Any = {"do_sample": True, "seed": 1} if by_themselves else {}
    by_itself = {}
    for number, prompt in prompts.items():
        scheduler = make_scheduler(module)
        scheduler.add(b"f", row(number, prompt, **asked), 0.0)
        by_itself |= finish(scheduler).tokens
    token = next(token for token in by_itself[2][:-1] if token not in by_itself[1] + by_itself[3])
    failing = SequentialDecoder(module, 0)
    failing.module = FailingStep(module, token)
    if by_themselves:
        scheduler = make_scheduler(module, isolated=failing)
    else:
        scheduler = Scheduler(failing, Encoder(), limit_tokens=100_000, max_rows=8)  # type: ignore[arg-type]  # as above
    for number, prompt in prompts.items():
        scheduler.add(b"f", row(number, prompt, **asked), 0.0)
    found = finish(scheduler)
    assert found.failures == {2: "failed"}
    assert found.tokens == {number: by_itself[number] for number in (1, 3)}
    assert scheduler.cached_tokens == 0


def test_what_waits_is_counted_as_it_comes_and_goes() -> None:
    scheduler, found = make_scheduler(load("gpt2"), max_rows=1), Found()
    for number in range(4):
        deadline = 0.0 if number == 2 else FOREVER
        scheduler.add(b"f", row(number, [5, 6, 7], max_new_tokens=40, deadline=deadline, streams=True), 0.0)
    assert scheduler.tokens == 4 * 43
    found.take(scheduler.step())
    assert (scheduler.tokens, found.failures) == (2 * 43, {2: "deadline"})
    for _ in range(MIN_ADMITTED_TOKENS):
        found.take(scheduler.step())
    scheduler.add(b"f", row(9, [5, 6], max_new_tokens=2), 0.0)
    assert scheduler.tokens == 2 * 43 + 4
    found.take(scheduler.step())
    assert (scheduler.tokens, scheduler.running) == (3 * 43, 1), "the one that lost its place waits again"
    assert scheduler.cancel(b"f", [0, 1, 3]) == 3
    assert scheduler.tokens == 0
    finish(scheduler, found)
    assert scheduler.tokens == 0


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.integers(1, 40), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 8)),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, limit=st.integers(60, 400), family=st.sampled_from(["llama", "bart"]))
def test_any_arrivals_cancellations_and_settings_leave_every_row_its_own_text(
    actions: list[Any], limit: int, family: str
) -> None:
    module = load(family)
    scheduler, found = make_scheduler(module, limit_tokens=limit, max_rows=4), Found()
    asked: dict[int, tuple[int, dict[str, Any]]] = {}
    cancelled: set[int] = set()
    for number, action in enumerate(actions):
        if action[0] == "add":
            _, prompt, most, kind, streams = action
            wanted = {"max_new_tokens": most, **({} if kind == 5 else draw(kind))}
            asked[number] = (prompt, wanted)
            scheduler.add(b"f", row(number, prompt_of(prompt), streams=streams, **wanted), number / 10)
        elif action[0] == "cancel" and asked:
            victim = sorted(asked)[action[1] % len(asked)]
            if scheduler.cancel(b"f", [victim]):
                cancelled.add(victim)
        for _ in range(action[1] if action[0] == "step" else 1):
            found.take(scheduler.step())
    finish(scheduler, found)
    assert scheduler.cached_tokens == 0
    assert found.finishes.keys() == asked.keys() - cancelled
    for number in found.finishes:
        prompt, wanted = asked[number]
        assert found.tokens[number] == reference(family, prompt, tuple(sorted(wanted.items())))


@cache
def reference(family: str, prompt: int, wanted: tuple[tuple[str, Any], ...]) -> list[int]:
    """The row written alone."""
    scheduler = make_scheduler(load(family))
    scheduler.add(b"f", row(0, prompt_of(prompt), **dict(wanted)), 0.0)
    return finish(scheduler).tokens[0]


def test_positions_are_compared_although_a_model_repeats_padding() -> None:
    module = load("m2m_100", "AutoModelForSeq2SeqLM")
    bias = 20.0 * torch.nn.functional.one_hot(torch.tensor(0), module.config.vocab_size)
    module.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    assert module.generate(torch.tensor([[5, 9]]), max_new_tokens=3).tolist() == [[0, 0, 0, 0]]
    assert "other logits" in str(find_difference(Seq2SeqDecoder(module, 0), module.config.vocab_size))
    assert find_difference(SequentialDecoder(module, 0), module.config.vocab_size) is None
