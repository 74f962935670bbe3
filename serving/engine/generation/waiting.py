"""The sequences that wait to be admitted, in order of priority."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from serving.engine.generation.sequence import Sequence

MAX_STALE = 1024
"""The heap of deadlines is rebuilt once this many of its entries, and half of them, are of sequences that left."""

HeapKey = tuple[float, int]


class WaitingSequences:
    """`len()` and `tokens` count what waits; iteration is in order of priority.

    Adding, removing and finding a sequence, and finding one whose deadline passed, look at no other sequence. Not for
    several threads. tokens: sum of the sequences' `max_length`.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._added = 0
        self._in_order: list[tuple[HeapKey, Sequence]] = []
        self._keys: dict[Sequence, HeapKey] = {}
        self._by_id: dict[tuple[bytes, int], Sequence] = {}
        self._deadlines: list[tuple[float, HeapKey, Sequence]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for _, sequence in self._in_order)

    def add(self, sequence: Sequence) -> None:
        """Add a sequence behind those of the same priority."""
        self._added += 1
        key = (sequence.priority, self._added)
        insort(self._in_order, (key, sequence))
        self._keys[sequence] = key
        self._by_id[sequence.client, sequence.row.id] = sequence
        self.tokens += sequence.max_length
        if not (sequence.row.streams and sequence.sent):  # a stream that has begun has no deadline any more
            heappush(self._deadlines, (sequence.row.deadline, key, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence that waits."""
        key = self._keys.pop(sequence)
        del self._in_order[bisect_left(self._in_order, (key,))]
        self._by_id.pop((sequence.client, sequence.row.id), None)
        self.tokens -= sequence.max_length

    def cancel(self, client: bytes, ids: Iterable[int]) -> list[Sequence]:
        """Remove a client's sequences of these ids; the sequences that waited."""
        found = [sequence for row_id in ids if (sequence := self._by_id.get((client, row_id))) is not None]
        for sequence in found:
            self.remove(sequence)
        return found

    def expire(self, now: float) -> list[Sequence]:
        """Remove the sequences whose deadline has passed."""
        late, deadlines = [], self._deadlines
        while deadlines and (deadlines[0][0] <= now or self._is_stale(deadlines[0])):
            entry = heappop(deadlines)
            if not self._is_stale(entry):
                self.remove(entry[2])
                late.append(entry[2])
        if len(deadlines) > 2 * len(self) + MAX_STALE:
            self._deadlines = [entry for entry in deadlines if not self._is_stale(entry)]
            heapify(self._deadlines)
        return late

    def clear(self) -> list[Sequence]:
        """Remove all sequences, in order of priority."""
        found = list(self)
        for sequence in found:
            self.remove(sequence)
        self._deadlines = []
        return found

    def _is_stale(self, entry: tuple[float, HeapKey, Sequence]) -> bool:
        """Whether the sequence left after this deadline was noted."""
        return self._keys.get(entry[2]) != entry[1]
