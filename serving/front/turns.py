"""A request's work in a front: in short turns of the event loop, or in threads, and only while somebody waits."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from serving.errors import ClientGone, DeadlineExceeded
from serving.front.admission import UNBOUNDED, too_many_tokens
from serving.front.disconnects import Disconnected
from serving.front.fair_pool import FairPool
from serving.processors.tokenizer import count_tokens, still_wanted

TURN_SECONDS = 0.002
"""How long a request may encode or decode before the event loop runs others."""
TEXTS = FairPool(2, "headwaiter-texts")
"""For long texts. Untuned: each thread has a tokenizer of its own for texts that are cut."""
CHATS = FairPool(2, "headwaiter-chats")
"""For chat templates, which are programs. Untuned."""
ANSWERS = FairPool(2, "headwaiter-answers")
"""For large answers. Untuned: Python code of threads takes turns anyway."""
IMAGES = FairPool(4, "headwaiter-images")
"""For images. Untuned: each thread holds the pixels of an image."""

LATE = "the answer did not come before the deadline: try again later"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Turns:
    """The turns of one request. As a context manager it ends its watch of the connection with the block.

    deadline: in monotonic seconds. disconnected: returns when the client has left. max_tokens: that a queue takes.
    """

    def __init__(self, deadline: float, disconnected: Disconnected | None, max_tokens: int = UNBOUNDED) -> None:
        self._deadline, self._disconnected, self._max_tokens = deadline, disconnected, max_tokens
        self._tokens = 0
        self._left: asyncio.Future[object] | None = None
        self.begin()

    def is_over(self) -> bool:
        """Whether others should have a turn."""
        return time.perf_counter() - self._began > TURN_SECONDS

    async def give(self) -> None:
        """Let the event loop run others. Raises DeadlineExceeded, ClientGone."""
        if self._left is None and self._disconnected is not None:
            self._left = asyncio.ensure_future(self._disconnected())
        await asyncio.sleep(0)
        self._check()
        self.begin()

    async def hand_over(
        self,
        pool: Executor,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """The result of `work` in a thread. Raises what it raises, DeadlineExceeded, ClientGone and TooLarge.

        Work that is still in the pool's queue at the deadline, or when the client leaves, is not begun. A thread that
        tokenizes gives way to others between rows, and ends after the row at which the deadline has passed, the client
        has left, or the request has more tokens than its queue takes.
        """
        await self.give()

        def between_rows() -> None:
            if isinstance(pool, FairPool):
                pool.give_way()
            self._check()

        context = copy_context()
        context.run(still_wanted.set, between_rows)
        context.run(count_tokens.set, self._count)
        submitted = pool.submit(partial(context.run, work, *args, **kwargs))
        waiting = asyncio.wrap_future(submitted)
        try:
            await self._wait(waiting)
        finally:  # without effect on work that has begun
            submitted.cancel()
            waiting.cancel()
        self._check()
        if waiting.cancelled():
            raise DeadlineExceeded(LATE)
        self.begin()
        return waiting.result()

    async def _wait(self, work: asyncio.Future[Result]) -> None:
        """Until the work is done, the deadline has passed or the client has left."""
        ends: set[asyncio.Future[Any]] = {work} if self._left is None else {work, self._left}
        while not work.done():
            left = None if math.isinf(self._deadline) else self._deadline - time.monotonic()
            done, ends = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done or self._has_left():
                return

    def begin(self) -> None:
        """A new turn begins, after something was waited for."""
        self._began = time.perf_counter()

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        if self._tokens > self._max_tokens:
            raise too_many_tokens(f"{self._max_tokens:,} tokens and more", self._max_tokens)

    def _check(self) -> None:
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded(LATE)
        if self._has_left():
            raise ClientGone("the client left")

    def _has_left(self) -> bool:
        """Whether the client has left. A connection that cannot be watched counts as there."""
        return self._left is not None and self._left.done() and self._left.exception() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._left is not None:
            self._left.cancel()
