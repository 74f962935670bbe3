"""Calls that may never return, each waited for until a deadline.

A thread cannot be ended, so the calls that hang all the same are counted.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class TooManyHang(Exception):
    """As many calls that were given up have not returned as may be: no other one is begun."""


class GivenUp(TimeoutError):
    """A call has not returned in time, and may still do what it was made for."""


class BoundedCalls:
    """Calls in daemon threads of their own; none begins while `most` hang that were given up."""

    def __init__(self, most: int, name: str) -> None:
        """name: of the threads."""
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._given_up: list[Callable[[], bool]] = []
        """Of each whether it has returned."""

    def wait(self, call: Callable[[], Result], seconds: float) -> Result:
        """What the call returns or raises. Raises GivenUp if it takes longer, and TooManyHang."""
        if self.hanging() >= self._most:
            raise TooManyHang
        future: Future[Result] = Future()
        threading.Thread(target=_run_into, args=(future, call), name=self._name, daemon=True).start()
        try:
            return future.result(seconds)
        except TimeoutError as error:
            if future.done():  # it is the call's own
                raise
            with self._lock:
                self._given_up.append(future.done)
            raise GivenUp(f"a call has not returned within {seconds:g} s") from error

    def hanging(self) -> int:
        """How many calls were given up and have not returned."""
        with self._lock:
            self._given_up = [has_returned for has_returned in self._given_up if not has_returned()]
            return len(self._given_up)


def _run_into(future: "Future[Result]", call: Callable[[], Result]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # as executors do: whoever waits gets it
        future.set_exception(error)
