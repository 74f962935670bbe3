"""What fails, fails alone: a row that cannot be prefilled, stepped, sampled or read leaves the others their texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from serving.engine import recheck
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.scheduler import Scheduler
from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import KINDS, check_sampling
from serving.errors import EngineError
from tests.serving.engine.generation.rows import Encoder, alone, finish, load, make_scheduler, prompt_of, row

pytestmark = pytest.mark.processor


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


class Fragile(CausalDecoder):
    """Fails where told."""

    fails: Callable[[list[int]], bool] = staticmethod(lambda tokens: False)

    def prefill(self, prompts: Any, written: Any, callers: Any = ()) -> torch.Tensor:
        if any(13 in prompt for prompt in prompts):
            raise RuntimeError("no thirteen")
        return super().prefill(prompts, written, callers)

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


@pytest.mark.parametrize(
    ("device", "error", "looks"),
    [
        ("cpu", RuntimeError("no thirteen"), 1),
        ("cuda", ValueError("no thirteen"), 1),
        ("cuda", IndexError("no thirteen"), 1),
        ("cuda", RuntimeError("a device assert"), 3),
    ],
)
def test_only_what_may_be_the_devices_fault_has_the_model_looked_at_each_time(
    device: str, error: Exception, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(recheck, "PAUSE_SECONDS", float("inf"))
    looked: list[bool] = []
    scheduler = Scheduler(
        CausalDecoder(load("gpt2"), 0),
        Encoder(),  # type: ignore[arg-type]  # reads like a TextEncoder
        limit_tokens=10_000,
        max_rows=8,
        verify=lambda: looked.append(True),
    )
    monkeypatch.setattr(scheduler.decoder, "prefill", fail)
    monkeypatch.setattr(scheduler.decoder, "device", torch.device(device))
    for number in range(3):
        scheduler.add(b"f", row(number, [5, 6, 7]), 0.0)
        assert finish(scheduler).failures == {number: "failed"}
    assert len(looked) == looks


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


@dataclass
class Spoilt:
    """A module whose logits are NaN: of prompts with this token, or of all from then on."""

    module: Any
    token: int
    is_sticky: bool
    is_broken: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        output = self.module(input_ids=input_ids, **given)
        rows = (input_ids == self.token).any(-1)
        self.is_broken |= self.is_sticky and bool(rows.any())
        output.logits[rows | self.is_broken] = torch.nan
        return output


@pytest.mark.parametrize("is_sticky", [True, False])
def test_logits_that_are_not_finite_have_the_model_looked_at(*, is_sticky: bool) -> None:
    module = load("gpt2")
    decoder = CausalDecoder(module, 0)
    decoder.module = spoilt = Spoilt(module, 9, is_sticky)  # type: ignore[assignment]  # called alike
    looked: list[bool] = []

    def verify() -> None:
        looked.append(spoilt.is_broken)
        if spoilt.is_broken:
            raise EngineError("the model does not work any more")

    scheduler = Scheduler(decoder, Encoder(), limit_tokens=10_000, max_rows=8, verify=verify)  # type: ignore[arg-type]
    for number, prompt in enumerate([[5, 6, 7], [5, 9, 7], [9, 6, 5]], 1):
        scheduler.add(b"f", row(number, prompt), 0.0)
    if is_sticky:
        with pytest.raises(EngineError):
            finish(scheduler)
        assert scheduler.take_due() == []
    else:
        found = finish(scheduler)
        assert found.failures == {2: "failed", 3: "failed"}
        assert found.tokens == {1: alone(module, [5, 6, 7])}
        scheduler.add(b"f", row(4, [9, 9]), 0.0)
        assert finish(scheduler).failures == {4: "failed"}
    assert looked == [is_sticky], "a client cannot have it looked at all the time"


def test_a_beam_search_over_logits_that_are_not_finite_fails_and_has_the_model_looked_at() -> None:
    module = load("gpt2")
    looked: list[bool] = []
    scheduler = Scheduler(
        CausalDecoder(module, 0),
        Encoder(),  # type: ignore[arg-type]  # reads like a TextEncoder
        limit_tokens=10_000,
        max_rows=8,
        verify=lambda: looked.append(True),
    )
    scheduler.add(b"f", row(1, [5, 6, 7], num_beams=2), 0.0)
    hook = module.register_forward_hook(lambda _module, _args, output: output.logits.fill_(torch.nan))
    try:
        found = finish(scheduler)
    finally:
        hook.remove()
    assert (found.failures, found.tokens, looked) == ({1: "failed"}, {}, [True])


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
