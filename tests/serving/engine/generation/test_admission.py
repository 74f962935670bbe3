"""Which sequences are admitted, as tables: no model, no clock."""

from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from serving.engine.generation.admission import (
    MAX_ISOLATED,
    MIN_ADMITTED_TOKENS,
    Admission,
    SchedulerLimits,
    plan_admission,
)
from serving.engine.generation.sampling import NextToken
from serving.engine.generation.sequence import FAIR_SECONDS, Sequence
from serving.wire.messages import Row, SamplingSettings

LIMITS = SchedulerLimits(max_rows=4, cache_tokens=100, pass_tokens=40)


def sequence(
    number: int,
    prompt: int = 4,
    new: int = 6,
    *,
    arrived: float = 0.0,
    beams: int = 1,
    seed: int | None = None,
    isolated: bool = False,
    written: int = 0,
    has_rules: bool = False,
) -> Sequence:
    """A sequence whose priority is its time of arrival."""
    settings = SamplingSettings(new, num_beams=beams, seed=seed)
    tokens = numpy.zeros(prompt, dtype=numpy.int32).tobytes()
    row = Row(number, prompt, tokens, b"", "", 1e9, settings.pack(), new)
    sampler: Any = SimpleNamespace(beams=beams, is_plain=not has_rules)
    made = Sequence(b"f", row, arrived - FAIR_SECONDS * new, settings, frozenset(), sampler, None)
    made.is_isolated = isolated
    for _ in range(written):
        made.append(NextToken(7))
    return made


def plan(waiting: list[Sequence], running: list[Sequence], limits: SchedulerLimits = LIMITS, **given: Any) -> Admission:
    asked: Any = {"width": lambda most: most, "cost": lambda each: each.length, "max_tokens": 512, **given}
    asked.setdefault("search_tokens", 0)
    return plan_admission(waiting, running, limits, **asked)


def ids(sequences: list[Sequence]) -> list[int]:
    return [one.row.id for one in sequences]


@pytest.mark.parametrize(
    ("waiting", "running", "given", "prefilled"),
    [
        pytest.param([sequence(1), sequence(2)], [], {}, [1, 2], id="all that fits"),
        pytest.param([sequence(1)], [], {"max_tokens": 0}, [], id="nothing before the next step"),
        pytest.param([sequence(1, 30)], [], {"max_tokens": 8}, [1], id="the first may exceed the bound"),
        pytest.param(
            [sequence(1, 16), sequence(2, 18), sequence(3, 20)],
            [],
            {"cost": lambda each: 8, "max_tokens": 16, "width": lambda most: most},
            [1, 2],
            id="what is known of a prompt costs nothing",
        ),
        pytest.param([sequence(1), sequence(2), sequence(3)], [], {"max_tokens": 8}, [1, 2], id="up to the bound"),
        pytest.param([sequence(1), sequence(2)], [], {"width": lambda longest: 256}, [1, 2][:1], id="padding counts"),
        pytest.param([sequence(1, 90, 90)], [], {}, [1], id="the only one may exceed the cache"),
        pytest.param([sequence(1, 90, 90)], [sequence(9)], {}, [], id="not beside another"),
        pytest.param([sequence(1, 40), sequence(2)], [sequence(9, 40)], {}, [1], id="each as long as the longest"),
        pytest.param([sequence(1), sequence(2)], [sequence(n) for n in (7, 8, 9)], {}, [1], id="as many as may run"),
        pytest.param([sequence(1, 80), sequence(2)], [sequence(9, 40)], {}, [], id="the first is never passed over"),
        pytest.param([sequence(1, 12), sequence(2), sequence(3, 12)], [], {}, [1, 3, 2], id="nearest in length first"),
        pytest.param(
            [sequence(1, 16), sequence(2, 3), sequence(3, 16)], [], {}, [1, 3], id="one pass takes the nearest"
        ),
        pytest.param(
            [sequence(n, isolated=True) for n in (1, 2, 3)],
            [sequence(8, 20, 21, isolated=True)],
            {},
            [],
            id="isolated ones have half of the cache",
        ),
        pytest.param(
            [sequence(1, isolated=True), sequence(2)],
            [sequence(8, 40, 5, isolated=True)],
            {},
            [2],
            id="others pass an isolated one that must wait",
        ),
    ],
)
def test_waiting_sequences_are_admitted(
    waiting: list[Sequence], running: list[Sequence], given: dict[str, Any], prefilled: list[int]
) -> None:
    found = plan(waiting, running, **given)
    assert (ids(found.prefill), found.preempt, found.search) == (prefilled, [], [])


def test_few_are_isolated_at_a_time() -> None:
    limits = SchedulerLimits(max_rows=20, cache_tokens=1000, pass_tokens=1000)
    waiting = [sequence(number, isolated=True) for number in range(MAX_ISOLATED + 3)]
    assert ids(plan(waiting, [], limits).prefill) == list(range(MAX_ISOLATED))


@pytest.mark.parametrize(
    ("running", "preempted", "prefilled"),
    [
        pytest.param([(5, 0)], [], [], id="it keeps its place at first"),
        pytest.param([(5, MIN_ADMITTED_TOKENS)], [0], [9], id="it has had its tokens"),
        pytest.param([(0, MIN_ADMITTED_TOKENS)], [], [], id="it is of an earlier priority"),
        pytest.param([(5, MIN_ADMITTED_TOKENS), (6, MIN_ADMITTED_TOKENS)], [1], [9], id="of several the latest"),
    ],
)
def test_running_sequences_are_preempted_for_earlier_ones(
    running: list[tuple[float, int]], preempted: list[int], prefilled: list[int]
) -> None:
    limits = SchedulerLimits(max_rows=len(running), cache_tokens=1000, pass_tokens=100)
    rows = [sequence(number, 4, 60, arrived=when, written=new) for number, (when, new) in enumerate(running)]
    found = plan([sequence(9, arrived=1.0)], rows, limits)
    assert (ids(found.preempt), ids(found.prefill)) == (preempted, prefilled)


def test_running_sequences_are_preempted_for_an_earlier_search() -> None:
    limits = SchedulerLimits(max_rows=4, cache_tokens=100, pass_tokens=100)
    running = [sequence(n, 4, 36, arrived=5, written=MIN_ADMITTED_TOKENS) for n in (1, 2)]
    found = plan([sequence(9, 20, beams=2, arrived=1.0)], running, limits)
    assert (ids(found.preempt), ids(found.search)) == ([2], [9])


def test_nobody_is_preempted_for_one_that_has_no_room_even_then() -> None:
    limits = SchedulerLimits(max_rows=8, cache_tokens=200, pass_tokens=100)
    first = sequence(1, 4, 56, arrived=0, written=MIN_ADMITTED_TOKENS)
    later = sequence(2, 4, 56, arrived=5, written=MIN_ADMITTED_TOKENS)
    for waiting in (sequence(9, 90, beams=2, arrived=1.0), sequence(9, 180, arrived=1.0)):
        assert plan([waiting], [first, later], limits) == Admission()


def test_searches_that_start_together_leave_half_of_the_cache_to_others() -> None:
    limits = SchedulerLimits(max_rows=64, cache_tokens=400, pass_tokens=1000)
    found = plan([sequence(n, beams=2) for n in range(20)], [], limits)
    assert len(found.search) * 2 * 10 == 200


def test_searches_that_start_together_have_prompts_of_one_pass() -> None:
    limits = SchedulerLimits(max_rows=64, cache_tokens=4000, pass_tokens=40)
    assert ids(plan([sequence(n, 16, beams=2) for n in range(5)], [], limits).search) == [0, 1]


def test_a_long_prompt_at_the_end_takes_no_place_of_those_before_it() -> None:
    limits = SchedulerLimits(max_rows=64, cache_tokens=400, pass_tokens=1000)
    waiting = [*(sequence(n, beams=2) for n in range(6)), sequence(9, 80, beams=2)]
    assert ids(plan(waiting, [], limits).search) == [0, 1, 2, 3, 4, 5]


def test_an_isolated_sequence_that_waits_is_not_passed_by_later_ones() -> None:
    limits = SchedulerLimits(max_rows=20, cache_tokens=100, pass_tokens=1000)
    waiting = [sequence(1, 40, isolated=True), sequence(2, isolated=True), sequence(3)]
    found = plan(waiting, [sequence(8, isolated=True)], limits)
    assert ids(found.prefill) == [3]


def test_isolated_sequences_are_not_preempted() -> None:
    limits = SchedulerLimits(max_rows=1, cache_tokens=1000, pass_tokens=100)
    running = [sequence(0, 4, 60, arrived=5, written=MIN_ADMITTED_TOKENS, isolated=True)]
    assert plan([sequence(9, arrived=1.0)], running, limits) == Admission()


@pytest.mark.parametrize(
    ("waiting", "given", "searched", "prefilled"),
    [
        pytest.param([sequence(n, beams=2) for n in (1, 2)], {}, [1, 2], [], id="of the same settings together"),
        pytest.param([sequence(1, beams=2), sequence(2, beams=4)], {}, [1], [], id="other settings later"),
        pytest.param([sequence(1, 4, beams=2), sequence(2, 5, beams=2)], {}, [1, 2], [], id="of any lengths"),
        pytest.param(
            [sequence(number, length, beams=2, has_rules=True) for number, length in enumerate((4, 5, 4), 1)],
            {},
            [1, 3],
            [],
            id="with rules of one length",
        ),
        pytest.param([sequence(n, beams=2, seed=5) for n in (1, 2)], {}, [1], [], id="a seed by itself"),
        pytest.param([sequence(n, beams=2) for n in (1, 2, 3)], {}, [1, 2], [], id="as many as fit"),
        pytest.param([sequence(1, beams=2), sequence(2)], {}, [1], [2], id="beside others"),
        pytest.param([sequence(1, beams=2), sequence(2)], {"search_tokens": 40}, [], [2], id="one search at a time"),
        pytest.param([sequence(1, 80)], {"search_tokens": 40}, [], [], id="none for which it leaves no room"),
        pytest.param([sequence(1, 90, beams=4), sequence(2)], {}, [1], [], id="a search that takes all runs alone"),
        pytest.param(
            [sequence(n, beams=2) for n in (1, 2)],
            {"running": [sequence(8, 30), sequence(9, 30)]},
            [1],
            [],
            id="as many as the others leave room for",
        ),
        pytest.param(
            [sequence(1, 40, beams=2), sequence(2)],
            {"running": [sequence(9, 20)]},
            [],
            [],
            id="nobody passes a search that waits for room",
        ),
    ],
)
def test_beam_searches_start(
    waiting: list[Sequence], given: dict[str, Any], searched: list[int], prefilled: list[int]
) -> None:
    found = plan(waiting, given.pop("running", []), **given)
    assert (ids(found.search), ids(found.prefill)) == (searched, prefilled)
