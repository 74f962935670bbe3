"""Benchmark (f): Headwaiter and its peers with the same model on the CPU, one text per request.

Each runs alone: started, asked for one text, loaded with each text set over few and many connections, of which the best
counts, and stopped. Headwaiter is first and last, and the peers are held against the mean of both.
"""

import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from bench.headwaiter_server import Engine, headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.peers.catalog import PEERS, Peer
from bench.peers.start import start
from bench.processes import BenchError, Server
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import MIXED, SHORT, describe_lengths, make_texts, read_words

CONNECTIONS = (8, 32, 64)
MIXES = (SHORT, MIXED)
SCORE_TOLERANCE = 0.02
"""How far a peer's highest score may be from Headwaiter's; bfloat16 is not exact."""
HEADER = ["texts, server", "requests/s", "Headwaiter is", "p50 ms", "p99 ms", "connections", "errors"]
HEADER += ["memory MB", "start s"]


@dataclass(frozen=True)
class Measured:
    """One server's results. best: by text set, the load with most requests/s. failed: its loads' errors, as in a table.

    memory_bytes: proportional set size of all of its processes after the loads. start_seconds: from the start of its
    first process to its first answer, to 0.1 s.
    """

    name: str
    batches: bool
    best: Mapping[str, LoadResult]
    failed: Mapping[str, str]
    memory_bytes: int
    start_seconds: float


@dataclass(frozen=True)
class Skipped:
    """A peer that could not be measured. reason: one line."""

    name: str
    reason: str


@dataclass(frozen=True)
class Goal:
    """How many times the requests/s of the best peer Headwaiter is meant to serve. batching: only peers that batch."""

    mix: str
    batching: bool
    times: float


GOALS = (Goal("mixed", True, 4.0), Goal("mixed", False, 1.3), Goal("short", False, 2.5))


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load. Raises BenchError where Headwaiter fails."""
    words = read_words(encoder_folder() / "vocab.txt")
    texts = {mix.name: make_texts(mix, words) for mix in MIXES}
    folder = minilm_classifier()
    with _without_gpus():
        before, engine, score = _measure_ours(folder, texts, seconds)
        peers = [measure_peer(peer, folder, engine, score, texts, seconds) for peer in PEERS]
        after, _, _ = _measure_ours(folder, texts, seconds)
    return render([before, after], peers, engine.dtype)


def measure_peer(
    peer: Peer, folder: Path, engine: Engine, score: float, texts: Mapping[str, Sequence[str]], seconds: float
) -> Measured | Skipped:
    """Start the peer and load it. score: the highest one of the first short text, by Headwaiter. Blocks."""
    print(f"measuring {peer.name}", file=sys.stderr)
    try:
        with start(peer, folder, engine.dtype) as server:
            found = _measure(server, texts, seconds, batches=peer.batches)
            theirs = _first_score(server, texts)
    except BenchError as error:
        print(error, file=sys.stderr)
        return Skipped(peer.name, reason(error))
    if abs(theirs - score) > SCORE_TOLERANCE:
        return Skipped(peer.name, f"its highest score of a text is {theirs:.3f}, Headwaiter's {score:.3f}")
    return found


def render(ours: Sequence[Measured], peers: Sequence[Measured | Skipped], dtype: str) -> str:
    """The section of the report: the table, how far the goals are reached, and what is in the columns."""
    measured = [peer for peer in peers if isinstance(peer, Measured)]
    means = {mix.name: _mean(ours, mix.name) for mix in MIXES}
    rows: list[list[str]] = []
    for mix in MIXES:
        rows += [_row(mix.name, each, "") for each in ours]
        ranked = sorted(measured, key=lambda each: -each.best[mix.name].requests_per_second)
        rows += [_row(mix.name, each, f"{_ratio(means, each, mix.name):.1f} ×") for each in ranked]
    skipped = [peer for peer in peers if isinstance(peer, Skipped)]
    rows += [[f"{each.name}: skipped: {each.reason}"] + [""] * (len(HEADER) - 1) for each in skipped]
    sets = "; ".join(f"{mix.name}: {describe_lengths(mix)}" for mix in MIXES)
    about = (
        f"2,000 texts each ({sets}), one per request, the best of {', '.join(map(str, CONNECTIONS))} keep-alive "
        "connections. Memory is the proportional set size of all processes; start ends with the first answer."
    )
    title = f"## Peers: MiniLM sequence classification on the CPU, Headwaiter in {dtype}"
    reached = "\n".join(f"- {_reached(goal, means, measured)}" for goal in GOALS)
    return "\n".join([title, "", about, "", table(HEADER, rows), "", reached])


def reason(error: BenchError) -> str:
    """The last line of what went wrong that says something, at most 160 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-^~|")]
    wrong = [line for line in lines if line.lower().startswith("error") or "Error: " in line]
    return (wrong or lines or ["unknown"])[-1].replace("|", "/")[:160]


def highest_score(answer: Any) -> float:
    """The highest fraction anywhere in a server's answer, whatever its shape; 0 where there is none."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return max(map(highest_score, answer), default=0.0)
    return answer if isinstance(answer, float) and answer <= 1 else 0.0


def _measure_ours(folder: Path, texts: Mapping[str, Sequence[str]], seconds: float) -> tuple[Measured, Engine, float]:
    print("measuring Headwaiter", file=sys.stderr)
    with headwaiter(folder) as (server, engine):
        return _measure(server, texts, seconds, batches=True), engine, _first_score(server, texts)


def _measure(server: Server, texts: Mapping[str, Sequence[str]], seconds: float, *, batches: bool) -> Measured:
    _first_score(server, texts)
    start_seconds = time.time() - psutil.Process(server.pid).create_time()
    best: dict[str, LoadResult] = {}
    failed: dict[str, str] = {}
    for mix, each in texts.items():
        loads = [run_load(server, each, connections, seconds) for connections in CONNECTIONS]
        best[mix] = max(loads, key=lambda load: load.requests_per_second)
        failed[mix] = errors(loads)
        if not best[mix].requests:
            raise BenchError(f"it answered none of the {mix} texts with 200: {failed[mix]}")
    return Measured(server.name, batches, best, failed, memory_bytes(server.pid), start_seconds)


def memory_bytes(pid: int) -> int:
    """The proportional set size of a process and all that it started: what they share is counted once."""
    first = psutil.Process(pid)
    total = 0
    for process in [first, *first.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def _first_score(server: Server, texts: Mapping[str, Sequence[str]]) -> float:
    """The highest score of the first short text. Raises BenchError where the server does not answer it."""
    body = json.dumps(server.request(texts[SHORT.name][0])).encode()
    request = urllib.request.Request(server.url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return highest_score(json.load(answer))
    except (OSError, ValueError) as error:
        raise BenchError(f"{server.name} does not answer: {error}") from error


def _mean(ours: Sequence[Measured], mix: str) -> float:
    return fmean(each.best[mix].requests_per_second for each in ours)


def _ratio(means: Mapping[str, float], peer: Measured, mix: str) -> float:
    return means[mix] / peer.best[mix].requests_per_second


def _row(mix: str, server: Measured, ratio: str) -> list[str]:
    load = server.best[mix]
    return [
        f"{mix}, {server.name}",
        rate(load.requests_per_second),
        ratio,
        f"{load.p50_ms:.0f}",
        f"{load.p99_ms:.0f}",
        str(load.connections),
        server.failed[mix],
        f"{server.memory_bytes / 1e6:,.0f}",
        f"{server.start_seconds:.1f}",
    ]


def _reached(goal: Goal, means: Mapping[str, float], peers: Sequence[Measured]) -> str:
    rivals = [peer for peer in peers if peer.batches or not goal.batching]
    kind = "the best batching server" if goal.batching else "the best of all"
    if not rivals:
        return f"{goal.mix} texts: no server to compare with was measured ({kind})"
    best = max(rivals, key=lambda peer: peer.best[goal.mix].requests_per_second)
    times = _ratio(means, best, goal.mix)
    verdict = "reached" if times >= goal.times else "not reached"
    return f"{goal.mix} texts: {times:.1f} times {kind}, {best.name}; the goal of {goal.times} times is {verdict}"


@contextlib.contextmanager
def _without_gpus() -> Iterator[None]:
    """Every process started in the block sees no GPU."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
