"""The engine's queue: rows in order of arrival, indexed by batch key and length. Only the engine's loop touches it.

A batch holds the oldest row, so that nothing starves, and others of its key. A model that packs rows takes the next
ones in order. For a model that pads rows, `length_groups` cuts the waiting rows of the key by length into the groups
that take the least time together, and the batch is the oldest row's group. Where padding, or other rows, change a row's
answer, rows of equal length share a batch, or none do.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from registry.contract import Batching
from serving.engine.batching.cost import Cost
from serving.engine.batching.length_groups import choose_lengths
from serving.wire.messages import Row

RowKey = tuple[bytes, int]

MAX_STALE = 1024
"""The deadline heap is rebuilt once it holds this many rows more than twice those that wait."""


@dataclass(eq=False, slots=True)
class Entry:
    """A queued row. client: the front's ZeroMQ identity. arrived: monotonic seconds. waits: False once it has left.

    key: entries of one key may share a batch. It is the row's batch key; a suspect row has a key of its own.
    """

    client: bytes
    row: Row
    arrived: float
    length: int
    key: str
    waits: bool = True


class ByLength:
    """Waiting rows of one batch key, for a model that pads rows."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._counts: dict[int, int] = {}
        self._rows: dict[int, deque[Entry]] = {}

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, entry: Entry) -> None:
        """Append a row to those of its length."""
        if entry.length not in self._counts:
            insort(self._lengths, entry.length)
            self._counts[entry.length] = 0
            self._rows[entry.length] = deque()
        self._counts[entry.length] += 1
        self._rows[entry.length].append(entry)

    def drop(self, entry: Entry) -> None:
        """Count out a row that no longer waits; it is removed when it is the first of its length."""
        self._count_out(entry.length, 1)

    def choose(self, oldest: Entry, cost: Cost) -> list[Entry]:
        """Remove the next batch, which holds `oldest`."""
        batch: list[Entry] = []
        for length, rows in choose_lengths(self._lengths, self._counts, oldest.length, cost):
            batch += self._take(length, rows)
        return batch

    def _count_out(self, length: int, rows: int) -> None:
        left = self._counts[length] - rows
        if left:
            self._counts[length] = left
        else:
            del self._lengths[bisect_left(self._lengths, length)]
            del self._counts[length], self._rows[length]

    def _take(self, length: int, rows: int) -> list[Entry]:
        """Remove the oldest rows of this length. rows: at most as many as wait."""
        waiting = self._rows[length]
        found: list[Entry] = []
        while len(found) < rows:
            entry = waiting.popleft()
            if entry.waits:
                found.append(entry)
        self._count_out(length, rows)
        return found


class InOrder:
    """Waiting rows of one batch key, for a model that packs rows: a row costs the same in any batch."""

    def __init__(self) -> None:
        self._rows: deque[Entry] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, entry: Entry) -> None:
        """Append a row."""
        self._rows.append(entry)
        self._count += 1

    def drop(self, entry: Entry) -> None:
        """Count out a row that no longer waits; it is removed when it is the first."""
        self._count -= 1

    def choose(self, oldest: Entry, cost: Cost) -> list[Entry]:
        """Remove the next batch: the rows from `oldest` on, as many as the cost's bounds allow."""
        batch: list[Entry] = []
        tokens, seconds = 0, cost.fixed_seconds
        while self._rows:
            entry = self._rows[0]
            if entry.waits:
                tokens += entry.length
                seconds += cost.seconds(1, entry.length) - cost.fixed_seconds
                if batch and (tokens > cost.budget_tokens or seconds > cost.limit_seconds):
                    break
                batch.append(entry)
            self._rows.popleft()
        self._count -= len(batch)
        return batch


class EqualLengths(ByLength):
    """Waiting rows of one batch key, for a model that changes a row's answer by padding."""

    def choose(self, oldest: Entry, cost: Cost) -> list[Entry]:
        """Remove the next batch: rows as long as `oldest`, which is one of them."""
        length = oldest.length
        return self._take(length, min(self._counts[length], cost.max_rows(length)))


class OneByOne(InOrder):
    """Waiting rows of one batch key, for a model whose rows change each other's answers."""

    def choose(self, oldest: Entry, cost: Cost) -> list[Entry]:
        """Remove `oldest`."""
        return super().choose(oldest, replace(cost, budget_tokens=1))


class Queue:
    """Waiting rows; `tokens` and `len()` count them. is_packed: whether the model packs rows. batching: which rows may
    share a batch.
    """

    def __init__(self, *, is_packed: bool = False, batching: Batching = "any lengths") -> None:
        self._entries: dict[RowKey, Entry] = {}
        self._order: deque[Entry] = deque()
        self._by_key: dict[str, ByLength | InOrder] = {}
        strict: dict[Batching, type[ByLength | InOrder]] = {"equal lengths": EqualLengths, "one row": OneByOne}
        self._waiting_class = strict.get(batching, InOrder if is_packed else ByLength)
        self._deadlines: list[tuple[float, int, Entry]] = []
        self._added = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, client: bytes, row: Row, now: float) -> None:
        """Append a row. now: monotonic seconds."""
        self._added += 1
        key = f"{row.batch_key}\0{self._added}" if row.is_suspect else row.batch_key
        entry = Entry(client, row, now, row.length, key)
        self._entries[client, row.id] = entry
        waiting = self._by_key.get(key)
        if waiting is None:
            waiting = self._by_key[key] = self._waiting_class()
        waiting.add(entry)
        self._order.append(entry)
        heappush(self._deadlines, (row.deadline, self._added, entry))
        self.tokens += entry.length

    def cancel(self, client: bytes, ids: list[int]) -> int:
        """Drop those rows of a client that still wait; their number."""
        found = [entry for row_id in ids if (entry := self._entries.get((client, row_id))) is not None]
        for entry in found:
            self._drop(entry)
        return len(found)

    def forget_client(self, client: bytes) -> int:
        """Drop the rows of a client that still wait; their number."""
        return self.cancel(client, [row_id for owner, row_id in self._entries if owner == client])

    def expire(self, now: float) -> list[Entry]:
        """Drop and return the rows whose deadline has passed."""
        late, deadlines = [], self._deadlines
        while deadlines and (deadlines[0][0] <= now or not deadlines[0][2].waits):
            entry = heappop(deadlines)[2]
            if entry.waits:
                self._drop(entry)
                late.append(entry)
        if len(deadlines) > 2 * len(self._entries) + MAX_STALE:
            self._deadlines = [item for item in deadlines if item[2].waits]
            heapify(self._deadlines)
        return late

    def choose(self, cost: Cost) -> list[Entry]:
        """Remove the next batch, never empty while a row waits. A row over the budget is a batch of its own."""
        if not self._entries:
            return []
        oldest = self._oldest()
        waiting = self._by_key[oldest.key]
        batch = waiting.choose(oldest, cost)
        for entry in batch:
            self._leave(entry)
        if not waiting:
            del self._by_key[oldest.key]
        return batch

    def is_next_suspect(self) -> bool:
        """Whether the oldest row must be alone in its batch."""
        return bool(self._entries) and self._oldest().row.is_suspect

    def _oldest(self) -> Entry:
        """The oldest row of at least one."""
        while not self._order[0].waits:
            self._order.popleft()
        return self._order[0]

    def _drop(self, entry: Entry) -> None:
        """Remove a row that is cancelled or expired."""
        self._leave(entry)
        waiting = self._by_key[entry.key]
        waiting.drop(entry)
        if not waiting:
            del self._by_key[entry.key]

    def _leave(self, entry: Entry) -> None:
        entry.waits = False
        self.tokens -= entry.length
        del self._entries[entry.client, entry.row.id]
