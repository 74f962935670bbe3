"""Benchmark (f): how soon there is an answer: from `headwaiter serve` to the first one, beside a bare script that
imports, loads and answers once; the time of `headwaiter --help`; and what a front keeps in memory.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

import psutil

from bench.headwaiter_server import MODEL, environment_of
from bench.models import minilm_classifier
from bench.processes import ROOT, BenchError, free_port, run_module, running
from bench.report import table

ROUNDS = 3
TEXT = "The parcel came two days late."
WAIT_SECONDS = 120
POLL_SECONDS = 0.01
FRONT = "--worker-id"
"""In the command line of BentoML's worker processes."""


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 there is only one round."""
    rounds = ROUNDS if seconds >= 5 else 1
    folder = minilm_classifier()
    with tempfile.TemporaryDirectory(prefix="hw-bench-") as name:
        home = Path(name)
        environment = environment_of(home)
        run_module(
            ["serving.commands.main", "log", str(folder), "--task", "text-classification", "--name", MODEL], environment
        )
        run_module(["serving.commands.main", "promote", MODEL, "1", "--why", "bench"], environment)
        bare: list[float] = []
        served: list[tuple[float, float]] = []
        for _ in range(rounds):
            bare.append(_bare_seconds(folder, home))
            served.append(_first_answer(environment, home))
        bare.append(_bare_seconds(folder, home))
        helped = [_help_seconds(environment) for _ in range(rounds)]
    first = median(each for each, _ in served)
    rows = [
        ["a bare script answers after", f"{median(bare):.1f} s"],
        ["headwaiter serve answers after", f"{first:.1f} s: {first / median(bare):.2f} × (bound: 1.6)"],
        ["headwaiter --help", f"{median(helped):.2f} s (bound: 0.3)"],
        ["memory of a front, resident", f"{median(size for _, size in served) / 2**20:.0f} MiB (bound: 150)"],
    ]
    return "\n".join(["## Start: MiniLM sequence classification", "", table(["what", "measured"], rows)])


def _bare_seconds(folder: Path, scratch: Path) -> float:
    lines = scratch / "text.txt"
    lines.write_text(TEXT, encoding="utf-8")
    began = time.perf_counter()
    run_module(["bench.bare_classifier", "--model", str(folder), "--texts", str(lines)], os.environ)
    return time.perf_counter() - began


def _first_answer(environment: dict[str, str], home: Path) -> tuple[float, float]:
    """Seconds until the first answer, and what the front has in memory then, in bytes."""
    port = free_port()
    body = json.dumps({"inputs": TEXT}).encode()
    url = f"http://127.0.0.1:{port}/models/{MODEL}"
    began = time.perf_counter()
    with running(
        ["serving.commands.main", "serve", MODEL, "--port", str(port)], environment, home / "serve.log"
    ) as process:
        while not _answers(url, body):
            if process.poll() is not None or time.perf_counter() - began > WAIT_SECONDS:
                raise BenchError(f"there was no answer:\n{(home / 'serve.log').read_text(errors='replace')[-3000:]}")
            time.sleep(POLL_SECONDS)
        took = time.perf_counter() - began
        return took, _front_bytes(psutil.Process(process.pid))


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _front_bytes(server: psutil.Process) -> float:
    """The largest of the processes that serve HTTP; the manager's is one of BentoML's workers, too."""
    sizes = []
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if FRONT in command and not any("manager" in part for part in command):
                sizes.append(process.memory_info().rss)
    return max(sizes, default=0)


def _help_seconds(environment: dict[str, str]) -> float:
    command = [str(Path(sys.executable).with_name("headwaiter")), "--help"]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
