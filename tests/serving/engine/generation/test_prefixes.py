"""Prefixes that are known are not computed again, and no text comes out otherwise for it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.prefix_cache import BLOCK_TOKENS, PrefixCache, lay_out
from serving.engine.generation.scheduler import PREFIX_SHARE, Scheduler
from serving.engine.generation.verification import try_prefixes
from tests.serving.engine.generation.rows import Found, alone, draw, finish, load, make_scheduler, row

pytestmark = pytest.mark.slow


FAMILIES = ("gpt2", "llama", "mistral", "gptj", "qwen2", "opt", "gpt_neox", "bloom")
LENGTH = 110
"""Tokens of the shared prefix: some blocks and a part of one."""
KNOWN = LENGTH // BLOCK_TOKENS * BLOCK_TOKENS


def tokens_of(seed: int, length: int, vocabulary: int = 40) -> list[int]:
    """Tokens of which no two seeds have the same ones."""
    return numpy.random.default_rng(seed).integers(5, vocabulary, length).tolist()


SYSTEM = tokens_of(0, LENGTH)


def shared(number: int) -> list[int]:
    """A prompt of the shared prefix and 1 to 12 tokens of its own; every third one has no such prefix."""
    own = tokens_of(number + 1, 1 + number * 5 % 12)
    return own if number % 3 == 2 else [*SYSTEM, *own]


def sharing(module: Any, **bounds: Any) -> tuple[Scheduler, list[tuple[int, ...]]]:
    """A scheduler that shares prefixes, and the rows and columns of each of its forward passes as they come."""
    scheduler = make_scheduler(module, **bounds)
    scheduler.share_prefixes()
    passes: list[tuple[int, ...]] = []
    decoder = scheduler.decoder
    forward = decoder._forward

    def noted(positions: torch.Tensor, **arguments: Any) -> torch.Tensor:
        passes.append(tuple(positions.shape))
        return forward(positions, **arguments)

    decoder._forward = noted  # type: ignore[method-assign]  # how much is computed is looked at
    return scheduler, passes


@pytest.mark.processor
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_generate_whatever_is_known(family: str) -> None:
    module = load(family)
    scheduler, passes = sharing(module, max_width=256 if family == "llama" else 0)
    found = Found()
    for number in range(9):
        scheduler.add(b"f", row(number, shared(number), max_new_tokens=6), 0.0)
        if number < 3:
            found.take(scheduler.step())
    finish(scheduler, found)
    for number in range(9):
        assert found.tokens[number] == alone(module, shared(number), max_new_tokens=6), number
    assert sum(width > 96 for _, width in passes) == 1, "the prefix is computed once"


@pytest.mark.processor
def test_rows_of_which_much_and_nothing_is_known_share_a_prefill() -> None:
    module = load("llama")
    decoder = CausalDecoder(module, 0)
    decoder.prefixes = PrefixCache(100)
    prompts = [[*SYSTEM, 7], [*SYSTEM[:70], 8, 9], tokens_of(9, 5), [*SYSTEM, *tokens_of(8, 40)]]
    with torch.inference_mode():
        expected = []
        for prompt in prompts:
            expected.append(CausalDecoder(module, 0).prefill([prompt], [[]])[0])
        decoder.prefill([SYSTEM], [[]])
        decoder.clear()
        for places in ([0, 1], [2, 0, 1], [3, 2, 1, 0]):
            logits = decoder.prefill([prompts[place] for place in places], [[] for _ in places])
            torch.testing.assert_close(logits, torch.stack([expected[place] for place in places]))
            assert decoder.reused[places.index(0)] > 40
            decoder.clear()


@pytest.mark.processor
def test_what_a_known_prefix_saves_is_room_for_others_in_a_prefill() -> None:
    scheduler, passes = sharing(load("llama"), pass_tokens=64)
    for number in range(4):
        scheduler.add(b"f", row(number, [*SYSTEM, 5 + number], max_new_tokens=1), 0.0)
    finish(scheduler)
    assert passes == [(1, LENGTH + 1), (3, LENGTH + 1 - KNOWN)]


@pytest.mark.processor
def test_a_prefix_of_one_caller_is_unknown_to_another() -> None:
    scheduler, passes = sharing(load("llama"))
    for number, caller in enumerate(("a", "b", "a")):
        asked = msgspec.structs.replace(row(number, [*SYSTEM, 5], max_new_tokens=1), caller=caller)
        scheduler.add(b"f", asked, 0.0)
        found = finish(scheduler)
        assert found.parts[number][0].reused == (KNOWN if number == 2 else 0)
    assert [width for _, width in passes] == [LENGTH + 1, LENGTH + 1, LENGTH + 1 - KNOWN]


@pytest.mark.processor
def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    scheduler, passes = sharing(load("llama"))
    for number in range(2):
        scheduler.add(b"f", row(number, SYSTEM[: 2 * BLOCK_TOKENS], max_new_tokens=3), 0.0)
        found = finish(scheduler)
        assert found.tokens[number] == alone(load("llama"), SYSTEM[: 2 * BLOCK_TOKENS], max_new_tokens=3)
    assert [width for _, width in passes if width > 1] == [2 * BLOCK_TOKENS, BLOCK_TOKENS]


@pytest.mark.processor
def test_prefixes_take_their_share_of_the_cache_and_no_more() -> None:
    scheduler, _ = sharing(load("llama"), limit_tokens=800)
    assert isinstance(scheduler.decoder, CausalDecoder)
    prefixes = scheduler.decoder.prefixes
    assert prefixes is not None
    for number in range(20):
        scheduler.add(b"f", row(number, tokens_of(number, 100), max_new_tokens=2), 0.0)
        while scheduler:
            scheduler.step()
            assert len(prefixes) * BLOCK_TOKENS + scheduler.cached_tokens <= 800
    assert len(prefixes) == 800 * PREFIX_SHARE // BLOCK_TOKENS
    scheduler.share_prefixes()
    assert scheduler.decoder.prefixes is prefixes


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 11), st.integers(1, 40), st.integers(0, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 8)),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.processor
@settings(max_examples=15, deadline=None)
@given(actions=ACTIONS, limit=st.integers(300, 1200))
def test_any_arrivals_seeds_and_preemptions_leave_every_row_its_own_text(actions: list[Any], limit: int) -> None:
    module = load("llama")
    scheduler, _ = sharing(module, limit_tokens=limit, max_rows=4)
    found, asked = Found(), {}
    cancelled: set[int] = set()
    for number, action in enumerate(actions):
        if action[0] == "add":
            wanted = {"max_new_tokens": action[2], **({} if action[3] == 5 else draw(action[3]))}
            asked[number] = (shared(action[1]), wanted)
            scheduler.add(b"f", row(number, shared(action[1]), **wanted), number / 10)
        elif action[0] == "cancel" and asked and scheduler.cancel(b"f", [sorted(asked)[action[1] % len(asked)]]):
            cancelled.add(sorted(asked)[action[1] % len(asked)])
        for _ in range(action[1] if action[0] == "step" else 1):
            found.take(scheduler.step())
    finish(scheduler, found)
    assert found.finishes.keys() == asked.keys() - cancelled
    for number in found.finishes:
        prompt, wanted = asked[number]
        reference = make_scheduler(module)
        reference.add(b"f", row(0, prompt, **wanted), 0.0)
        assert found.tokens[number] == finish(reference).tokens[0]


PROMPT = st.tuples(st.sampled_from(["", "a"]), st.lists(st.integers(0, 2), max_size=5), st.integers(0, BLOCK_TOKENS))


@settings(max_examples=200, deadline=None)
@given(prompts=st.lists(PROMPT, max_size=20), bound=st.integers(0, 8))
def test_what_is_found_was_computed_for_the_same_caller_and_tokens(
    prompts: list[tuple[str, list[int], int]], bound: int
) -> None:
    cache, numbers = PrefixCache(bound), {}

    def number(caller: str, tokens: Sequence[int]) -> float:
        """Of a caller and all tokens up to a place; as keys and values, it depends on all of them."""
        return float(numbers.setdefault((caller, tuple(tokens)), len(numbers)))

    def states(caller: str, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([number(caller, tokens[:end]) for end in range(1, len(tokens) + 1)])

    for caller, blocks, more in prompts:
        tokens = [token for block in blocks for token in [block] * BLOCK_TOKENS] + [1] * more
        found = cache.find(caller, tokens)
        known = BLOCK_TOKENS * len(found)
        assert known < max(1, len(tokens))
        if known:
            for keys, values in lay_out([found, []], [known, 0]):
                assert keys[0, 0, :, 0].tolist() == states(caller, tokens)[:known].tolist()
                assert values[0, 0, :, 1].tolist() == states(caller, tokens)[:known].tolist()
        own = states(caller, tokens)[None, :, None]
        cache.add(caller, tokens, [(own, own.expand(-1, -1, 2))] * 3)
        assert len(cache) <= bound
        assert len(cache.find(caller, tokens)) == min(bound, max(0, len(tokens) - 1) // BLOCK_TOKENS)


def test_blocks_that_were_not_used_for_longest_leave_first_and_those_behind_others_before_them() -> None:
    cache = PrefixCache(4)
    states = [(torch.zeros(1, 3 * BLOCK_TOKENS, 1), torch.zeros(1, 3 * BLOCK_TOKENS, 1))]
    first, second, third = (tokens_of(number, 3 * BLOCK_TOKENS) for number in range(3))
    cache.add("", first[: 2 * BLOCK_TOKENS], states)
    cache.add("", second[: 2 * BLOCK_TOKENS], states)
    assert len(cache.find("", first)) == 2
    cache.add("", third[:BLOCK_TOKENS], states)
    assert [len(cache.find("", tokens)) for tokens in (first, second, third)] == [2, 1, 1]
    cache.add("", third, states)
    assert [len(cache.find("", tokens)) for tokens in (first, second, third)] == [0, 1, 2]


# the proof


@pytest.mark.processor
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2 * BLOCK_TOKENS, 100])
def test_families_whose_prefixes_can_be_known_are_proved(family: str, length: int) -> None:
    decoder = CausalDecoder(load(family), 0)
    decoder.max_width = 256
    assert try_prefixes(decoder, tokens_of(1, length), 40) is None
    assert (decoder.prefixes, decoder.max_width, decoder.cached_tokens) == (None, 256, 0)


class Restarting(CausalDecoder):
    """Counts the positions of what is computed from 0, whatever is known."""

    def _forward(self, positions: torch.Tensor, **arguments: Any) -> torch.Tensor:
        first = positions.min(dim=1, keepdim=True).values if positions.shape[1] > 1 else 0
        return super()._forward(positions - first, **arguments)


@pytest.mark.processor
def test_a_decoder_that_miscounts_behind_a_known_prefix_is_found_out() -> None:
    problem = try_prefixes(Restarting(load("llama"), 0), tokens_of(1, 100), 40)
    assert "other logits at token 0 of a prompt of 100 tokens whose first 16 are known" in str(problem)


@pytest.mark.processor
def test_a_model_whose_tokens_see_those_behind_them_is_found_out() -> None:
    module = load("llama")
    embedding = module.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _module, _inputs, found: found + found.mean(dim=1, keepdim=True))
    try:
        assert "are known" in str(try_prefixes(CausalDecoder(module, 0), tokens_of(1, 100), 40))
    finally:
        hook.remove()


@pytest.mark.processor
@pytest.mark.parametrize("kind", ["dynamic", {"full_attention": "longrope"}])
def test_rotations_that_depend_on_the_length_of_the_text_are_not_shared(
    kind: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("llama")
    monkeypatch.setattr(module.model.rotary_emb, "rope_type", kind)
    problem = try_prefixes(CausalDecoder(module, 0), tokens_of(1, 100), 40)
    assert problem == "its rotary positions depend on the length of the text"


def test_prompts_that_are_too_short_are_not_shared() -> None:
    problem = try_prefixes(CausalDecoder(load("llama"), 0), tokens_of(1, 31), 40)
    assert problem == "its prompts are shorter than 32 tokens"
