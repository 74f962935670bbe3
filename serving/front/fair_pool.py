"""Threads that models take turns at: the work of one that many ask does not stand before the work of the others."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

asked_model: ContextVar[str] = ContextVar("asked_model", default="")
"""The model that the request of this context asks for."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Job = tuple[Future[Any], Callable[[], Any]]


class FairPool(Executor):
    """An executor whose waiting work is done model by model in turns, and in order for each model.

    `submit` may be called from any thread; `asked_model` says whose work it is.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._busy = 0

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Do the work in a thread; the result of one that is cancelled before it begins is never computed."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.setdefault(asked_model.get(), deque()).append((future, partial(fn, *args, **kwargs)))
            if self._busy < self._threads:
                self._busy += 1
                self._pool.submit(self._work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any executor."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # as `ThreadPoolExecutor` does: it is the caller's
                future.set_exception(error)
            else:
                future.set_result(result)
            del job, future, call  # an idle thread holds nothing

    def _next(self) -> Job | None:
        """The next work, of the model that has waited for longest since its turn; None where there is none."""
        with self._lock:
            if not self._waiting:
                self._busy -= 1
                return None
            model, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            if jobs:
                self._waiting.move_to_end(model)
            else:
                del self._waiting[model]
            return job
