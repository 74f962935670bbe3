"""Whether a queue has room for a request: that of an engine, or of the requests that wait for one."""

import sys
from collections.abc import Iterable

from serving.errors import QueueFull, ServingError, TooLarge
from serving.settings import DEFAULT_BODY_BYTES, ServingSettings
from serving.wire.messages import ROW_BYTES, EncodedRow

MIN_QUEUE_ROWS = 64
"""Rows of the model's maximum length that an engine's queue holds at least."""
FULL_PARTS = MIN_QUEUE_ROWS
"""A request is refused unread while less than 1/FULL_PARTS of its queue is free. A row of the maximum length may
need that much."""
QUEUED_BODIES = 64
"""Of the largest bodies: the bytes of an engine's queue, unless they are set. Untuned."""
REQUEST_BODIES = 5
"""Of the largest bodies: what the rows of one request may come to, as the pixels of images; see `tasks.base.bounds`."""


UNBOUNDED = sys.maxsize


class QueueShare:
    """What a front may have in a queue, and what it has there. It admits requests by these counts.

    tokens: of its rows, those to be generated included. bytes: of the engine's memory. tokens_per_second: that the
    queue's engines compute.
    """

    __slots__ = ("_read_bytes", "_read_tokens", "bound_bytes", "bound_tokens", "bytes", "tokens", "tokens_per_second")

    def __init__(self) -> None:
        self.tokens = 0
        self.bytes = 0
        self.tokens_per_second = 1.0
        self.bound(1)

    def bound(self, tokens: int, size_bytes: int = UNBOUNDED) -> None:
        """Set how much the front may have there."""
        self.bound_tokens = tokens
        self.bound_bytes = size_bytes
        self._read_tokens = tokens - max(1, tokens // FULL_PARTS)
        """With more than this in the queue a request is refused unread."""
        self._read_bytes = size_bytes - max(1, size_bytes // FULL_PARTS)

    def check_room(self) -> None:
        """Raise QueueFull if so little room is left that a request need not be read to be refused.

        Reading it may cost more than all else that a refusal takes.
        """
        if self.tokens > self._read_tokens or self.bytes > self._read_bytes:
            raise self._full(by_tokens=self.tokens > self._read_tokens)

    def take(self, rows: Iterable[EncodedRow]) -> tuple[int, int]:
        """Count a request's rows, and return their tokens and bytes. Raises TooLarge where they never fit.

        Raises QueueFull, which says in how many seconds the queue will have been computed.
        """
        tokens = size = 0
        for row in rows:
            tokens += row.length + row.new_tokens
            size += ROW_BYTES + len(row.tokens) + len(row.types) + len(row.payload)
        if self.tokens + tokens > self.bound_tokens or self.bytes + size > self.bound_bytes:
            raise self._refusal(tokens, size)
        self.tokens += tokens
        self.bytes += size
        return tokens, size

    def give_back(self, tokens: int, size_bytes: int) -> None:
        """Rows have left the queue."""
        self.tokens -= tokens
        self.bytes -= size_bytes

    def _refusal(self, tokens: int, size: int) -> ServingError:
        if tokens > self.bound_tokens:
            return too_many_tokens(f"{tokens:,} tokens", self.bound_tokens)
        if size > self.bound_bytes:
            why = f"the request's rows have {size:,} bytes, the queue takes {self.bound_bytes:,}"
            return TooLarge(f"{why}: send it in several requests")
        return self._full(by_tokens=self.tokens + tokens > self.bound_tokens)

    def _full(self, *, by_tokens: bool) -> QueueFull:
        if by_tokens:
            full = f"{self.tokens:,} of {self.bound_tokens:,} tokens"
        else:
            full = f"{self.bytes:,} of {self.bound_bytes:,} bytes"
        return QueueFull(
            f"the queue is full ({full}): try again later", retry_seconds=self.tokens / self.tokens_per_second
        )


def too_many_tokens(size: str, bound: int) -> TooLarge:
    """The error of a request with more tokens than a queue takes."""
    return TooLarge(f"the request has {size}, the queue takes {bound:,}: send it in several requests")


class QueueBounds:
    """What the queues of engines hold, and how much of that is one front's."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings

    def limit_tokens(self, tokens_per_second: float, longest: int) -> int:
        """The bound of an engine's queue, in tokens. longest: tokens of the longest row that its model takes."""
        by_time = int(tokens_per_second * self._settings.queue_seconds)
        return self._settings.queue_tokens or max(by_time, MIN_QUEUE_ROWS * longest)

    def tokens(self, tokens_per_second: float, longest: int) -> int:
        """This front's share of an engine's queue, in tokens."""
        return max(1, self.limit_tokens(tokens_per_second, longest) // self._settings.workers)

    def bytes(self) -> int:
        """This front's share of an engine's queue, in bytes."""
        settings = self._settings
        if settings.queue_bytes:
            return max(1, settings.queue_bytes // settings.workers)
        body = max(settings.max_body_bytes, DEFAULT_BODY_BYTES)  # a small body may have as many rows
        return body * max(QUEUED_BODIES // settings.workers, REQUEST_BODIES)
