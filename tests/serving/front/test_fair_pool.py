"""Work of many requests for one model does not hold up that of another model."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from serving.front import fair_pool
from serving.front.fair_pool import MAX_WITHIN, FairPool, QueueKey, queue_key
from tests.waiting import WAIT_SECONDS


@pytest.fixture
def pool() -> Iterator[FairPool]:
    made = FairPool(1, "fair")
    yield made
    made.shutdown()


def submit(pool: FairPool, model: str, *work: Any, caller: str = "") -> "Future[Any]":
    token = queue_key.set(QueueKey(model, caller))
    try:
        return pool.submit(*work)
    finally:
        queue_key.reset(token)


def test_models_take_turns_and_each_ones_work_is_done_in_order(pool: FairPool) -> None:
    may_begin, done = threading.Event(), []
    futures = [submit(pool, "first", may_begin.wait, 60)]
    for model, count in (("flooded", 4), ("other", 2), ("third", 1)):
        futures += [submit(pool, model, done.append, f"{model} {number}") for number in range(count)]
    may_begin.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert done == ["flooded 0", "other 0", "third 0", "flooded 1", "other 1", "flooded 2", "flooded 3"]


def test_callers_take_turns_at_one_model(pool: FairPool) -> None:
    may_begin, done = threading.Event(), []
    futures = [submit(pool, "m", may_begin.wait, 60)]
    for caller in ("a", "a", "a", "b"):
        futures.append(submit(pool, "m", done.append, caller, caller=caller))
    may_begin.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert done == ["a", "b", "a", "a"]


def test_long_work_gives_way_to_others_between_its_parts(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread: what waits for others is done while long work goes on; what waits in the same queue is not."""
    monkeypatch.setattr(fair_pool, "TURN_SECONDS", 0.0)
    may_go_on, done = threading.Event(), []

    def long() -> None:
        may_go_on.wait(WAIT_SECONDS)
        for part in range(3):
            pool.give_way()
            done.append(f"part {part}")

    def nested() -> None:
        done.append("nested begins")
        pool.give_way()
        done.append("nested ends")

    futures = [
        submit(pool, "hog", long),
        submit(pool, "hog", done.append, "the hog's next"),
        submit(pool, "other", nested),
        submit(pool, "other", done.append, "other's next"),
        submit(pool, "third", done.append, "third"),
    ]
    may_go_on.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert done == [
        "nested begins",
        "third",
        "nested ends",
        "part 0",
        "other's next",
        "part 1",
        "part 2",
        "the hog's next",
    ]


def test_work_does_not_give_way_before_its_turn_is_over(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_pool, "TURN_SECONDS", 3600.0)
    may_go_on, done = threading.Event(), []

    def long() -> None:
        may_go_on.wait(WAIT_SECONDS)
        pool.give_way()
        done.append("long")

    futures = [submit(pool, "hog", long), submit(pool, "other", done.append, "other")]
    may_go_on.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert done == ["long", "other"]


def test_work_of_many_callers_that_all_give_way_is_done(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_pool, "TURN_SECONDS", 0.0)
    may_begin, depth, depths = threading.Event(), [0], [0]

    def work() -> None:
        depth[0] += 1
        depths.append(depth[0])
        pool.give_way()
        depth[0] -= 1

    futures = [submit(pool, "first", may_begin.wait, WAIT_SECONDS)]
    futures += [submit(pool, f"m{number}", work) for number in range(500)]
    may_begin.set()
    for future in futures:
        future.result(WAIT_SECONDS)
    assert max(depths) == MAX_WITHIN + 1


def test_what_fails_while_others_give_way_to_it_fails_alone(pool: FairPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_pool, "TURN_SECONDS", 0.0)
    may_go_on = threading.Event()

    def long() -> str:
        may_go_on.wait(WAIT_SECONDS)
        pool.give_way()
        return "done"

    hog, other = submit(pool, "hog", long), submit(pool, "other", int, "no number")
    may_go_on.set()
    assert hog.result(WAIT_SECONDS) == "done"
    with pytest.raises(ValueError, match="no number"):
        other.result(WAIT_SECONDS)


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
        queue_key.set(QueueKey("m"))
        return await asyncio.get_running_loop().run_in_executor(pool, int, "7")

    assert asyncio.run(work()) == 7
