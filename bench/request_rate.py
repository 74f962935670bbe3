"""Benchmark (a): what a request costs when the model costs nothing: Headwaiter, plain BentoML and an ASGI echo.

All three run at once and are loaded by turns in several rounds, so that a slow moment of the machine meets each.
"""

import contextlib
from statistics import fmean, median

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, tiny_classifier
from bench.peers.start import echo, plain_bentoml
from bench.processes import Server
from bench.report import by_turns, errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import SHORT, make_texts, read_words

CONNECTIONS = 64
ROUNDS = 3


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each server, all rounds together."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    folder = tiny_classifier()
    with contextlib.ExitStack() as stack:
        ours, engine = stack.enter_context(headwaiter(folder))
        servers = [
            ours,
            stack.enter_context(plain_bentoml(folder, engine.dtype, engine.device)),
            stack.enter_context(echo()),
        ]
        results: dict[Server, list[LoadResult]] = {server: [] for server in servers}
        for _ in range(ROUNDS):
            for server in servers:
                results[server].append(run_load(server, texts, CONNECTIONS, seconds / ROUNDS))
    return by_turns("Requests: a text classifier of negligible cost", CONNECTIONS, ROUNDS, seconds, _table(results))


def _table(results: dict[Server, list[LoadResult]]) -> str:
    header = ["server", "requests/s", "p50 ms", "p99 ms", "× plain BentoML", "errors", "client CPU"]
    rates = {server.name: fmean(each.requests_per_second for each in runs) for server, runs in results.items()}
    rows = [
        [
            server.name,
            rate(rates[server.name]),
            f"{median(each.p50_ms for each in runs):.1f}",
            f"{median(each.p99_ms for each in runs):.1f}",
            f"{rates[server.name] / rates['plain BentoML']:.1f}",
            errors(runs),
            f"{fmean(each.client_cpu_share for each in runs):.0%}",
        ]
        for server, runs in results.items()
    ]
    return table(header, rows)
