"""Ways to choose the next batch, for the simulation: numbered rows with their lengths come in, batches leave."""

from itertools import islice

from serving.engine.batching.cost import Cost
from serving.engine.batching.online_cost import OnlineCost
from serving.engine.batching.queue import Queue
from serving.wire.messages import Row

KIND = "rows"


class Rule:
    """Rows wait here. cost: what the rule knows of a forward pass."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, number: int, length: int) -> None:
        """A row arrives, behind the others."""
        self.lengths[number] = length

    def choose(self) -> list[int]:
        """Take the next batch; there is one, as rows wait."""
        batch = self.pick()
        for number in batch:
            del self.lengths[number]
        return batch

    def pick(self) -> list[int]:
        """The next batch."""
        raise NotImplementedError

    def ran(self, rows: int, longest: int, began: float, ended: float) -> None:
        """A batch took so long."""


class InOrder(Rule):
    """Up to 32 rows in order of arrival, as servers that know no lengths do."""

    def pick(self) -> list[int]:
        """The longest waiting."""
        return list(islice(self.lengths, 32))


class Nearest(Rule):
    """The oldest row and those nearest to it in length, while each wastes less than a forward pass of its own."""

    def pick(self) -> list[int]:
        """Outwards from the oldest row's length."""
        slack = self.cost.fixed_seconds / self.cost.token_seconds  # padding that costs as much as one more forward pass
        oldest = next(iter(self.lengths))
        batch, longest, full = [oldest], self.lengths[oldest], set[int]()
        for number in sorted(
            islice(self.lengths, 1, None), key=lambda row: abs(self.lengths[row] - self.lengths[oldest])
        ):
            length = self.lengths[number]
            reach = max(longest, length)
            padded = (len(batch) + 1) * reach
            wasted = padded - len(batch) * longest - length
            if padded > self.cost.budget_tokens or wasted > slack:
                full.add(length)
            elif length not in full:
                batch.append(number)
                longest = reach
        return batch


class Headwaiter(Rule):
    """The engine's own queue, with a cost that it learns from the batches that it runs."""

    def __init__(self, cost: Cost) -> None:
        super().__init__(cost)
        self._queue = Queue()
        self._online_cost = OnlineCost(cost, KIND)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, number: int, length: int) -> None:
        """A row arrives, behind the others."""
        self._queue.add(b"", Row(number, length, b"", b"", KIND, 1e9), 0.0)

    def choose(self) -> list[int]:
        """Take the next batch."""
        return [entry.row.id for entry in self._queue.choose(self._online_cost.now)]

    def ran(self, rows: int, longest: int, began: float, ended: float) -> None:
        """As the engine does."""
        padded = rows * longest
        self._online_cost.observe(KIND, padded, padded * longest, ended - began)


def best_possible(lengths: list[int], cost: Cost) -> float:
    """Seconds of the best grouping within the cost's bounds, all rows known in advance: a lower bound for any rule.

    Cutting the rows sorted by length is as good as any grouping: swapping rows until they are sorted makes no group's
    longest row longer.
    """
    ordered = sorted(lengths)
    least = [0.0]
    for end, longest in enumerate(ordered, 1):
        rows = range(1, min(end, cost.max_rows(longest)) + 1)
        least.append(min(least[end - count] + cost.seconds(count, longest) for count in rows))
    return least[-1]
