"""Whether a queue has room for a request: that of an engine, or of the requests that wait for one."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from serving.errors import QueueFull, TooLarge
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


class QueueLoad(NamedTuple):
    """The load of some rows on a queue: tokens, those to be generated included, and bytes of the engine's memory."""

    tokens: int
    bytes: int


UNBOUNDED = sys.maxsize


def measure(rows: Sequence[EncodedRow]) -> QueueLoad:
    """What these rows come to."""
    tokens = sum([row.length + row.new_tokens for row in rows])
    size = sum([len(row.tokens) + len(row.types) + len(row.payload) for row in rows]) + ROW_BYTES * len(rows)
    return QueueLoad(tokens, size)


def is_nearly_full(taken: int, bound: int) -> bool:
    """Whether less than 1/FULL_PARTS of a queue is free. taken, bound: both in tokens, or both in bytes."""
    return taken + max(1, bound // FULL_PARTS) > bound


def check_room(taken: QueueLoad, bound: QueueLoad, tokens_per_second: float) -> None:
    """Raise QueueFull if so little room is left that a request need not be read to be refused.

    Reading it may cost more than all else that a refusal takes.
    """
    least = QueueLoad(max(1, bound.tokens // FULL_PARTS), bound.bytes // FULL_PARTS)
    admit(least, taken, bound, tokens_per_second)


def admit(load: QueueLoad, taken: QueueLoad, bound: QueueLoad, tokens_per_second: float) -> None:
    """Return if a request fits into a queue. Raises TooLarge where it never does.

    Raises QueueFull, which says in how many seconds the queue will have been computed.
    """
    if taken.tokens + load.tokens <= bound.tokens and taken.bytes + load.bytes <= bound.bytes:
        return
    if load.tokens > bound.tokens:
        raise too_many_tokens(f"{load.tokens:,} tokens", bound.tokens)
    if load.bytes > bound.bytes:
        why = f"the request's rows have {load.bytes:,} bytes, the queue takes {bound.bytes:,}"
        raise TooLarge(f"{why}: send it in several requests")
    if taken.tokens + load.tokens > bound.tokens:
        full = f"{taken.tokens:,} of {bound.tokens:,} tokens"
    else:
        full = f"{taken.bytes:,} of {bound.bytes:,} bytes"
    raise QueueFull(f"the queue is full ({full}): try again later", retry_seconds=taken.tokens / tokens_per_second)


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
