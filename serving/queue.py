"""The engine's queue: rows in order of arrival, found again by kind and length. Only the engine's loop touches it.

A batch starts from the oldest row and takes the rows nearest to it in length, of the same kind, while the padded size
stays within the budget and a row is cheaper inside the batch than in a forward pass of its own. So nothing starves and
little is padding.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from serving.messages import Row

Key = tuple[bytes, int]


@dataclass(frozen=True)
class Cost:
    """What a forward pass costs, fitted to measurements: `fixed_seconds + token_seconds * rows * longest`.

    budget_tokens: the largest padded size of a batch, rows times longest row.
    """

    fixed_seconds: float
    token_seconds: float
    budget_tokens: int

    @property
    def slack_tokens(self) -> float:
        """How many tokens of padding cost as much as one more forward pass."""
        return self.fixed_seconds / self.token_seconds

    @property
    def tokens_per_second(self) -> float:
        """Padded tokens a second in batches of the budget."""
        return self.budget_tokens / (self.fixed_seconds + self.token_seconds * self.budget_tokens)


@dataclass(eq=False, slots=True)
class Entry:
    """A queued row. client: the front's ZeroMQ identity. arrived: monotonic seconds. waits: False once taken."""

    client: bytes
    row: Row
    arrived: float
    length: int
    waits: bool = True


class Queue:
    """Rows that wait. `tokens` and `len()` count those that still do."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self._lengths: dict[str, dict[int, deque[Entry]]] = {}
        self._earliest = float("inf")
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, client: bytes, row: Row, now: float) -> None:
        """Put a row at the end."""
        entry = Entry(client, row, now, row.length)
        self._entries[client, row.id] = entry
        self._lengths.setdefault(row.kind, {}).setdefault(entry.length, deque()).append(entry)
        self.tokens += entry.length
        self._earliest = min(self._earliest, row.deadline)

    def cancel(self, client: bytes, ids: list[int]) -> int:
        """Drop a client's rows that still wait; returns how many did."""
        found = [entry for row_id in ids if (entry := self._entries.get((client, row_id))) is not None]
        for entry in found:
            self._take(entry)
        return len(found)

    def expire(self, now: float) -> list[Entry]:
        """Drop and return the rows whose deadline has passed; looks at them only when the earliest one has."""
        if now < self._earliest:
            return []
        late = [entry for entry in self._entries.values() if entry.row.deadline <= now]
        for entry in late:
            self._take(entry)
        self._earliest = min((entry.row.deadline for entry in self._entries.values()), default=float("inf"))
        return late

    def choose(self, cost: Cost) -> list[Entry]:
        """Take the next batch, never empty while anything waits; a row over the budget is taken alone."""
        if not self._entries:
            return []
        oldest = next(iter(self._entries.values()))
        by_length = self._lengths[oldest.row.kind]
        batch: list[Entry] = []
        longest = oldest.length
        for length in _outwards(self._waiting_lengths(by_length), oldest.length):
            waiting = by_length[length]
            reach = max(longest, length)
            while waiting:
                rows = len(batch)
                padded = (rows + 1) * reach
                wasted = padded - rows * longest - length
                if batch and (padded > cost.budget_tokens or wasted > cost.slack_tokens):
                    break
                entry = waiting.popleft()
                if entry.waits:
                    batch.append(entry)
                    self._take(entry)
                    longest = reach
        return batch

    def _take(self, entry: Entry) -> None:
        entry.waits = False
        self.tokens -= entry.length
        del self._entries[entry.client, entry.row.id]

    @staticmethod
    def _waiting_lengths(by_length: dict[int, deque[Entry]]) -> list[int]:
        """The lengths at which a row waits, ascending; forgets rows that left the queue another way."""
        for length in list(by_length):
            waiting = by_length[length]
            while waiting and not waiting[0].waits:
                waiting.popleft()
            if not waiting:
                del by_length[length]
        return sorted(by_length)


def _outwards(lengths: list[int], start: int) -> list[int]:
    """`lengths` (ascending), nearest to `start` first."""
    high = bisect_left(lengths, start)
    low = high - 1
    order = []
    while low >= 0 or high < len(lengths):
        if high == len(lengths) or (low >= 0 and start - lengths[low] < lengths[high] - start):
            order.append(lengths[low])
            low -= 1
        else:
            order.append(lengths[high])
            high += 1
    return order
