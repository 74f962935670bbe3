"""Benchmark: rows/s of `headwaiter batch` as a share of the bare forward limit, with all texts known.

The command runs as a process of its own, whose start counts, beside a server of MiniLM that nobody else asks. The limit
is measured right before and right after it.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.headwaiter_server import CLI, MODEL, environment_of, headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.processes import Server, run_module
from bench.reference import Reference
from bench.report import rate, table
from bench.texts import MIXED, SHORT, describe_lengths, make_texts, read_words

WORTH = 3
"""The batch has as many rows as the limit computes in this many times the measured time: its start is a small part."""
HEADER = ["texts", "rows", "rows/s", "bare limit", "of the limit"]


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each limit."""
    words = read_words(encoder_folder() / "vocab.txt")
    folder = minilm_classifier()
    rows = []
    with headwaiter(folder) as (server, engine):
        for mix in (SHORT, MIXED):
            texts = make_texts(mix, words)
            limit = Reference.choose(folder, texts, engine, seconds)
            limit.measure(seconds)
            count = max(len(texts), int(limit.rates[-1] * WORTH * seconds))
            print(f"measuring a batch of {count:,} {mix.name} texts", file=sys.stderr)
            took = batch_seconds(server, [texts[index % len(texts)] for index in range(count)])
            limit.measure(seconds)
            mean = sum(limit.rates) / len(limit.rates)
            name = f"{mix.name} ({describe_lengths(mix)})"
            rows.append([name, f"{count:,}", rate(count / took), rate(mean), f"{count / took / mean:.0%}"])
    title = f"## Batch: a file of texts, MiniLM sequence classification, {engine.dtype} on {engine.device}"
    return "\n".join([title, "", table(HEADER, rows)])


def batch_seconds(server: Server, texts: Sequence[str]) -> float:
    """How long the command takes for a file of these texts, from its start to its end. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as name:
        source, target = Path(name) / "texts.jsonl", Path(name) / "answers.jsonl"
        source.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        root = server.url.removesuffix(f"/models/{MODEL}")
        began = time.perf_counter()
        run_module([CLI, "batch", MODEL, str(source), str(target), "--url", root], environment_of(Path(name)))
        return time.perf_counter() - began
