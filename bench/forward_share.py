"""Benchmarks (b) and (c): sequences/s served, one text per request and ten, as a share of the bare forward limit.

For each text set: limit, Headwaiter, limit, plain BentoML, limit. A server's share is of the mean of the limits right
before and right after it. Both servers stay up, idle while others are measured.
"""

import sys
from collections.abc import Sequence

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.peers.start import plain_bentoml
from bench.processes import Server
from bench.reference import Reference
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import MIXED, SHORT, describe_lengths, make_texts, read_words

CONNECTIONS = (32, 128, 256)
TOGETHER, TOGETHER_CONNECTIONS = 10, 32
"""Texts of a request that brings several, and how many such requests there are at a time."""
HEADER = ["texts, server", "connections", "sequences/s", "of the limit", "p50 ms", "p99 ms", "errors"]


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load."""
    words = read_words(encoder_folder() / "vocab.txt")
    folder = minilm_classifier()
    rows: list[list[str]] = []
    with headwaiter(folder) as (ours, engine), plain_bentoml(folder, engine.dtype, engine.device) as plain:
        for mix in (SHORT, MIXED):
            texts = make_texts(mix, words)
            limit = Reference.choose(folder, texts, engine, seconds)
            limit.measure(seconds / 2)
            for server in (ours, plain):
                loads = [(1, _load(server, mix.name, texts, connections, seconds)) for connections in CONNECTIONS]
                if server is ours:
                    many = [texts[at : at + TOGETHER] for at in range(0, len(texts), TOGETHER)]
                    loads.append((TOGETHER, _load(server, mix.name, many, TOGETHER_CONNECTIONS, seconds)))
                limit.measure(seconds / 2)
                rows += _rows(mix.name, server, limit, loads)
    sets = "; ".join(f"{mix.name}: {describe_lengths(mix)}" for mix in (SHORT, MIXED))
    title = f"## Forward: MiniLM sequence classification, {engine.dtype} on {engine.device}, {limit.threads} threads"
    return "\n".join([title, "", f"2,000 texts each ({sets}).", "", table(HEADER, rows)])


def _rows(mix: str, server: Server, limit: Reference, loads: list[tuple[int, LoadResult]]) -> list[list[str]]:
    """loads: texts in a request, and what was measured."""
    before, after = limit.rates[-2:]
    mean = (before + after) / 2
    waits = "sleep" if limit.wait_policy else "spin"
    name = f"{mix}, bare limit ({limit.budget} tokens a batch, threads {waits})"
    rows = [[name, "", rate(mean), f"{rate(before)} before, {rate(after)} after", "", "", ""]]
    for together, load in loads:
        served = together * load.requests_per_second
        times = [f"{load.p50_ms:.0f}", f"{load.p99_ms:.0f}"]
        who = f"{mix}, {server.name}" + (f", {together} texts a request" if together > 1 else "")
        rows.append([who, str(load.connections), rate(served), f"{served / mean:.0%}", *times, errors([load])])
    return rows


def _load(server: Server, mix: str, texts: Sequence[str | list[str]], connections: int, seconds: float) -> LoadResult:
    print(f"measuring {server.name}: {mix} texts, {connections} connections", file=sys.stderr)
    return run_load(server, texts, connections, seconds)
