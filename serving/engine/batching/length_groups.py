"""Which lengths share a padded batch: the waiting rows by length and a cost come in, the best group around one leaves.

Rows sorted by length are cut into groups, each padded to its longest row. Dynamic programming finds the cut with the
least total cost. A row costs more the longer its group's longest row is, so the candidates form a lower hull of lines,
and each length takes a few steps instead of a look at all shorter ones: the convex hull trick of 1-D clustering.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from serving.engine.batching.cost import Cost

FULL_BATCHES = 2
"""Lengths further from the oldest row than this many full batches of rows are not considered: they hardly change the
group; see bench/NOTES.md, "Choosing a batch"."""
MAX_STEPS = 32
"""With more lengths than this, neighbouring ones are treated as one, which bounds the time of a choice."""


def choose_lengths(lengths: Sequence[int], counts: Mapping[int, int], oldest: int, cost: Cost) -> list[tuple[int, int]]:
    """The next batch with a row of length `oldest`, within the cost's bounds: (length, rows), longest first.

    lengths: of the waiting rows, ascending. counts: rows of each length, all > 0.
    """
    near = _near(lengths, counts, oldest, cost)
    sizes = [counts[length] for length in near]
    group = best_group(near, sizes, near.index(oldest), cost)
    return _cut(near[group], counts, oldest, cost)


def best_group(lengths: Sequence[int], sizes: Sequence[int], chosen: int, cost: Cost) -> slice:
    """The group with index `chosen` in the cheapest cut of `lengths` (ascending, `sizes` rows each).

    A group costs one forward pass over all its rows, padded to the longest, whatever its size.
    """
    step = -(-len(lengths) // MAX_STEPS)
    ends = range((len(lengths) - 1) % step, len(lengths), step)
    starts = _cheapest_cut(lengths, sizes, ends, cost)
    last = len(ends)
    while starts[last - 1] and ends[starts[last - 1] - 1] >= chosen:
        last = starts[last - 1]
    first = starts[last - 1]
    return slice(ends[first - 1] + 1 if first else 0, ends[last - 1] + 1)


def _cheapest_cut(lengths: Sequence[int], sizes: Sequence[int], ends: Sequence[int], cost: Cost) -> list[int]:
    """For each k, the start of the group that ends at `ends[k]`, as an index of `ends`. Groups end at `ends` only.

    least[k] is the least cost of all rows before `ends[k]`, before[k] their number. A group that starts there costs
    `least[k] + fixed + (rows - before[k]) * row`. As a function of `row`, which only grows, that is a line of slope
    -before[k], which only falls. So the lowest line only moves on, and one that is never the lowest is dropped.
    """
    fixed, token, square = cost.fixed_seconds, cost.token_seconds, cost.square_seconds
    least, before, starts, hull = [0.0], [0], [], [0]
    head, rows, seen = 0, 0, 0
    for end in ends:
        length = lengths[end]
        row = length * (token + square * length)
        best = hull[head]
        low = least[best] - before[best] * row
        while head + 1 < len(hull):
            other = hull[head + 1]
            value = least[other] - before[other] * row
            if value > low:
                break
            head, best, low = head + 1, other, value
        rows += sum(sizes[seen : end + 1])
        seen = end + 1
        total = low + fixed + rows * row
        starts.append(best)
        while len(hull) - head > 1:
            last, other = hull[-1], hull[-2]
            rise = (total - least[other]) * (before[last] - before[other])
            if rise > (least[last] - least[other]) * (rows - before[other]):
                break
            hull.pop()
        hull.append(len(least))
        least.append(total)
        before.append(rows)
    return starts


def _near(lengths: Sequence[int], counts: Mapping[int, int], oldest: int, cost: Cost) -> list[int]:
    """The lengths around `oldest`, ascending, up to `FULL_BATCHES` of rows on either side."""
    enough = FULL_BATCHES * cost.max_rows(oldest)
    at = low = bisect_left(lengths, oldest)
    rows = 0
    while low and rows < enough:
        low -= 1
        rows += counts[lengths[low]]
    high, rows = at + 1, 0
    while high < len(lengths) and rows < enough:
        rows += counts[lengths[high]]
        high += 1
    return list(lengths[low:high])


def _cut(group: Sequence[int], counts: Mapping[int, int], oldest: int, cost: Cost) -> list[tuple[int, int]]:
    """The batch with `oldest` of a group that is cut, from its longest row down, into the largest allowed batches."""
    batch: list[tuple[int, int]] = []
    room = 0
    for length in reversed(group):
        left = counts[length]
        while left:
            if not room:
                if batch and batch[-1][0] <= oldest:
                    return batch
                batch, room = [], cost.max_rows(length)
            rows = min(left, room)
            batch.append((length, rows))
            left -= rows
            room -= rows
    return batch
