"""How many frames a client may send that bring no answer, such as pings, resets and refused calls: each costs time."""

from serving.front.rpc.frames import BrokenRule, ErrorCode

MAX_SPARE, SPARE_OF_CALL, SPARE_OF_SWEEP = 1000, 10, 100
"""Frames at once, and how many more for each call that is answered and was not refused at once, and each sweep of the
guard. Untuned: gRPC's clients send some two for a call."""
SPARE_BYTES = 1024
"""Of an answer: for so many that the client takes it may send one more, as it opens its windows by pieces. Untuned."""


class SpareFrames:
    """Those of one connection."""

    def __init__(self) -> None:
        self._left = MAX_SPARE

    def spend(self) -> None:
        """One came. Raises BrokenRule where that is one too many."""
        self._left -= 1
        if self._left < 0:
            raise BrokenRule(ErrorCode.ENHANCE_YOUR_CALM, "too many frames beside those of calls")

    def regain(self, count: int) -> None:
        """The client may send so many more."""
        self._left = min(MAX_SPARE, self._left + count)
