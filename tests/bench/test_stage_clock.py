"""A thread's time is divided among stages, whoever calls whom and whatever waits."""

import asyncio

import pytest

from bench.stage_clock import OUTSIDE, StageClock


class Time:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_stage_has_its_own_time_without_that_of_the_stages_that_it_calls(time: Time) -> None:
    clock = StageClock(time)

    def work(seconds: float) -> None:
        time.now += seconds

    def caller() -> str:
        work(1.0)
        clock.of("inner", work)(10.0)
        work(2.0)
        return "done"

    work(100.0)
    assert clock.of("outer", caller)() == "done"
    work(200.0)
    assert clock.seconds() == {OUTSIDE: 300.0, "outer": 3.0, "inner": 10.0}


def test_a_stage_ends_where_its_function_raises(time: Time) -> None:
    clock = StageClock(time)

    def fail() -> None:
        time.now += 1.0
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # its own
        clock.of("failing", fail)()
    time.now += 5.0
    assert clock.seconds() == {OUTSIDE: 5.0, "failing": 1.0}


def test_a_coroutine_has_the_time_of_its_steps_and_not_that_in_which_it_waits(time: Time) -> None:
    clock = StageClock(time)

    async def wait() -> str:
        time.now += 1.0
        await asyncio.sleep(0)
        time.now += 2.0
        return "done"

    async def run() -> str:
        waiting = asyncio.ensure_future(clock.of_coroutine("waiting", wait)())
        await asyncio.sleep(0)
        time.now += 10.0
        return await waiting

    assert asyncio.run(run()) == "done"
    assert clock.seconds() == {OUTSIDE: 10.0, "waiting": 3.0}


def test_what_a_reading_costs_is_left_out(time: Time) -> None:
    clock = StageClock(time, overhead=0.25)

    def work() -> None:
        time.now += 1.0

    clock.of("stage", work)()
    assert clock.seconds() == {OUTSIDE: -0.5, "stage": 0.75}
