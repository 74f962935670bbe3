"""Benchmark (c): what metrics cost: the processor time of all counting of a request, as a share of the request's; and
how long a scrape takes with 10 versions loaded.

Two servers, one with and one without metrics, cannot show a percent on a machine whose rate varies by more. So the
counting itself is timed, call by call, against the processor time that the loaded server spends on a request.
"""

import os
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, tiny_classifier
from bench.report import table
from bench.results import run_load
from bench.texts import SHORT, make_texts, read_words
from monitoring.exposition import BaselineShares, Exposition, ServerStatus, VersionStatus
from monitoring.instruments import Instruments
from monitoring.metrics import METRICS
from serving.engine.meter import EngineMeter
from serving.front.meter import FrontMeter
from serving.front.request_context import StageTimes

CONNECTIONS = 64
REPEATS = 4_000
ROUNDS = 11
"""Of the counting; their median, for the clock of a shared processor is not steady."""
SCRAPES = 50
VERSIONS = 10
ROWS = 8
"""Rows of a batch in the timed counting; fewer make a row dearer."""


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of the load."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    with headwaiter(tiny_classifier()) as (server, _):
        before, load = processor_seconds(), run_load(server, texts, CONNECTIONS, seconds)
        request = (processor_seconds() - before) / (load.requests_per_second * seconds)
    counting = median(counting_seconds() for _ in range(ROUNDS))
    scrape, size = scrape_seconds()
    rows = [
        ["a request, all processes together", f"{request * 1e6:.0f} µs of processor time"],
        ["its counting, front and engine", f"{counting * 1e6:.1f} µs"],
        ["cost of metrics", f"{counting / request:.1%} (bound: 2%)"],
        [f"a scrape, {VERSIONS} versions, 2 fronts, {size / 1000:.0f} kB", f"{scrape * 1e3:.0f} ms (bound: 50 ms)"],
    ]
    return "\n".join(["## Metrics", "", table(["what", "measured"], rows)])


def processor_seconds() -> float:
    """Of everything that the benchmark started and that still runs: the server; the load's own processes have ended."""
    return sum(sum(process.cpu_times()[:2]) for process in psutil.Process(os.getpid()).children(recursive=True))


def counting_seconds() -> float:
    """Processor time of one request's counting: in the front, and its row's share of a batch of ROWS in the engine."""
    front = FrontMeter("m", "1", "text-classification", ("good", "bad"))
    engine = EngineMeter("m", "1", "text-classification")
    lengths = [12] * ROWS
    stages = StageTimes()  # the answer's Server-Timing header needs it, counted or not
    stages.sent = stages.received = stages.ended = stages.began
    began = time.process_time()
    for _ in range(REPEATS):
        front.begin()
        front.observe_predictions((("good", 0.9),))
        front.leave()
        front.end("huggingface", 200, stages)
    middle = time.process_time()
    for _ in range(REPEATS // ROWS):
        engine.observe_batch(lengths, sum(lengths))
        engine.observe_queue(3)
        engine.observe_memory()
    ended = time.process_time()
    return (middle - began) / REPEATS + (ended - middle) / (REPEATS // ROWS * ROWS)


def scrape_seconds() -> tuple[float, int]:
    """The median time of a scrape with everything in it that 10 versions can show, and its bytes."""
    names = [("model", str(number)) for number in range(VERSIONS)]
    with TemporaryDirectory() as folder:
        processes = [Instruments(Path(folder)) for _ in range(2 + VERSIONS)]
        for number, found in enumerate(processes):
            for model, version in names if number < 2 else names[number - 2 : number - 1]:
                _count_everything(found, (model, version, "text-classification"))
        shares = {name: dict.fromkeys(METRICS[name].bounds, 0.1) for name in ("confidence", "row_tokens")}
        baseline = BaselineShares({f"label {number}": 0.1 for number in range(10)}, **shares)
        status = ServerStatus(
            tuple(
                VersionStatus(
                    *name, "text-classification", "ready", ("champion",), "Head", "float32", "cpu", 9, baseline
                )
                for name in names
            ),
            {"model": True},
            True,
            0.1,
        )
        exposition, times, text = Exposition(Path(folder)), [], b""
        for _ in range(SCRAPES):
            began = time.perf_counter()
            text = exposition.render(status)
            times.append(time.perf_counter() - began)
        for found in processes:
            found.store.close()
    return sorted(times)[SCRAPES // 2], len(text)


def _count_everything(found: Instruments, version: tuple[str, str, str]) -> None:
    more: dict[str, list[tuple[str, ...]]] = {
        "request_duration_seconds": [("huggingface", status) for status in ("200", "422", "429", "503")],
        "stage_duration_seconds": [(stage,) for stage in ("encode", "queue", "forward", "decode")],
        "rejected_total": [(reason,) for reason in ("unprocessable", "queue_full", "not_ready")],
        "predictions_total": [(f"label {number}",) for number in range(10)],
        "tokens_total": [("real",), ("padding",)],
        "engine_memory_bytes": [("host",), ("device",)],
    }
    for name, metric in METRICS.items():
        if metric.kind != "snapshot" and "version" in metric.labels:
            for labels in more.get(name, [()]):
                child = getattr(found, name).labels(*version, *labels)
                child.observe(1.0) if metric.kind == "histogram" else child.inc()
