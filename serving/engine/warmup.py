"""Warm-up: how an engine uses its cores, what a forward pass costs, and the token budget that follows from it."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from statistics import median

import numpy
import torch
from msgspec.structs import replace as replace_fields

from serving.engine.batching.cost import Cost
from serving.engine.model import Model
from serving.engine.parallel import CpuPlan, ForwardPool
from serving.engine.timing import CLOCK, Clock, min_seconds, seconds_of
from serving.wire.messages import Row

MIN_PEAK_SHARE = 0.95
"""The budget is the smallest batch that reaches this share of the peak tokens a second."""
MIN_THREAD_SPEEDUP = 1.15
"""More threads must be faster by more than this factor, as they take cores from the fronts."""
SHORT_TOKENS = 24
"""Length of the shortest row for which threads of a single row are chosen; doubled from there."""
ROUNDS = 3
TYPICAL_ROWS = 16
"""Rows of the batches with which plans are timed."""
FRONT_SECONDS, FRONT_TOKEN_SECONDS = 0.0002, 0.00007
"""Processor time of a front for each row, and for each token that it streams: measured on an AMD EPYC, see
bench/NOTES.md, "What a request costs a front" and "Writing texts"."""
LATENCY_SECONDS = 0.1
"""A batch of several rows must not take longer."""
REPEATS, REPEAT_SECONDS = 3, 0.05
"""How often a batch is timed; only twice where that took so long already."""
WARMUP_SECONDS = 0.5
"""After this and `MIN_SIZES` no larger batch is timed; `OnlineCost` follows the batches that are served."""
TYPICAL_TOKENS = 32
"""Length of the timed rows. Much longer ones cost more per token, because of attention."""
REST_SECONDS = 0.002
"""Pause before a single row is timed, in which the threads of the one before fall asleep."""
MAX_ROWS = 4096
MIN_SIZES = 4
"""With fewer timed batches of typical rows, the longest row does not tell attention's cost from the cost per token."""
MIN_SHARE = 0.05
"""Least share of the fixed cost in a single row's time, and of the tokens' cost in the largest batch's. A smaller
measurement is noise, and `OnlineCost` could not raise a cost of zero."""


def choose_cpu_plan(model: Model, *, parallel: bool, clock: Clock = CLOCK) -> CpuPlan:
    """The plan with the fewest cores that serves typical batches almost as fast as the fastest plan. Blocks.

    The fronts need cores as well: throughput is bounded by the forward passes, and by all work on all cores together.
    So a small model gets one thread and leaves the other cores to the fronts, and a large model gets all cores.
    parallel: whether forward passes may run side by side. Sets torch's threads.
    """
    row = model.probe(min(TYPICAL_TOKENS, model.contract.max_tokens))
    most = torch.get_num_threads()
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count < most] + [most]
    plans = {CpuPlan(many, count) for count in counts for many in ((1, most // count) if parallel else (1,))}
    seconds = dict.fromkeys(plans, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that a disturbance hits all plans
        for plan in plans:
            seconds[plan] = min(seconds[plan], _time_plan(model, row, plan, clock) / plan.passes)
    front = TYPICAL_ROWS * (FRONT_SECONDS + row.new_tokens * FRONT_TOKEN_SECONDS)
    took = {plan: _seconds_per_batch(plan.passes * plan.threads, each, front, most) for plan, each in seconds.items()}
    enough = [plan for plan in plans if took[plan] <= MIN_THREAD_SPEEDUP * min(took.values())]
    best = min(enough, key=lambda plan: (plan.passes * plan.threads, -plan.passes))
    if best.passes > 1:
        best = _with_single_row_threads(model, best, counts, clock)
    torch.set_num_threads(best.threads)
    return best


def _seconds_per_batch(cores: int, seconds: float, front: float, max_cores: int) -> float:
    """The longer of a batch's forward pass on `cores` cores, and of that and the fronts' work on all `max_cores`."""
    return max(seconds, (cores * seconds + front) / max_cores)


def _with_single_row_threads(model: Model, plan: CpuPlan, counts: Sequence[int], clock: Clock) -> CpuPlan:
    """The plan with the threads that speed up a single row, and the shortest length for which they do."""
    longest = model.contract.max_tokens
    length = min(SHORT_TOKENS, longest)
    while True:
        row = model.probe(length)
        took: dict[int, float] = {}
        for count in counts:
            torch.set_num_threads(count)
            took[count] = _time_single_row(model, row, clock)
        threads = next(count for count in counts if took[count] <= MIN_THREAD_SPEEDUP * min(took.values()))
        if threads > plan.threads or length == longest:
            return replace(plan, single_row_threads=threads, single_row_tokens=length)
        length = min(2 * length, longest)


def measure_cost(model: Model, clock: Clock = CLOCK) -> Cost:
    """Time batches of 1, 2, 4, … typical rows and one longest row, and fit the cost. Blocks."""
    longest = model.contract.max_tokens
    typical = model.probe(min(TYPICAL_TOKENS, longest))
    deadline = clock() + WARMUP_SECONDS
    sizes: list[int] = []
    seconds: list[float] = []
    rows = 1
    while rows <= (1 if model.form.batching == "one row" else MAX_ROWS):
        took = _time_batch(model, typical, rows, clock)
        sizes.append(rows * typical.length)
        seconds.append(took)
        is_late = len(sizes) >= MIN_SIZES and clock() > deadline
        is_large = took > LATENCY_SECONDS or (len(sizes) > 1 and 2 * took > LATENCY_SECONDS)
        if is_large or is_late or _is_past_peak(sizes, seconds):
            break
        rows *= 2
    large = model.probe(longest)
    cost = fit(typical.length, sizes, seconds, large.length, _time_batch(model, large, 1, clock))
    return replace(cost, is_packed=model.form.is_packed)


def fit(typical: int, sizes: list[int], seconds: list[float], longest: int, longest_seconds: float) -> Cost:
    """The cost that fits measured batches (padded tokens, seconds) of rows of `typical` tokens, and one longest row.

    Least squares of relative errors. What the longest row costs beyond a straight line is attention's, where enough
    sizes were measured to tell. The budget is at least `longest`, so that every row fits, and the latency limit at
    least that row's time.
    """
    min_fixed, min_token = MIN_SHARE * seconds[0], MIN_SHARE * seconds[-1] / sizes[-1]
    lines = [(1, size) for size in sizes]
    curves = [(1, size, size * typical) for size in sizes] + [(1, longest, longest * longest)]
    times = [*seconds, longest_seconds]
    per_pair = 0.0
    if longest > typical and len(sizes) >= MIN_SIZES:
        fixed, per_token, per_pair = _solve(curves, times)
    elif longest > typical:
        fixed, per_token = _solve([*lines, (1, longest)], times)
    if longest == typical or per_pair < 0.0 or fixed < min_fixed or per_token < min_token:
        fixed, per_token, per_pair = *_solve(lines, seconds), 0.0
    rates = [size / took for size, took in zip(sizes, seconds, strict=True)]
    within = [index for index, took in enumerate(seconds) if took <= LATENCY_SECONDS] or [0]
    peak = max(rates[index] for index in within)
    budget = next(sizes[index] for index in within if rates[index] >= MIN_PEAK_SHARE * peak)
    return Cost(
        fixed_seconds=max(fixed, min_fixed),
        token_seconds=max(per_token, min_token),
        square_seconds=per_pair,
        budget_tokens=max(budget, longest),
        limit_seconds=max(LATENCY_SECONDS, longest_seconds),
    )


def _solve(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The coefficients of the columns with the least squares of relative errors."""
    weighted = numpy.asarray(columns, dtype=float) / numpy.asarray(seconds)[:, None]
    solved: list[float] = numpy.linalg.lstsq(weighted, numpy.ones(len(seconds)), rcond=None)[0].tolist()
    return solved


def _is_past_peak(sizes: list[int], seconds: list[float]) -> bool:
    """Whether the last two doublings brought no more tokens a second."""
    rates = [size / took for size, took in zip(sizes, seconds, strict=True)]
    return len(rates) > 3 and max(rates[-2:]) < 1.02 * max(rates[:-2])


def _time_single_row(model: Model, row: Row, clock: Clock) -> float:
    """Median seconds of a single row after a pause, when its threads have to be woken."""
    seconds = []
    for _ in range(REPEATS):
        time.sleep(REST_SECONDS)
        seconds.append(seconds_of(partial(model.run, [row]), clock))
    return median(seconds)


def _time_plan(model: Model, row: Row, plan: CpuPlan, clock: Clock) -> float:
    """Seconds in which each of the plan's forward passes runs one typical batch."""
    batch = _copies(row, 1 if model.form.batching == "one row" else TYPICAL_ROWS)
    if plan.passes == 1:
        torch.set_num_threads(plan.threads)
        return seconds_of(partial(model.run, batch), clock)
    with closing(ForwardPool(model, plan)) as pool:
        return seconds_of(partial(_run_side_by_side, pool, batch), clock)


def _run_side_by_side(pool: ForwardPool, batch: Sequence[Row]) -> None:
    for forward_pass in [pool.launch(batch) for _ in range(pool.count)]:
        forward_pass.wait()


def _copies(row: Row, count: int) -> list[Row]:
    return [replace_fields(row, id=index) for index in range(count)]


def _time_batch(model: Model, row: Row, rows: int, clock: Clock) -> float:
    """Seconds of a batch of such rows."""
    batch = _copies(row, rows)
    return min_seconds(partial(model.run, batch), REPEATS, clock, max_total_seconds=REPEAT_SECONDS)
