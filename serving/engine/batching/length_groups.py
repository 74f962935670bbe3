"""Which lengths share a forward pass: waiting rows by length and a cost come in, the best group around one leaves.

Rows sorted by length and cut into groups, each padded to its longest row: the cut that costs least in all is found by
dynamic programming. As a row is dearer the longer the batch, the choices form a hull of lines, and each length costs a
few steps, not a look at all shorter ones. Ours; the method is the convex hull trick of optimal 1-D clustering.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from serving.engine.batching.cost import Cost

FULL_BATCHES = 2
"""Lengths further from the oldest row than this many full batches of rows change nothing that matters; ours."""
MOST_STEPS = 32
"""Beyond this, neighbouring lengths are grouped as one: a choice takes bounded time."""


def choose_lengths(lengths: Sequence[int], counts: Mapping[int, int], oldest: int, cost: Cost) -> list[tuple[int, int]]:
    """The next batch that holds a row of length `oldest`: (length, rows), longest first; within the cost's bounds.

    lengths: those that wait, ascending; counts: how many of each, all > 0.
    """
    near = _near(lengths, counts, oldest, cost)
    sizes = [counts[length] for length in near]
    group = best_group(near, sizes, near.index(oldest), cost)
    return _cut(near[group], counts, oldest, cost)


def best_group(lengths: Sequence[int], sizes: Sequence[int], chosen: int, cost: Cost) -> slice:
    """The part of `lengths` (ascending, `sizes` rows each) that holds index `chosen` in the cheapest cut of them all.

    The cost of a group is a forward pass of all its rows, padded to the longest; groups of any size.
    """
    step = -(-len(lengths) // MOST_STEPS)
    ends = range((len(lengths) - 1) % step, len(lengths), step)
    starts = _cheapest_cut(lengths, sizes, ends, cost)
    last = len(ends)
    while starts[last - 1] and ends[starts[last - 1] - 1] >= chosen:
        last = starts[last - 1]
    first = starts[last - 1]
    return slice(ends[first - 1] + 1 if first else 0, ends[last - 1] + 1)


def _cheapest_cut(lengths: Sequence[int], sizes: Sequence[int], ends: Sequence[int], cost: Cost) -> list[int]:
    """Where the group that ends at `ends[k]` begins, as an index of `ends`; groups end at `ends` only.

    least[k] is the least cost of everything before `ends[k]`. A group from there costs
    `least[k] + fixed + (rows - before[k]) * row`: in `row`, which grows, a line of slope -before[k], which falls. So
    the best line only moves on, and a line that is never the lowest is dropped for good.
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
    """The lengths around `oldest`, ascending, as far as `FULL_BATCHES` of rows reach to either side."""
    enough = FULL_BATCHES * cost.most_rows(oldest)
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
    """Of a group cut from its longest row down into batches as large as they may be, the first that holds `oldest`."""
    batch: list[tuple[int, int]] = []
    room = 0
    for length in reversed(group):
        left = counts[length]
        while left:
            if not room:
                if batch and batch[-1][0] <= oldest:
                    return batch
                batch, room = [], cost.most_rows(length)
            rows = min(left, room)
            batch.append((length, rows))
            left -= rows
            room -= rows
    return batch
