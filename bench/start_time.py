"""Benchmark (f): how soon there is an answer: from `headwaiter serve` to the first one, beside a bare script that
imports, loads and answers once; the time of `headwaiter --help`; and where processor time and memory go.

A first start finds an empty cache; a later one finds what the engine before it has kept.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
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
ROLES = ("front", "manager", "template", "engine", "others")
"""The processes of a server; the others are BentoML's supervisor and what watches the load."""
MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What processes of one role have used: processor time, and memory in bytes."""

    cpu_seconds: float
    resident: int
    proportional: int
    private: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Start:
    """A start of a server: seconds until its first answer, and what its processes had used then."""

    seconds: float
    processes: dict[str, Usage]


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
        first: list[Start] = []
        later: list[Start] = []
        for _ in range(rounds):
            bare.append(_bare_seconds(folder, home))
            shutil.rmtree(home / "cache", ignore_errors=True)
            first.append(_start(environment, home))
            later.append(_start(environment, home))
        bare.append(_bare_seconds(folder, home))
        helped = [_help_seconds(environment) for _ in range(rounds)]
    script, front = median(bare), median(each.processes["front"].resident for each in later)
    rows = [
        ["a bare script answers after", f"{script:.1f} s"],
        *(
            [f"headwaiter serve answers after, {name}", f"{took:.1f} s: {took / script:.2f} × (bound: {bound})"]
            for name, bound, took in (
                ("the first time", 1.6, median(each.seconds for each in first)),
                ("later", 0.8, median(each.seconds for each in later)),
            )
        ),
        ["headwaiter --help", f"{median(helped):.2f} s (bound: 0.3)"],
        ["memory of a front, resident", f"{front / MIB:.0f} MiB (bound: 150)"],
        ["memory of the whole server, proportional, later", f"{_whole(later) / MIB:.0f} MiB (bound: 600)"],
    ]
    return "\n".join(
        [
            "## Start: MiniLM sequence classification",
            "",
            table(["what", "measured"], rows),
            "",
            "Processor time from the start to the first answer, and memory then: proportional (PSS) and private (USS).",
            "",
            _by_process(first, later),
        ]
    )


def _whole(starts: Sequence[Start]) -> float:
    """Proportional memory of all processes, in bytes."""
    return median(sum(each.proportional for each in start.processes.values()) for start in starts)


def _by_process(first: Sequence[Start], later: Sequence[Start]) -> str:
    header = ["process", "first: CPU s", "PSS MiB", "USS MiB", "later: CPU s", "PSS MiB", "USS MiB"]
    rows = []
    for role in ROLES:
        row = [role]
        for starts in (first, later):
            found = [start.processes[role] for start in starts if role in start.processes]
            if not found:
                row += ["-"] * 3
                continue
            row += [
                f"{median(each.cpu_seconds for each in found):.2f}",
                f"{median(each.proportional for each in found) / MIB:.0f}",
                f"{median(each.private for each in found) / MIB:.0f}",
            ]
        rows.append(row)
    return table(header, rows)


def _bare_seconds(folder: Path, scratch: Path) -> float:
    lines = scratch / "text.txt"
    lines.write_text(TEXT, encoding="utf-8")
    began = time.perf_counter()
    run_module(["bench.bare_classifier", "--model", str(folder), "--texts", str(lines)], os.environ)
    return time.perf_counter() - began


def _start(environment: dict[str, str], home: Path) -> Start:
    """Serve until the first answer, and on until the engine has kept its graph."""
    port = free_port()
    body = json.dumps({"inputs": TEXT}).encode()
    url = f"http://127.0.0.1:{port}/models/{MODEL}"
    began = time.perf_counter()
    with running(
        ["serving.commands.main", "serve", MODEL, "--port", str(port)], environment, home / "serve.log"
    ) as process:

        def wait(condition: Callable[[], bool], what: str) -> None:
            while not condition():
                if process.poll() is not None or time.perf_counter() - began > WAIT_SECONDS:
                    log = (home / "serve.log").read_text(errors="replace")
                    raise BenchError(f"there was no {what}:\n{log[-3000:]}")
                time.sleep(POLL_SECONDS)

        wait(lambda: _answers(url, body), "answer")
        took = time.perf_counter() - began
        processes = _measure(psutil.Process(process.pid))
        wait(lambda: any(home.glob("cache/*/graphs/*.json")), "graph that was kept")
        return Start(took, processes)


def _measure(server: psutil.Process) -> dict[str, Usage]:
    """What the server's processes have used, by role."""
    found: dict[str, Usage] = {}
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times, memory = process.cpu_times(), process.memory_full_info()
            usage = Usage(times.user + times.system, memory.rss, memory.pss, memory.uss)
            role = _role_of(process.cmdline())
            found[role] = found[role] + usage if role in found else usage
    return found


def _role_of(command: Sequence[str]) -> str:
    """What the process is for. The manager is one of BentoML's workers, too."""
    text = " ".join(command)
    for role, mark in (("template", "serving.engine.template"), ("engine", "serving.engine ")):
        if mark in text:
            return role
    if FRONT not in command:
        return "others"
    return "manager" if "manager" in text.lower() else "front"


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _help_seconds(environment: dict[str, str]) -> float:
    command = [str(Path(sys.executable).with_name("headwaiter")), "--help"]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
