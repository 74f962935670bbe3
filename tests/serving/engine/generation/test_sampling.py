"""How a row's tokens are chosen and where its text ends: by its settings and the checkpoint's, as `generate` does."""

from typing import Any

import numpy
import pytest
import torch
import transformers

from serving.engine.generation import beam_search
from serving.engine.generation.sampling import NextToken, Sampler, choose, score
from serving.engine.generation.verification import choose_decoder
from serving.wire.messages import SamplingSettings
from tests.alike import assert_alike
from tests.serving.engine.generation.rows import (
    Encoder,
    Found,
    alone,
    draw,
    finish,
    load,
    make_scheduler,
    prompt_of,
    row,
)

pytestmark = [pytest.mark.processor, pytest.mark.slow]


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


@pytest.mark.parametrize("family", ["bart", "gpt2", "bloom"])
def test_the_best_texts_of_a_search_have_the_models_own_scores(family: str) -> None:
    module = load(family)
    prompt, search = prompt_of(5), {"num_beams": 3, "max_new_tokens": 6}
    scheduler = make_scheduler(module)
    for rank in range(3):
        scheduler.add(b"f", row(rank, prompt, rank=rank, top=2, **search), 0.0)
    found = finish(scheduler)
    ids = torch.tensor([prompt])
    best = module.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, num_return_sequences=3, **search)
    start = 1 if module.config.is_encoder_decoder else len(prompt)
    for rank, text in enumerate(best):
        assert found.tokens[rank] == text[start:].tolist()
        half = {"input_ids": ids, "decoder_input_ids": text[None]} if start == 1 else {"input_ids": text[None]}
        scores = module(**half).logits[0, start - 1 : -1].log_softmax(-1)
        (delta,) = found.parts[rank]
        own = scores.gather(1, text[start:, None])[:, 0]
        assert_alike(numpy.frombuffer(delta.logprobs, dtype=numpy.float32), own)
        top = numpy.frombuffer(delta.top_logprobs, dtype=numpy.float32).reshape(len(own), 2)
        assert_alike(top, scores.topk(2).values)


def test_a_search_has_no_more_texts_than_beams() -> None:
    scheduler = make_scheduler(load("bart"))
    scheduler.add(b"f", row(0, prompt_of(5), num_beams=2, rank=2), 0.0)
    scheduler.add(b"f", row(1, prompt_of(5), num_beams=1, rank=2), 0.0)
    found = finish(scheduler)
    assert found.failures == {0: "refused"}
    assert found.tokens.keys() == {1}


def test_the_tokens_of_a_search_are_scored_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []

    def watch(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> list[NextToken]:
        scored.append(logits.shape[0])
        return score(logits, tokens, top)

    monkeypatch.setattr(beam_search, "score", watch)
    scheduler = make_scheduler(load("gpt2"))
    scheduler.add(b"f", row(1, prompt_of(3), num_beams=3, max_new_tokens=9, top=2), 0.0)
    tokens = finish(scheduler).tokens[1]
    assert scored == [1] * len(tokens), "the logits of all steps together may be larger than the model"


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


def test_a_top_k_beyond_every_vocabulary_costs_no_row() -> None:
    module = load("llama")
    found = []
    for top_k in (2**31, 2**63, 2**64 - 1):
        scheduler = make_scheduler(module)
        scheduler.add(b"f", row(1, prompt_of(1), do_sample=True, seed=1, top_k=top_k), 0.0)
        scheduler.add(b"f", row(2, prompt_of(2), do_sample=True, seed=1), 0.0)
        found.append(finish(scheduler).tokens)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2


@pytest.mark.parametrize("temperature", [1e-5, 1e-300, 5e-324])
@pytest.mark.parametrize("top_k", [50, 0])
def test_the_smallest_temperatures_give_the_likeliest_token(temperature: float, top_k: int) -> None:
    module, prompt = load("llama"), prompt_of(3)
    scheduler = make_scheduler(module)
    asked = {"do_sample": True, "temperature": temperature, "top_k": top_k, "seed": 1}
    scheduler.add(b"f", row(1, prompt, **asked), 0.0)
    assert finish(scheduler).tokens[1] == alone(module, prompt)


@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 1e-300, "do_sample": True},
        {"temperature": 100.0, "top_p": 1e-300, "do_sample": True},
        {"top_k": 2**31 - 1, "do_sample": True},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e-300, "do_sample": True},
        {"repetition_penalty": 1e300, "do_sample": True},
        {"length_penalty": 1e-300},
    ],
    ids=str,
)
def test_numbers_at_their_bounds_fail_no_row_with_and_without_a_search(
    family: str, beams: int, asked: dict[str, Any]
) -> None:
    scheduler = make_scheduler(load(family))
    scheduler.add(b"f", row(1, prompt_of(3), seed=1, num_beams=beams, **asked), 0.0)
    found = finish(scheduler)
    assert not found.failures
    assert found.tokens[1]


@pytest.mark.parametrize("vocabulary", [1, 3, 12])
def test_more_likeliest_tokens_than_there_are_cost_no_row(vocabulary: int) -> None:
    logits = torch.arange(2.0 * vocabulary).view(2, vocabulary)
    for found in score(logits, torch.tensor([0, 0]), 20):
        assert len(found.top) == vocabulary


@pytest.mark.parametrize("levels", [1, 40])
@pytest.mark.parametrize("asked", [{"top_k": 50}, {"top_k": 2000}, {"top_k": 0, "top_p": 0.5}])
def test_of_equal_scores_a_row_draws_the_same_in_any_batch(asked: dict[str, Any], levels: int) -> None:
    """Scores are often equal in bfloat16. levels: how many different ones there are."""
    module, prompt = load("llama"), prompt_of(3)
    logits = torch.randint(levels, (4, 32_000), generator=torch.Generator().manual_seed(levels)).float()

    def sampler(number: int, **given: Any) -> Sampler:
        settings = SamplingSettings(max_new_tokens=8, do_sample=True, seed=number, **given)
        return Sampler(module, settings, row(number, prompt))

    others = [asked | {"top_k": top_k} for top_k in (4, 1000)] + [{"top_k": 1024}]
    for number in range(20):
        (found,) = choose(logits[:1], [sampler(number, **asked)], [prompt])
        for size in (1, 2, 3):
            samplers = [sampler(number, **asked), *(sampler(9, **given) for given in others[:size])]
            assert choose(logits[: size + 1], samplers, [prompt] * (size + 1))[0] == found


def test_of_equal_scores_the_lowest_ids_are_told() -> None:
    logits = torch.zeros(3, 32_000)
    logits[:, 7::1000] = 1.0
    for top in (0, 1, 5, 20):
        for found in score(logits, torch.tensor([0, 0, 0]), top):
            assert [token for token, _ in found.top] == list(range(7, 32_000, 1000))[:top]


def test_a_draw_of_which_rules_leave_nothing_is_that_rows_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("llama")
    monkeypatch.setattr(module.generation_config, "suppress_tokens", list(range(module.config.vocab_size)))
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(1, prompt_of(1), do_sample=True, seed=1), 0.0)
    found = finish(scheduler)
    assert found.failures == {1: "failed"}
    assert not found.tokens


def test_a_tiny_temperature_leaves_rules_after_it_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    module, prompt = load("llama"), prompt_of(3)
    monkeypatch.setattr(module.generation_config, "min_p", 0.05)
    scheduler = make_scheduler(module)
    scheduler.add(b"f", row(1, prompt, do_sample=True, temperature=1e-39, seed=1), 0.0)
    found = finish(scheduler)
    assert not found.failures
    assert found.tokens[1] == alone(module, prompt)


def search_together(module: Any, prompts: list[list[int]], **bounds: Any) -> list[list[int]]:
    """What beam searches find for prompts that arrive together."""
    scheduler = make_scheduler(module, max_rows=64, **bounds)
    for number, prompt in enumerate(prompts):
        scheduler.add(b"f", row(number, prompt, num_beams=3), 0.0)
    found = finish(scheduler).tokens
    return [found[number] for number in range(len(prompts))]


@pytest.mark.parametrize(
    ("family", "rule"),
    [
        ("llama", {"min_length": 9, "eos_token_id": list(range(0, 40, 2))}),
        ("llama", {"encoder_repetition_penalty": 1.8}),
        ("bart", {"encoder_repetition_penalty": 1.8}),
    ],
)
def test_rules_see_no_padding_in_a_beam_search(
    family: str, rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(family)
    for name, value in rule.items():
        monkeypatch.setattr(module.generation_config, name, value)
    prompts = [prompt_of(number) for number in range(6)]
    found = search_together(module, prompts, max_width=64)
    for prompt, tokens in zip(prompts, found, strict=True):
        expected = alone(module, prompt, num_beams=3)
        assert tokens == expected[: len(tokens)]
        assert len(tokens) == len(expected) or tokens[-1] in rule["eos_token_id"]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_search_that_a_request_makes_wider_than_the_cache_is_refused(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(family)
    for own, beams, outcome in ((None, 8, "refused"), (None, 2, None), (8, 8, None), (8, None, None)):
        monkeypatch.setattr(module.generation_config, "num_beams", own)
        scheduler = make_scheduler(module, limit_tokens=120)
        scheduler.add(b"f", row(1, [5] * 10, num_beams=beams, max_new_tokens=20), 0.0)
        assert finish(scheduler).failures.get(1) == outcome
