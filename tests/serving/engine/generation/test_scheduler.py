"""Rows that are written together: each comes out as transformers' `generate` writes it alone, whatever its batch."""

from functools import cache
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.generation.admission import MAX_ISOLATED, MIN_ADMITTED_TOKENS
from serving.engine.generation.scheduler import MAX_PREFILL_TOKENS
from tests.serving.engine.generation.rows import (
    CAUSAL,
    FOREVER,
    SEQ2SEQ,
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


def test_isolated_rows_leave_half_of_the_cache_to_others() -> None:
    scheduler, found = make_scheduler(load("llama", dtype=torch.bfloat16), limit_tokens=200), Found()
    for number in range(3):
        asked = row(number, prompt_of(0), do_sample=True, seed=number, max_new_tokens=60)
        scheduler.add(b"f", asked, 0.0)
    scheduler.add(b"f", row(3, prompt_of(0), max_new_tokens=60), 0.0)
    found.take(scheduler.step())
    assert scheduler.running == 2, "one of them, and the one that has no seed"
    assert set(finish(scheduler, found).finishes) == set(range(4))


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
        scheduler.add(b"f", msgspec.structs.replace(each, is_suspect=number in (1, 2)), 0.0)
    finish(scheduler, found)
    assert found.finishes.keys() == set(range(5))
    assert all(len(ids) == 1 for ids in told if {1, 2} & set(ids))
    assert [ids for ids, before in zip(told, [[], *told], strict=False) if ids != before] == [[0], [1], [2], [3, 4]]


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
