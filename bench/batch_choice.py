"""Benchmark: how far the choice of batches is from the best possible grouping; a simulation, without a model.

Rows arrive as recorded lengths, in closed loops (a connection sends its next row when its last is answered, as
`bench.load` does) and in open ones (at random, at a share of what the best grouping could serve). A forward pass takes
what measurements of MiniLM gave, with noise. Everything is the same for each rule.
"""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.batching_rules import Headwaiter, InOrder, Nearest, Rule, best_possible
from bench.load import percentile
from bench.report import table
from bench.texts import MIXED, SHORT, LengthMix, make_lengths
from serving.engine.batching.cost import Cost

COSTS = {
    "bfloat16 with AMX": Cost(4.5e-3, 4.8e-5, 1024, limit_seconds=0.1),
    "float32 with AVX2": Cost(1.1e-2, 3.6e-4, 512, limit_seconds=0.2),
}
"""MiniLM on two processors: float32 as its warm-up found it, bfloat16 estimated from served rates."""
ROWS = 2000
FRONT_SECONDS = 0.0002
"""Between an answer and the connection's next row; the front does them one by one."""
NOISE = 0.1
"""The mean excess of a forward pass over the least time, as a share of it; exponential."""
RULES: dict[str, Callable[[Cost], Rule]] = {
    "in order, 32 rows": InOrder,
    "nearest to the oldest": Nearest,
    "Headwaiter": Headwaiter,
    "Headwaiter, a wrong warm-up": lambda cost: Headwaiter(replace(cost, fixed_seconds=cost.fixed_seconds / 2)),
}
LOADS = (32, 128, 256, 0.5, 0.9)
"""Connections of a closed loop; or the share of the capacity that arrives in an open one."""
QUEUED = (100, 1_000, 10_000, 100_000)


@dataclass
class Outcome:
    """forward_seconds: without the noise. waits: seconds of each row from its arrival to its batch, ascending."""

    forward_seconds: float
    waits: list[float]


def run(_: float) -> str:
    """The section of the report; it takes some seconds."""
    rows = []
    for name, cost in COSTS.items():
        for mix in (SHORT, MIXED):
            rows += _compare(name, cost, mix)
    header = ["cost, texts, load", "rule", "forward / best", "p50 wait ms", "p99 wait ms"]
    choices = table(["rows that wait", "µs to add one", "µs a choice", "µs a row chosen"], [_time(n) for n in QUEUED])
    return "\n".join(["## Batches: a simulation", "", table(header, rows), "", choices])


def _compare(name: str, cost: Cost, mix: LengthMix) -> list[list[str]]:
    lengths = make_lengths(mix, ROWS)
    best = best_possible(lengths, replace(cost, budget_tokens=2 * cost.budget_tokens))  # as far as it may be learned
    rows = []
    for load in LOADS:
        where = f"{load} connections" if isinstance(load, int) else f"{load:.0%} of capacity"
        if isinstance(load, int):
            turns = sum(best_possible(lengths[at : at + load], cost) for at in range(0, ROWS, load))
            rows.append(
                [f"{name}, {mix.name}, {where}", f"best of {load} rows, again and again", f"{turns / best:.2f}", "", ""]
            )
        for rule, make in RULES.items():
            pace = load if isinstance(load, int) else load * ROWS / best / (1.0 + NOISE)
            found = simulate(make(cost), lengths, cost, pace)
            waits = [f"{1000 * percentile(found.waits, share):.0f}" for share in (0.5, 0.99)]
            rows.append([f"{name}, {mix.name}, {where}", rule, f"{found.forward_seconds / best:.2f}", *waits])
    return rows


def simulate(rule: Rule, lengths: list[int], cost: Cost, pace: float) -> Outcome:
    """Serve all rows. pace: an int is connections of a closed loop, a float is rows a second of an open one."""
    draw = random.Random(0)
    coming: list[tuple[float, int]] = []
    front = now = total = 0.0
    sent, arrived, waits = 0, dict[int, float](), list[float]()
    while len(waits) < len(lengths):
        limit = len(waits) + pace if isinstance(pace, int) else len(lengths)
        while sent < min(limit, len(lengths)):
            front = max(now, front) + FRONT_SECONDS if isinstance(pace, int) else front + draw.expovariate(pace)
            heapq.heappush(coming, (front, sent))
            sent += 1
        while coming and (coming[0][0] <= now or not len(rule)):
            at, number = heapq.heappop(coming)
            now = max(now, at)
            arrived[number] = at
            rule.add(number, lengths[number])
        batch = rule.choose()
        longest = max(lengths[number] for number in batch)
        waits += [now - arrived.pop(number) for number in batch]
        took = cost.seconds(len(batch), longest)
        ended = now + took * (1.0 + draw.expovariate(1.0 / NOISE))
        rule.ran(len(batch), longest, now, ended)
        total, now = total + took, ended
    return Outcome(total, sorted(waits))


def _time(waiting: int) -> list[str]:
    """Processor time of the queue alone, mixed lengths, as many rows waiting all the time."""
    lengths = make_lengths(MIXED, 2000)
    rule, chosen, batches, adding, choosing = Headwaiter(COSTS["bfloat16 with AMX"]), 0, 0, 0.0, 0.0
    while chosen < 4000:
        began = time.process_time()
        count = 0
        while len(rule) < waiting:
            rule.add(chosen + len(rule), lengths[(chosen + len(rule)) % len(lengths)])
            count += 1
        middle = time.process_time()
        found = len(rule.choose())
        adding += (middle - began) * bool(chosen)
        choosing += time.process_time() - middle
        chosen, batches = chosen + found, batches + 1
    micro = 1e6
    return [
        f"{waiting:,}",
        f"{micro * adding / chosen:.1f}",
        f"{micro * choosing / batches:.0f}",
        f"{micro * choosing / chosen:.1f}",
    ]
