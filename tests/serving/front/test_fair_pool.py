"""Work of many requests for one model does not hold up that of another model."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from serving.front.fair_pool import FairPool, asked_model
from tests.waiting import WAIT_SECONDS


@pytest.fixture
def pool() -> Iterator[FairPool]:
    made = FairPool(1, "fair")
    yield made
    made.shutdown()


def submit(pool: FairPool, model: str, *work: Any) -> "Future[Any]":
    token = asked_model.set(model)
    try:
        return pool.submit(*work)
    finally:
        asked_model.reset(token)


def test_models_take_turns_and_each_ones_work_is_done_in_order(pool: FairPool) -> None:
    may_begin, done = threading.Event(), []
    futures = [submit(pool, "first", may_begin.wait, 60)]
    for model, count in (("flooded", 4), ("other", 2), ("third", 1)):
        futures += [submit(pool, model, done.append, f"{model} {number}") for number in range(count)]
    may_begin.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert done == ["flooded 0", "other 0", "third 0", "flooded 1", "other 1", "flooded 2", "flooded 3"]


def test_a_failure_is_the_callers_and_cancelled_work_is_not_begun(pool: FairPool) -> None:
    may_begin, done = threading.Event(), []
    first = submit(pool, "m", may_begin.wait, 60)
    cancelled, failing = submit(pool, "m", done.append, 1), submit(pool, "m", int, "no number")
    assert cancelled.cancel()
    may_begin.set()
    assert first.result(WAIT_SECONDS)
    with pytest.raises(ValueError, match="no number"):
        failing.result(WAIT_SECONDS)
    assert done == []
    assert submit(pool, "m", int, "7").result(WAIT_SECONDS) == 7


def test_as_many_run_at_a_time_as_there_are_threads_and_no_more() -> None:
    pool, barrier = FairPool(2, "fair"), threading.Barrier(2)
    running: set[int] = set()
    most: list[int] = []

    def work() -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        barrier.wait(WAIT_SECONDS)  # two have to meet
        running.discard(threading.get_ident())

    for future in [submit(pool, f"m{number % 3}", work) for number in range(6)]:
        future.result(WAIT_SECONDS)
    assert max(most) == 2
    pool.shutdown()


def test_an_event_loop_hands_work_to_it(pool: FairPool) -> None:
    async def work() -> int:
        asked_model.set("m")
        return await asyncio.get_running_loop().run_in_executor(pool, int, "7")

    assert asyncio.run(work()) == 7
