"""Benchmark: ten times as many requests as the server can answer come at random moments: how many it still answers, how
soon it refuses the others, and when it is back to normal.

The clients have a core of their own where there are several, so that what they cost is not taken for the server's.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median

import psutil

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.processes import Server, check_bounds
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import LengthMix, describe_lengths, make_texts, read_words

LONG = LengthMix("long", median=200, p90=240, low=150, high=256)
"""Texts that cost the engine far more than the front and the clients, which share the machine's cores with it."""
CONNECTIONS = 64
OVERLOAD = 10
CLIENTS = 1024
"""At least; as many as the server answers in CLIENT_SECONDS where these are more."""
CLIENT_SECONDS = 20.0
"""Twice what the queue holds by default: every request that comes finds a client that is free to send it."""
NORMAL = 1.5
"""The server is back to normal when one request takes at most this many times the median before."""
MIN_SHARE, MAX_REFUSAL_MS, MAX_BACK_SECONDS = 0.95, 10.0, 2.0
"""Bounds: the share of the usual rate that overload leaves, the p99 of refusals, and the time until it is over."""
FULL_SECONDS = 10.0
"""In shorter loads rates are noise."""
LATE_SECONDS = 60.0


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load; the overload lasts six times as long.

    Raises BeyondBounds where a run of at least FULL_SECONDS is beyond its bounds.
    """
    texts = make_texts(LONG, read_words(encoder_folder() / "vocab.txt"))
    own, others = _cores()
    with _on(own), headwaiter(minilm_classifier()) as (server, engine), _on(others):
        before = _load(server, texts, CONNECTIONS, seconds)
        peak = before.result
        quiet = median(_ask(server, text) for text in texts[:20])
        offered = OVERLOAD * peak.requests_per_second
        clients = max(CLIENTS, int(CLIENT_SECONDS * peak.requests_per_second))
        overload = _load(server, texts, clients, 6 * seconds, per_second=offered, drain_seconds=0)
        flooded = overload.result
        back = _until_normal(server, texts, NORMAL * quiet)
        after = _load(server, texts, CONNECTIONS, seconds)
    share = flooded.requests_per_second / fmean((peak.requests_per_second, after.result.requests_per_second))
    per_cpu = overload.answers_per_cpu_second / fmean((before.answers_per_cpu_second, after.answers_per_cpu_second))
    told = sorted((int(said) if said.isdigit() else 0, count) for said, count in flooded.retry_after.items())
    header = ["MiniLM, one long text", "requests/s", "p50 ms", "p99 ms", "errors", "client's cores", "answers/CPU s"]
    section = "\n".join(
        [
            f"## Overload: MiniLM sequence classification, {engine.dtype} on {engine.device}",
            "",
            f"Long texts ({describe_lengths(LONG)}); {rate(offered)} requests/s come for {6 * seconds:.0f} s. Cores of "
            f"the server: {len(own)}{', which the clients share' if own & others else '; the clients have another'}.",
            "",
            table(header, [_row("before", before), _row("overload", overload), _row("after", after)]),
            "",
            f"Answered in overload: {share:.2f} of the rate before and after (bound: {MIN_SHARE}), and for each second "
            f"of processor time of the server {per_cpu:.2f} of theirs: the rest is what refusals cost it. Refused "
            f"within {flooded.refused_p99_ms:.1f} ms in 99 % of cases (bound: {MAX_REFUSAL_MS:g}), with Retry-After "
            f"{f'{told[0][0]} to {told[-1][0]} s' if told else '-'}. Once the clients have left one request takes the "
            f"usual {1000 * quiet:.0f} ms again after {back:.1f} s (bound: {MAX_BACK_SECONDS:g}).",
        ]
    )
    bounds = {
        f"{share:.3f} of the rate before and after is answered": share >= MIN_SHARE,
        f"refusals take {flooded.refused_p99_ms:.1f} ms": flooded.refused_p99_ms < MAX_REFUSAL_MS,
        f"it is back to normal after {back:.1f} s": back <= MAX_BACK_SECONDS,
    }
    return check_bounds(section, bounds, is_full=seconds >= FULL_SECONDS)


def _cores() -> tuple[Set[int], Set[int]]:
    """The server's cores and the clients': all for both where there is one, or where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset(), frozenset()
    found = sorted(os.sched_getaffinity(0))
    return (set(found[1:]), {found[0]}) if len(found) > 1 else (set(found), set(found))


@contextmanager
def _on(cores: Set[int]) -> Iterator[None]:
    """Start processes on these cores in the block."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Load:
    """One load, and how many of its requests the server answered for each second of its processor time."""

    result: LoadResult
    answers_per_cpu_second: float


def _load(server: Server, texts: list[str], connections: int, seconds: float, **how: float) -> Load:
    cpu = _cpu_seconds(server.pid)
    result = run_load(server, texts, connections, seconds, **how)
    return Load(result, result.ever.get("200", 0) / (_cpu_seconds(server.pid) - cpu))


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and of all that it started and that live."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _row(name: str, load: Load) -> list[str]:
    result = load.result
    return [
        name,
        rate(result.requests_per_second),
        f"{result.p50_ms:.0f}",
        f"{result.p99_ms:.0f}",
        errors([result]),
        f"{result.client_cpu_share:.2f}",
        f"{load.answers_per_cpu_second:.1f}",
    ]


def _until_normal(server: Server, texts: list[str], normal_seconds: float) -> float:
    """Seconds from now until the first request that takes the usual time was sent."""
    began = time.perf_counter()
    for text in texts:
        sent = time.perf_counter()
        try:
            if _ask(server, text) <= normal_seconds:
                return sent - began
        except OSError:
            time.sleep(0.05)
        if sent - began > LATE_SECONDS:
            break
    return float("inf")


def _ask(server: Server, text: str) -> float:
    """Seconds until one text is answered; raises OSError where it is refused."""
    body = json.dumps(server.request(text)).encode()
    request = urllib.request.Request(server.url, body, {"Content-Type": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=LATE_SECONDS) as answer:
        answer.read()
    return time.perf_counter() - began
