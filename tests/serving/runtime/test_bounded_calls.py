"""Calls that may never return are given up; once the allowed number of them hangs, no other one begins."""

import threading

import pytest

from serving.runtime.bounded_calls import BoundedCalls, GivenUp, TooManyHang
from tests.waiting import WAIT_SECONDS


def test_what_a_call_returns_or_raises_is_the_callers() -> None:
    calls = BoundedCalls(1, "test")
    assert calls.wait(lambda: 3, WAIT_SECONDS) == 3
    with pytest.raises(TimeoutError, match="the call's own") as raised:
        calls.wait(lambda: (_ for _ in ()).throw(TimeoutError("the call's own")), WAIT_SECONDS)
    assert not isinstance(raised.value, GivenUp)
    assert calls.hanging() == 0


def test_with_too_many_that_hang_none_is_begun() -> None:
    calls, gate, ended = BoundedCalls(2, "test"), threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        gate.wait(WAIT_SECONDS)
        ended.release()

    for _ in range(2):
        with pytest.raises(GivenUp):
            calls.wait(hang, 0)
    with pytest.raises(TooManyHang):
        calls.wait(lambda: 3, WAIT_SECONDS)
    gate.set()
    assert ended.acquire(timeout=WAIT_SECONDS)
    while calls.hanging():
        pass
    assert calls.wait(lambda: 3, WAIT_SECONDS) == 3
