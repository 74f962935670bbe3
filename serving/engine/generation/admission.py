"""Which waiting sequences are admitted before the next step, and which are preempted for them. Pure functions.

Waiting sequences are admitted by priority: arrival time + `FAIR_SECONDS` x `max_new_tokens`. So short texts overtake
long ones, and no sequence starves. A sequence that generated enough tokens since its admission is preempted for a
waiting one of an earlier priority, and goes on later with the same text.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

from serving.engine.generation.sequence import Sequence

MIN_ADMITTED_TOKENS = 32
"""A sequence generates at least this many tokens before it can be preempted. Untuned; see bench/NOTES.md, Writing
texts, for what a prefill and a step take."""
SEARCH_SHARE = 0.5
"""Of the cache, for beam searches: the rest is left to other sequences, which a search keeps waiting to its end."""
MAX_ISOLATED = 4
"""Isolated sequences at a time. Every other row waits for each of their steps: see bench/NOTES.md, Writing texts."""


@dataclass(frozen=True)
class SchedulerLimits:
    """max_rows: sequences at a time. cache_tokens: cache positions. pass_tokens: tokens of one prefill, padding
    included; each sequence of it has its first token at its end.
    """

    max_rows: int
    cache_tokens: int
    pass_tokens: int


@dataclass
class Admission:
    """prefill: sequences that enter a batch. preempt: running sequences that lose their place first. search: sequences
    that start a beam search together.
    """

    prefill: list[Sequence] = field(default_factory=list)
    preempt: list[Sequence] = field(default_factory=list)
    search: list[Sequence] = field(default_factory=list)


def plan_admission(
    waiting: Iterable[Sequence],
    running: Iterable[Sequence],
    limits: SchedulerLimits,
    *,
    width: Callable[[int], int],
    cost: Callable[[Sequence], int],
    max_tokens: int,
    search_tokens: int,
) -> Admission:
    """Choose what to admit before the next step.

    waiting: in order of priority, may be iterated over more than once. running: sequences in batches, those of a beam
    search not included. cost: the tokens of a sequence that a prefill computes. width: from the most of the sequences
    that prefill together to their padded number. max_tokens: bound of the prefilled tokens, padding included; the first
    sequence may exceed it. search_tokens: cache positions of the beam search that runs; only one does at a time.
    """
    plan, running = Admission(), list(running)
    costs: list[int] = []
    isolated_wait = False
    if max_tokens <= 0:
        return plan
    for sequence in waiting:
        if sequence.sampler.beams > 1:
            if search_tokens:
                continue
            own, added, search = 0, [], count_search([sequence])
        else:
            own, added, search = cost(sequence), [sequence], search_tokens
            if plan.prefill and (len(plan.prefill) + 1) * width(max(own, *costs)) > max_tokens:
                break
            if sequence.is_isolated:
                isolated_wait |= not may_isolate(sequence, [*running, *plan.prefill], limits)
                if isolated_wait:  # later ones would take what it waits for
                    continue
        victims = find_victims(sequence, running, [*plan.prefill, *added], search, limits)
        if victims is None:
            break
        plan.preempt += victims
        running = [each for each in running if each not in victims]
        if added:
            plan.prefill += added
            costs.append(own)
        else:
            plan.search = group_for_search(sequence, waiting, [*running, *plan.prefill], limits, width)
            search_tokens = count_search(plan.search)
    plan.prefill = nearest_in_cost(plan.prefill, costs, limits, width)
    return plan


def heed_suspects(waiting: Iterable[Sequence], running: list[Sequence]) -> list[Sequence]:
    """The waiting sequences that may be admitted now where some must be alone, because an engine ended with them.

    Such a one is admitted once nothing runs, and nothing else until it has left. waiting: in order of priority.
    """
    waiting = list(waiting)
    if any(each.row.is_suspect for each in running):
        return []
    if waiting and waiting[0].row.is_suspect:
        return [] if running else waiting[:1]
    return list(takewhile(lambda each: not each.row.is_suspect, waiting))


def has_room(rows: list[Sequence], search_tokens: int, limits: SchedulerLimits) -> bool:
    """Whether the cache holds all sequences at their greatest length, and a beam search beside them.

    A sequence or a search by itself always fits.
    """
    fits = len(rows) <= limits.max_rows and count_batched(rows) + search_tokens <= limits.cache_tokens
    return fits or len(rows) + bool(search_tokens) == 1


def count_batched(rows: list[Sequence]) -> int:
    """Cache positions of sequences in batches at their greatest length; those that share one are padded to it."""
    shared = [row.max_length for row in rows if not row.is_isolated]
    return len(shared) * max(shared, default=0) + sum(row.max_length for row in rows if row.is_isolated)


def count_search(sequences: list[Sequence]) -> int:
    """Cache positions of a beam search over sequences of the same settings at their greatest length; 0 for none."""
    return sum(each.sampler.beams for each in sequences) * max((each.max_length for each in sequences), default=0)


def may_isolate(sequence: Sequence, others: list[Sequence], limits: SchedulerLimits) -> bool:
    """Whether one more isolated sequence leaves half of the cache to the others. The first one always may start."""
    isolated = [row.max_length for row in others if row.is_isolated]
    fits = sum(isolated) + sequence.max_length <= limits.cache_tokens // 2
    return not isolated or (len(isolated) < MAX_ISOLATED and fits)


def find_victims(
    sequence: Sequence, running: list[Sequence], added: list[Sequence], search_tokens: int, limits: SchedulerLimits
) -> list[Sequence] | None:
    """The running sequences that are preempted for `sequence`; None where there is no room for it even then.

    added: what is admitted with it. search_tokens: of the beam search beside all.
    """
    victims: list[Sequence] = []
    while not has_room([*running, *added], search_tokens, limits):
        victim = choose_victim(sequence, running)
        if victim is None:
            return None
        running = [each for each in running if each is not victim]
        victims.append(victim)
    return victims


def choose_victim(sequence: Sequence, running: list[Sequence]) -> Sequence | None:
    """The running sequence of the latest priority, if it may be preempted for `sequence`."""
    candidates = [
        (row.priority, index)
        for index, row in enumerate(running)
        if not row.is_isolated and row.tokens_since_admitted >= MIN_ADMITTED_TOKENS
    ]
    priority, index = max(candidates, default=(0.0, 0))
    return running[index] if priority > sequence.priority else None


def nearest_in_cost(
    sequences: list[Sequence], costs: list[int], limits: SchedulerLimits, width: Callable[[int], int]
) -> list[Sequence]:
    """The first sequence and those of which about as many tokens are computed, as many as one forward pass takes."""
    nearest = sorted(range(len(sequences)), key=lambda index: abs(costs[index] - costs[0]))
    most = accumulate((costs[index] for index in nearest), max)
    positions = [count * width(tokens) for count, tokens in enumerate(most, 1)]
    return [sequences[index] for index in nearest[: max(1, bisect_right(positions, limits.pass_tokens))]]


def group_for_search(
    sequence: Sequence,
    waiting: Iterable[Sequence],
    running: list[Sequence],
    limits: SchedulerLimits,
    width: Callable[[int], int],
) -> list[Sequence]:
    """Waiting sequences of the same settings that one beam search takes beside those that run; with a seed `sequence`
    alone. Several take at most `SEARCH_SHARE` of the cache.

    Rules of the checkpoint see the tokens before a text, so they need prompts of one length: these have no padding.
    """
    if sequence.settings.seed is not None:
        return [sequence]
    alike = (other for other in waiting if other.row.payload == sequence.row.payload)
    if not sequence.sampler.is_plain:
        alike = (other for other in alike if len(other.prompt) == len(sequence.prompt))
    most = min(limits.cache_tokens - count_batched(running), int(SEARCH_SHARE * limits.cache_tokens))
    group: list[Sequence] = []
    for other in alike:
        grown = [*group, other]
        is_wide = len(grown) * sequence.sampler.beams > limits.max_rows or count_search(grown) > most
        if group and (is_wide or len(grown) * width(max(each.length for each in grown)) > limits.pass_tokens):
            break
        group = grown
    return group
