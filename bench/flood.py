"""Benchmark (h): latency beside a flood of long texts in one server: of a classifier that gets one text at a time, and
of short texts from the model that generates the long ones.

Part of the slowdown is the sharing of cores. The floor is the classifier beside plain processes that only compute, at
the generating engine's priority and as many as the cores that it keeps busy.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import psutil

from bench.generation import make_bodies
from bench.headwaiter_server import GENERATOR, headwaiter
from bench.models import encoder_folder, minilm_classifier, small_llama
from bench.processes import Server, running
from bench.prompts import make_prompts
from bench.report import table
from bench.results import LoadResult, StreamResult, run_load, run_streams, streams_command
from bench.texts import SHORT, make_texts, read_words
from serving.runtime.priority import GENERATION_NICENESS

CONNECTIONS = 8
STREAMS, LONG_TOKENS = 40, 256
SHORT_STREAMS, SHORT_TOKENS, SHORT_TEXTS = 4, 8, 40
ROUNDS = 3
SETTLE_SECONDS = 3.0
"""Until all streams of the flood have begun."""
BUSY = f"import os\nos.nice({GENERATION_NICENESS})\nwhile True: pass"

Times = Sequence[tuple[float, float]]
"""The p50 and the p99 of each round, in ms."""


def run(seconds: float) -> str:
    """The section of the report. seconds: of the classifier's load in each round."""
    words = read_words(encoder_folder() / "vocab.txt")
    texts, prompts = make_texts(SHORT, words), make_prompts(400, words)
    loads: dict[str, list[LoadResult]] = {"alone": [], "floor": [], "flood": []}
    shorts: dict[str, list[StreamResult]] = {"alone": [], "flood": []}
    cores = []
    with headwaiter(minilm_classifier(), generator=small_llama()) as (server, engine):
        url = f"{server.url.partition('/models/')[0]}/v1/completions"
        ask_short = partial(
            run_streams, url, make_bodies(GENERATOR, prompts[:SHORT_TEXTS], SHORT_TOKENS), SHORT_STREAMS
        )
        classify = partial(run_load, server, texts, CONNECTIONS, seconds)
        ask_short()  # warms up
        for _ in range(ROUNDS if seconds >= 5 else 1):
            loads["alone"].append(classify())
            shorts["alone"].append(ask_short())
            with _flood(url, prompts):
                cores.append(_busy_cores(server))
                loads["flood"].append(classify())
                shorts["flood"].append(ask_short())
            with _busy(max(1, round(cores[-1]))):
                loads["floor"].append(classify())
    classified = {name: [(each.p50_ms, each.p99_ms) for each in results] for name, results in loads.items()}
    first = {name: [(each.first_token_p50_ms, each.first_token_p99_ms) for each in got] for name, got in shorts.items()}
    whole = {name: [(each.whole_p50_ms, each.whole_p99_ms) for each in got] for name, got in shorts.items()}
    rows = [
        _row("classifier beside busy processes", classified["alone"], classified["floor"]),
        _row("classifier beside the flood", classified["alone"], classified["flood"], classified["floor"]),
        _row("short texts, first token", first["alone"], first["flood"]),
        _row("short texts, whole", whole["alone"], whole["flood"]),
    ]
    header = ["ms, p50 / p99", "alone", "beside", "× alone", "× busy processes"]
    return "\n".join(
        [
            f"## Beside a flood: {STREAMS} streams of {LONG_TOKENS} tokens, small Llama; MiniLM, {engine.dtype}",
            "",
            f"Classifier: {CONNECTIONS} connections, one text each. Short texts: {SHORT_TOKENS} tokens, "
            f"{SHORT_STREAMS} streams. The generating engine keeps {median(cores):.1f} cores busy.",
            "",
            table(header, rows),
        ]
    )


@contextlib.contextmanager
def _flood(url: str, prompts: Sequence[str]) -> Iterator[None]:
    """Long texts are written while the block runs."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as folder:
        command = streams_command(Path(folder), url, make_bodies(GENERATOR, prompts, LONG_TOKENS), STREAMS)
        with running(command, os.environ, Path(folder) / "log"):
            time.sleep(SETTLE_SECONDS)
            yield


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """`count` processes of the generating engine's priority compute while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _busy_cores(server: Server, seconds: float = 1.0) -> float:
    """Cores that the busiest engine keeps busy now."""
    processes = psutil.Process(server.pid).children(recursive=True)
    before = {each: sum(each.cpu_times()[:2]) for each in processes if "serving.engine" in each.cmdline()}
    time.sleep(seconds)
    return max(sum(each.cpu_times()[:2]) - used for each, used in before.items()) / seconds


def _row(name: str, alone: Times, beside: Times, floor: Times = ()) -> list[str]:
    ours, before, least = ([median(column) for column in zip(*times, strict=True)] for times in (beside, alone, floor))
    ratios = [" / ".join(f"{a / b:.1f}" for a, b in zip(ours, than, strict=False)) for than in (before, least)]
    return [name, *(f"{p50:.1f} / {p99:.1f}" for p50, p99 in (before, ours)), *ratios]
