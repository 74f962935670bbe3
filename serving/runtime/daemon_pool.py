"""Threads for work that may never return: the process ends without waiting for them."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class DaemonPool(Executor):
    """Up to `limit` daemon threads, each of which ends when there is no more work."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._lock = threading.Lock()
        self._work: deque[tuple[Future[object], Callable[[], object]]] = deque()
        self._running = 0
        self._is_closed = False

    def submit(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """The result of `work`, which begins as soon as a thread is free. Raises RuntimeError after `shutdown`."""
        future: Future[Result] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the pool is shut down")
            self._work.append((future, lambda: work(*args, **kwargs)))  # type: ignore[arg-type]  # Future is invariant
            if self._running < self._limit:
                self._running += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. Returns at once; work that has not begun is cancelled."""
        with self._lock:
            self._is_closed = True
            for future, _ in self._work:
                future.cancel()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._work:
                    self._running -= 1
                    return
                future, work = self._work.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # as executors do: whoever waits gets it
                future.set_exception(error)
