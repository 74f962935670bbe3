"""A thread's time is divided among stages, whoever calls whom and whatever waits."""

import asyncio

import pytest

from bench.stage_clock import StageClock


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
        work(1e-4)
        clock.of("inner", work)(1e-3)
        work(2e-4)
        return "done"

    work(1e-2)
    assert clock.of("outer", caller)() == "done"
    work(1e-3)
    assert clock.seconds == {"outer": pytest.approx(3e-4), "inner": pytest.approx(1e-3)}


def test_a_stage_ends_where_its_function_raises(time: Time) -> None:
    clock = StageClock(time)

    def fail() -> None:
        time.now += 1e-4
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # its own
        clock.of("failing", fail)()
    time.now += 1e-3
    assert clock.seconds == {"failing": pytest.approx(1e-4)}


def test_a_coroutine_has_the_time_of_its_steps_and_not_that_in_which_it_waits(time: Time) -> None:
    clock = StageClock(time)

    async def wait() -> str:
        time.now += 1e-4
        await asyncio.sleep(0)
        time.now += 2e-4
        return "done"

    async def run() -> str:
        waiting = asyncio.ensure_future(clock.of_coroutine("waiting", wait)())
        await asyncio.sleep(0)
        time.now += 1e-3
        return await waiting

    assert asyncio.run(run()) == "done"
    assert clock.seconds == {"waiting": pytest.approx(3e-4)}


def test_a_part_in_which_the_thread_lost_its_core_is_left_out(time: Time) -> None:
    clock = StageClock(time)

    def work(seconds: float) -> None:
        time.now += seconds

    timed = clock.of("stage", work)
    timed(1e-3)
    timed(1.0)
    assert clock.seconds == {"stage": pytest.approx(1e-3)}
