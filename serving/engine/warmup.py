"""What a forward pass costs on this device, measured at warm-up, and the token budget that follows from it."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from statistics import median

import numpy
import torch

from serving.engine.batching.cost import Cost
from serving.engine.model import Model
from serving.engine.parallel import Lanes, Split
from serving.engine.timing import CLOCK, Clock, least_seconds, seconds_of
from serving.wire.messages import EncodedRow, Row

ENOUGH = 0.95
"""The budget is the smallest batch that reaches this share of the peak tokens a second."""
ENOUGH_THREADS = 1.15
"""More threads must save more than this ratio of time; they take cores from the fronts."""
SHORT_TOKENS = 24
"""Length of the shortest row for which threads are chosen, and doubled from there; ours."""
ROUNDS = 3
TYPICAL_ROWS = 16
"""Of the batches that are measured to choose threads."""
FRONT_SECONDS, FRONT_TOKEN_SECONDS = 0.0002, 0.00007
"""What a front spends on a row, and on each token that it streams; ours, measured on an AMD EPYC."""
LATENCY_SECONDS = 0.1
"""A batch shall not take longer, unless one row alone does."""
REPEATS, REPEAT_SECONDS = 3, 0.05
"""A shape is run so often, and the best time counts; only twice where that took this long."""
WARMUP_SECONDS = 0.5
"""After this, and `ENOUGH_SIZES`, no further shape is measured; what batches take is learned while they are served."""
TYPICAL_TOKENS = 32
"""Length of the rows that are measured; attention makes much longer ones dearer per token."""
REST_SECONDS = 0.002
"""Between rows that have no company; ours."""
MAX_ROWS = 4096
ENOUGH_SIZES = 4
"""So many batches of typical rows must have been measured before a longest row tells attention's part from the line."""
LEAST_SHARE = 0.05
"""A row alone has at least this share of its time from the fixed part, the largest batch from its tokens; what was
measured otherwise is noise, and the cost that is learned later could not grow from nothing. Ours."""


def choose_split(model: Model, *, lanes: bool, clock: Clock = CLOCK) -> Split:
    """The least cores with which typical batches are served almost as fast as in any other way; sets torch's threads.

    The fronts need cores too: rows come as fast as the forward passes allow, or as all work together on all cores does.
    So a small model gets one thread and the front the other core, and a large model gets all. lanes: whether forward
    passes may run side by side. Blocks.
    """
    row = model.task.probe(model.contract, min(TYPICAL_TOKENS, model.contract.max_tokens))
    most = torch.get_num_threads()
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64, 128) if count < most] + [most]
    splits = {Split(many, count) for count in counts for many in ((1, most // count) if lanes else (1,))}
    seconds = dict.fromkeys(splits, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that what disturbs them disturbs all
        for split in splits:
            seconds[split] = min(seconds[split], _time_split(model, row, split, clock) / split.lanes)
    front = TYPICAL_ROWS * (FRONT_SECONDS + row.new_tokens * FRONT_TOKEN_SECONDS)
    took = {split: _share(split.lanes * split.threads, each, front, most) for split, each in seconds.items()}
    enough = [split for split in splits if took[split] <= ENOUGH_THREADS * min(took.values())]
    best = min(enough, key=lambda split: (split.lanes * split.threads, -split.lanes))
    if best.lanes > 1:
        best = _with_alone(model, best, counts, clock)
    torch.set_num_threads(best.threads)
    return best


def _share(cores: int, seconds: float, front: float, most: int) -> float:
    """Seconds for each batch and the fronts' work with it, where forward passes take so long on so many cores."""
    return max(seconds, (cores * seconds + front) / most)


def _with_alone(model: Model, split: Split, counts: Sequence[int], clock: Clock) -> Split:
    """The split with the threads that make a row without company sooner, from the least length on at which they do."""
    longest = model.contract.max_tokens
    length = min(SHORT_TOKENS, longest)
    while True:
        row = model.task.probe(model.contract, length)
        took: dict[int, float] = {}
        for count in counts:
            torch.set_num_threads(count)
            took[count] = _time_alone(model, row, clock)
        alone = next(count for count in counts if took[count] <= ENOUGH_THREADS * min(took.values()))
        if alone > split.threads or length == longest:
            return replace(split, alone=alone, alone_tokens=length)
        length = min(2 * length, longest)


def measure_cost(model: Model, clock: Clock = CLOCK) -> Cost:
    """Run batches of 1, 2, 4, … typical rows and one longest row; fit the cost and choose the budget. Blocks."""
    longest = model.contract.max_tokens
    typical = model.task.probe(model.contract, min(TYPICAL_TOKENS, longest))
    deadline = clock() + WARMUP_SECONDS
    sizes: list[int] = []
    seconds: list[float] = []
    rows = 1
    while rows <= MAX_ROWS:
        took = _time(model, typical, rows, clock)
        sizes.append(rows * typical.length)
        seconds.append(took)
        is_late = len(sizes) >= ENOUGH_SIZES and clock() > deadline
        is_large = took > LATENCY_SECONDS or (len(sizes) > 1 and 2 * took > LATENCY_SECONDS)
        if is_large or is_late or _is_past_peak(sizes, seconds):
            break
        rows *= 2
    large = model.task.probe(model.contract, longest)
    cost = fit(typical.length, sizes, seconds, large.length, _time(model, large, 1, clock))
    return replace(cost, packs=model.form.is_packed)


def fit(typical: int, sizes: list[int], seconds: list[float], longest: int, longest_seconds: float) -> Cost:
    """The cost through measured (padded tokens, seconds) of `typical` rows and one longest row.

    Least squares of relative errors. What a longest row costs beyond a line is attention's part, where enough was
    measured to tell. The budget is at least `longest`, so that every row fits, and a batch may take at least as long as
    that row does.
    """
    least_fixed, least_token = LEAST_SHARE * seconds[0], LEAST_SHARE * seconds[-1] / sizes[-1]
    lines = [(1, size) for size in sizes]
    curves = [(1, size, size * typical) for size in sizes] + [(1, longest, longest * longest)]
    times = [*seconds, longest_seconds]
    per_pair = 0.0
    if longest > typical and len(sizes) >= ENOUGH_SIZES:
        fixed, per_token, per_pair = _solve(curves, times)
    elif longest > typical:
        fixed, per_token = _solve([*lines, (1, longest)], times)
    if longest == typical or per_pair < 0.0 or fixed < least_fixed or per_token < least_token:
        fixed, per_token, per_pair = *_solve(lines, seconds), 0.0
    rates = [size / took for size, took in zip(sizes, seconds, strict=True)]
    within = [index for index, took in enumerate(seconds) if took <= LATENCY_SECONDS] or [0]
    peak = max(rates[index] for index in within)
    budget = next(sizes[index] for index in within if rates[index] >= ENOUGH * peak)
    return Cost(
        fixed_seconds=max(fixed, least_fixed),
        token_seconds=max(per_token, least_token),
        square_seconds=per_pair,
        budget_tokens=max(budget, longest),
        limit_seconds=max(LATENCY_SECONDS, longest_seconds),
    )


def _solve(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The factors of the columns with the least squares of relative errors."""
    weighted = numpy.asarray(columns, dtype=float) / numpy.asarray(seconds)[:, None]
    solved: list[float] = numpy.linalg.lstsq(weighted, numpy.ones(len(seconds)), rcond=None)[0].tolist()
    return solved


def _is_past_peak(sizes: list[int], seconds: list[float]) -> bool:
    """Whether doubling twice brought nothing more."""
    rates = [size / took for size, took in zip(sizes, seconds, strict=True)]
    return len(rates) > 3 and max(rates[-2:]) < 1.02 * max(rates[:-2])


def _time_alone(model: Model, row: EncodedRow, clock: Clock) -> float:
    """Seconds of a row that comes after a rest, when a forward pass' threads sleep."""
    seconds = []
    for _ in range(REPEATS):
        time.sleep(REST_SECONDS)
        seconds.append(seconds_of(partial(model.run, [row.to_row(0, 0.0)]), clock))
    return median(seconds)


def _time_split(model: Model, row: EncodedRow, split: Split, clock: Clock) -> float:
    """Seconds in which every lane runs a typical batch."""
    batch = [row.to_row(index, 0.0) for index in range(TYPICAL_ROWS)]
    if split.lanes == 1:
        torch.set_num_threads(split.threads)
        return seconds_of(partial(model.run, batch), clock)
    with closing(Lanes(model, split)) as lanes:
        return seconds_of(partial(_run_side_by_side, lanes, batch), clock)


def _run_side_by_side(lanes: Lanes, batch: Sequence[Row]) -> None:
    for running in [lanes.launch(batch) for _ in range(lanes.count)]:
        running.wait()


def _time(model: Model, row: EncodedRow, rows: int, clock: Clock) -> float:
    batch = [row.to_row(index, 0.0) for index in range(rows)]
    return least_seconds(partial(model.run, batch), REPEATS, clock, enough_seconds=REPEAT_SECONDS)
