"""When an engine may look again whether its model works, after an answer that is not finite.

A device that is broken may give such answers instead of raising. But clients can cause them with their inputs, too, so
looks are limited in rate.
"""

import math
import time

PAUSE_SECONDS = 1.0
"""Least time between two looks. Untuned."""
PAUSE_FACTOR = 10.0
"""The least time, in lengths of the last look: such rows cost at most a tenth of the engine's time. Untuned."""


class Recheck:
    """The pause between looks. `is_due` tells whether it is over."""

    def __init__(self) -> None:
        self._next = -math.inf

    def is_due(self) -> bool:
        """Whether the model may be looked at again."""
        return time.monotonic() >= self._next

    def note(self, began: float) -> None:
        """The model was looked at, from this time of the monotonic clock until now."""
        now = time.monotonic()
        self._next = now + max(PAUSE_SECONDS, PAUSE_FACTOR * (now - began))
