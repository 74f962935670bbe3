"""A bound on frames that lead to no answer, such as pings, resets and refused calls: each costs processor time.

So does each part of a message, which may have one byte: 250 KiB of such frames took the event loop 130 ms.
"""

from serving.front.rpc import frames
from serving.front.rpc.frames import BrokenRule, ErrorCode, Frame

MAX_SPARE, SPARE_OF_CALL, SPARE_OF_SWEEP = 1000, 10, 100
"""How many such frames a client may send at once; how many more each answered call allows, unless it was refused
before it began; and how many more each sweep of the guard allows. Untuned: gRPC's clients send about two for a call."""
SPARE_BYTES = 1024
"""Bytes of an answer for which one more frame is allowed: a client that reads opens its flow-control windows step by
step. Untuned."""

STREAMS_OF_FRAME = 16
"""Streams whose windows one SETTINGS frame may change before it counts as one more frame. Untuned."""

MIN_PART_BYTES = 16
"""A part of a message with less is counted; an answered call allows ten."""


def is_spare(given: Frame) -> bool:
    """Whether a frame is counted by itself, before anybody looks at what it says."""
    is_part = given.kind == frames.DATA and len(given.content) >= MIN_PART_BYTES
    return given.kind != frames.HEADERS and not is_part


class SpareFrames:
    """Counts the frames that one connection may still send."""

    def __init__(self) -> None:
        self._left = MAX_SPARE

    def spend(self, count: int = 1) -> None:
        """Count one frame, or what is worth `count`. Raises BrokenRule once the client has sent too many."""
        self._left -= count
        if self._left < 0:
            raise BrokenRule(ErrorCode.ENHANCE_YOUR_CALM, "too many frames beside those of calls")

    def regain(self, count: int) -> None:
        """Allow `count` more frames, up to MAX_SPARE in all."""
        self._left = min(MAX_SPARE, self._left + count)
