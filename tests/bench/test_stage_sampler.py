"""A thread's samples are divided among stages, whoever calls whom and whatever waits."""

import asyncio
import signal
import time

import pytest

from bench.stage_sampler import OUTSIDE, StageSampler


@pytest.fixture
def sampler() -> StageSampler:
    return StageSampler()


def test_a_stage_has_its_own_samples_without_those_of_the_stages_that_it_calls(sampler: StageSampler) -> None:
    def caller() -> str:
        sampler.sample()
        sampler.of("inner", sampler.sample)()
        sampler.sample()
        return "done"

    assert sampler.of("outer", caller)() == "done"
    sampler.sample()
    assert sampler.samples == {OUTSIDE: 1, "outer": 2, "inner": 1}


def test_a_stage_ends_where_its_function_raises(sampler: StageSampler) -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # its own
        sampler.of("failing", fail)()
    sampler.sample()
    assert sampler.samples == {OUTSIDE: 1}


def test_a_coroutine_has_the_samples_of_its_steps_and_not_those_while_it_waits(sampler: StageSampler) -> None:
    async def wait() -> str:
        sampler.sample()
        await asyncio.sleep(0)
        sampler.sample()
        return "done"

    async def run() -> str:
        waiting = asyncio.ensure_future(sampler.of_coroutine("waiting", wait)())
        await asyncio.sleep(0)
        sampler.sample()
        return await waiting

    assert asyncio.run(run()) == "done"
    assert sampler.samples == {OUTSIDE: 1, "waiting": 2}


def test_processor_time_is_sampled(sampler: StageSampler) -> None:
    def work() -> None:
        while not sampler.samples:
            time.process_time()

    before = signal.getsignal(signal.SIGPROF)
    sampler.start()
    try:
        sampler.of("working", work)()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert "working" in sampler.samples
