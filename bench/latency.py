"""Benchmark (e): what one request waits: over one connection, beside tokenizing and a bare forward pass in one process;
and when requests come at random moments, half as many as the server can answer.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.headwaiter_server import headwaiter
from bench.load import percentile
from bench.models import encoder_folder, minilm_classifier
from bench.processes import run_module
from bench.report import errors, rate, table
from bench.results import run_load
from bench.texts import SHORT, describe_lengths, make_texts, read_words

CAPACITY_CONNECTIONS = 64
OPEN_CONNECTIONS = 256


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    folder = minilm_classifier()
    with headwaiter(folder) as (server, engine):
        before = _bare(folder, texts, engine.dtype, seconds / 2)
        alone = run_load(server, texts, 1, seconds)
        after = _bare(folder, texts, engine.dtype, seconds / 2)
        capacity = run_load(server, texts, CAPACITY_CONNECTIONS, seconds).requests_per_second
        half = run_load(server, texts, OPEN_CONNECTIONS, seconds, per_second=capacity / 2)
    bare = sorted(before + after)
    p50 = percentile(bare, 0.5)
    rows = [
        ["tokenize and bare forward pass", "", f"{p50:.2f}", f"{percentile(bare, 0.99):.2f}", "", ""],
        [
            "one connection",
            rate(alone.requests_per_second),
            f"{alone.p50_ms:.2f}",
            f"{alone.p99_ms:.2f}",
            f"p50 {alone.p50_ms - p50:+.2f} ms (bound: +1), p99 {alone.p99_ms / alone.p50_ms:.1f} × p50 (bound: 2)",
            errors([alone]),
        ],
        [
            "requests at random, half of capacity",
            rate(half.requests_per_second),
            f"{half.p50_ms:.2f}",
            f"{half.p99_ms:.2f}",
            f"p99 {half.p99_ms / half.p50_ms:.1f} × p50 (bound: 4)",
            errors([half]),
        ],
    ]
    header = ["MiniLM, one text", "requests/s", "p50 ms", "p99 ms", "", "errors"]
    return "\n".join(
        [
            f"## Latency: MiniLM sequence classification, {engine.dtype} on {engine.device}",
            "",
            f"Short texts ({describe_lengths(SHORT)}); capacity: {rate(capacity)} requests/s.",
            "",
            table(header, rows),
        ]
    )


def _bare(folder: Path, texts: Sequence[str], dtype: str, seconds: float) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as scratch:
        lines = Path(scratch) / "texts.txt"
        lines.write_text("\n".join(texts), encoding="utf-8")
        arguments = ["bench.bare_classifier", "--model", str(folder), "--texts", str(lines), "--dtype", dtype]
        printed = run_module([*arguments, "--seconds", str(seconds)], os.environ)
        latencies: list[float] = json.loads(printed.splitlines()[-1])
        return latencies
