"""A thread pool that is shared fairly: queued work of one caller does not delay the work of the others."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

TURN_SECONDS = 0.05
"""How long work goes on before it yields. Untuned: some long texts are tokenized in this time."""


MAX_WITHIN = 8
"""How many jobs may be suspended in one thread, each by the next. Untuned: each takes some frames of its stack."""


class QueueKey(NamedTuple):
    """By what work is queued: the model that is asked, and the caller, by the name of its API key."""

    model: str = ""
    caller: str = ""


_UNKNOWN = QueueKey()
queue_key: ContextVar[QueueKey] = ContextVar("queue_key", default=_UNKNOWN)
"""Of the request of this context."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
PoolJob = tuple[Future[Any], Callable[[], Any]]


class _Turn(threading.local):
    """What this thread is doing: for whom, the innermost last, and since when."""

    def __init__(self) -> None:
        self.keys: list[QueueKey] = []
        self.began = 0.0


class FairPool(Executor):
    """An executor with a queue for each `QueueKey`. The queues take turns; the work of each is done in order.

    `submit` may be called from any thread; the context variable `queue_key` says in which queue the work waits.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[QueueKey, deque[PoolJob]] = OrderedDict()
        self._busy = 0
        self._turn = _Turn()

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Do the work in a thread; the result of one that is cancelled before it begins is never computed."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.setdefault(queue_key.get(), deque()).append((future, partial(fn, *args, **kwargs)))
            if self._busy < self._threads:
                self._busy += 1
                self._pool.submit(self._work)
        return future

    def give_way(self) -> None:
        """Called by work between its parts: once it has run for TURN_SECONDS, run one queued job of another caller.

        That job runs in this thread, and the work goes on when it is done. The job may yield as well, to callers that
        have no suspended job here.
        """
        if not self._waiting or time.perf_counter() - self._turn.began < TURN_SECONDS:
            return
        if len(self._turn.keys) > MAX_WITHIN:
            return
        found = self._next(self._turn.keys)
        if found is not None:
            self._do(*found)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any executor."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy -= 1
                    return
            found = self._next()
            if found is not None:
                self._do(*found)
            del found  # an idle thread holds nothing

    def _do(self, key: QueueKey, future: Future[Any], call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        turn = self._turn
        turn.keys.append(key)
        turn.began = time.perf_counter()
        try:
            result = call()
        except BaseException as error:  # as `ThreadPoolExecutor` does: it is the caller's
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            turn.keys.pop()
            turn.began = time.perf_counter()

    def _next(self, but: Sequence[QueueKey] = ()) -> tuple[QueueKey, Future[Any], Callable[[], Any]] | None:
        """The next work, of the queue that has waited for longest since its turn; None where there is none.

        but: queues that are skipped.
        """
        with self._lock:
            key = next((each for each in self._waiting if each not in but), None)
            if key is None:
                return None
            jobs = self._waiting[key]
            future, call = jobs.popleft()
            if jobs:
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]
            return key, future, call
