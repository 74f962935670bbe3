"""The cost of a CPU quota of one core against one pinned core, in a real control group; MiniLM, short texts.

Both servers run at once and are loaded by turns in several rounds, so that a slow moment of the machine meets both.
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median

from bench.control_group import ENTER, NoControlGroups, make_group
from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.processes import BenchError, Server
from bench.report import by_turns, errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import SHORT, make_texts, read_words

CONNECTIONS = 32
ROUNDS = 5


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each server, all rounds together."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwaiter-bench-")))
        try:
            group = stack.enter_context(make_group("bench"))
        except NoControlGroups as error:
            raise BenchError(f"container: {error}") from error
        group.limit_cores(1)
        groups = f"GROUPS_TO_ENTER='{group.cpu}'; set -- {sys.executable} \"$@\"; {ENTER}"
        starts = {"quota of one core": groups, "pinned to one core": f'exec taskset -c 0 {sys.executable} "$@"'}
        results: dict[str, list[LoadResult]] = {name: [] for name in starts}
        servers: dict[str, Server] = {}
        for name, script in starts.items():
            python = folder / f"python-{len(servers)}"
            python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            python.chmod(0o755)
            servers[name], _ = stack.enter_context(headwaiter(minilm_classifier(), python=str(python)))
        for _ in range(ROUNDS):
            for name, server in servers.items():
                results[name].append(run_load(server, texts, CONNECTIONS, seconds / ROUNDS))
    return by_turns("Container: a CPU quota against a pinned core", CONNECTIONS, ROUNDS, seconds, _table(results))


def _table(results: dict[str, list[LoadResult]]) -> str:
    rates = {name: fmean(each.requests_per_second for each in runs) for name, runs in results.items()}
    tails = {name: median(each.p99_ms for each in runs) for name, runs in results.items()}
    pinned = list(results)[1]
    rows = [
        [
            name,
            rate(rates[name]),
            f"{median(each.p50_ms for each in runs):.1f}",
            f"{tails[name]:.1f}",
            f"{rates[name] / rates[pinned]:.2f}",
            f"{tails[name] / tails[pinned]:.2f}",
            errors(runs),
        ]
        for name, runs in results.items()
    ]
    return table(["server", "requests/s", "p50 ms", "p99 ms", "× requests/s", "× p99", "errors"], rows)
