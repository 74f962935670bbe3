"""Whether a queue has room for a request: that of an engine, or of the requests that wait for one."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from serving.errors import QueueFull, TooLarge
from serving.wire.messages import ROW_BYTES, EncodedRow


class Load(NamedTuple):
    """What rows come to in a queue: tokens with those that are to be generated, and bytes in the engine's memory."""

    tokens: int
    bytes: int


UNBOUNDED = sys.maxsize


def measure(rows: Sequence[EncodedRow]) -> Load:
    """What these rows come to."""
    tokens = sum([row.length + row.new_tokens for row in rows])
    size = sum([len(row.tokens) + len(row.types) + len(row.payload) for row in rows]) + ROW_BYTES * len(rows)
    return Load(tokens, size)


def no_room(load: Load, taken: Load, bound: Load, tokens_per_second: float) -> TooLarge | QueueFull:
    """The error of a request that does not fit into a queue: TooLarge where it never does.

    QueueFull tells the time in which what is taken is computed.
    """
    if load.tokens > bound.tokens:
        why = f"the request has {load.tokens:,} tokens, the queue takes {bound.tokens:,}"
        return TooLarge(f"{why}: send it in several requests")
    if load.bytes > bound.bytes:
        why = f"the request's rows have {load.bytes:,} bytes, the queue takes {bound.bytes:,}"
        return TooLarge(f"{why}: send it in several requests")
    if taken.tokens + load.tokens > bound.tokens:
        full = f"{taken.tokens:,} of {bound.tokens:,} tokens"
    else:
        full = f"{taken.bytes:,} of {bound.bytes:,} bytes"
    return QueueFull(f"the queue is full ({full}): try again later", retry_seconds=taken.tokens / tokens_per_second)
