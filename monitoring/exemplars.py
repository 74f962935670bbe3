"""Exemplars: for each bucket of a histogram the trace of the request that fell into it last.

They lie in the slots of the store, as counts do, so that a scrape at any front shows those of all. A scrape may read
while an owner writes: what it gets of two exemplars is told by the time, which is written before and after.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

SLOTS = 6
"""Of a bucket: the time, the trace's id in three parts, the value, and the time again."""
_PART_BITS = 43
"""Of a trace's id, which has 128: a float64 holds whole numbers of 53 bits."""
_PART = (1 << _PART_BITS) - 1


@dataclass(frozen=True)
class Exemplar:
    """One request. trace_id: 32 hexadecimal digits. value: in the metric's unit. time: seconds since the epoch."""

    trace_id: str
    value: float
    time: float


class Exemplars:
    """Those of one series. bounds: of its buckets."""

    __slots__ = ("_bounds", "_first", "_slots")

    def __init__(self, slots: "memoryview[float]", slot: int, bounds: Sequence[float]) -> None:
        self._slots, self._first, self._bounds = slots, slot, bounds

    def note(self, value: float, trace_id: int, time: float) -> None:
        """Keep a request in place of the one before in its bucket. trace_id: 128 bits."""
        slots, at = self._slots, self._first + SLOTS * bisect_left(self._bounds, value)
        slots[at + 5] = time
        slots[at + 1] = float(trace_id >> 2 * _PART_BITS)
        slots[at + 2] = float(trace_id >> _PART_BITS & _PART)
        slots[at + 3] = float(trace_id & _PART)
        slots[at + 4] = value
        slots[at] = time


def read_exemplars(values: Sequence[float]) -> list[Exemplar | None]:
    """The exemplar of each bucket, None where there is none or where it is being written."""
    return [_read(values[at : at + SLOTS]) if values[at] else None for at in range(0, len(values), SLOTS)]


def newest(some: Sequence[Exemplar | None], others: Sequence[Exemplar | None]) -> list[Exemplar | None]:
    """Of each bucket the exemplar that is younger."""
    return [
        max((each for each in pair if each is not None), key=lambda each: each.time, default=None)
        for pair in zip(some, others, strict=True)
    ]


def _read(values: Sequence[float]) -> Exemplar | None:
    begun, high, middle, low, value, ended = values
    if begun != ended:
        return None
    trace_id = int(high) << 2 * _PART_BITS | int(middle) << _PART_BITS | int(low)
    return Exemplar(f"{trace_id:032x}", value, begun)
