"""Benchmark: engines are killed (kill -9) one after another while 64 connections ask; every request is answered.

Each model has one engine. All models are one artifact under different names.
"""

import json
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from bench.faults import wait_for
from bench.headwaiter_server import CLI, environment_of, log_copies
from bench.ledger import Ledger, Page
from bench.models import minilm_classifier
from bench.processes import BenchError, free_port, serving
from bench.report import table
from serving.manager.policy import CRASH_LIMIT

CONNECTIONS = 64
MODELS, KILLS = 10, 20
QUICK_MODELS, QUICK_KILLS = 3, 3
SLOWEST_SECONDS = 4.0
"""What the slowest answer may take."""


@dataclass
class Result:
    """What became of the requests, and seconds from each kill until its model has another engine."""

    page: Page
    replaced: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were not answered."""
        return self.page.requests - self.page.answered


def kill_engines(port: int, names: Sequence[str], kills: int, connections: int = CONNECTIONS, seed: int = 0) -> Result:
    """Ask these models of a server, and kill engines of them at random, each after the one before was replaced.

    Blocks. Raises BenchError where one is not replaced, and ValueError for more kills than engines may crash in a row.
    """
    left = Counter(dict.fromkeys(names, CRASH_LIMIT - 1))  # with one more its version would be given up
    if kills > left.total():
        raise ValueError(f"{len(names)} models allow {left.total()} kills")
    chance = random.Random(seed)
    with Ledger(port, *(f"/models/{name}" for name in names), connections=connections) as ledger:
        result = Result(ledger.pages.setdefault(ledger.phase, Page()))
        wait_for(lambda: result.page.answered >= connections, "requests are answered")
        for _ in range(kills):
            name = chance.choice(sorted(left.elements()))
            left[name] -= 1
            before = wait_for(partial(engine_of, port, name), f"{name} has an engine")
            began = time.monotonic()
            psutil.Process(before).kill()
            wait_for(partial(has_other_engine, port, name, before), f"{name} has another engine")
            result.replaced.append(time.monotonic() - began)
    return result


def has_other_engine(port: int, name: str, pid: int) -> bool:
    """Whether an engine answers for the model's live version that is another process."""
    return engine_of(port, name) not in (0, pid)


def engine_of(port: int, name: str) -> int:
    """The process id of the engine that answers for a model's live version, 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/models/{name}", timeout=60) as answer:
        described = json.load(answer)
    engines = described["versions"].get(described["live"], {}).get("engines") or [{"pid": 0}]
    return int(engines[0]["pid"])


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 there are few models and kills. Raises BenchError for a failure."""
    models, kills = (MODELS, KILLS) if seconds >= 5 else (QUICK_MODELS, QUICK_KILLS)
    with TemporaryDirectory(prefix="hw-") as folder, ExitStack() as stack:  # sockets need a short path
        home = Path(folder)
        names = log_copies(home, minilm_classifier(), models)
        port = free_port()
        command = [CLI, "serve", *names, "--port", str(port)]
        ready = f"http://127.0.0.1:{port}/readyz"
        stack.enter_context(serving(command, environment_of(home), ready, home / "serve.log", wait_seconds=600))
        result = kill_engines(port, names, kills)
    if result.failed:
        refused = [f"{status}: {count}" for status, count in sorted(result.page.refused.items())]
        raise BenchError("\n".join([f"{result.failed} requests failed:", *refused, *result.page.faults[:20]]))
    rows = [
        ["kills", str(len(result.replaced))],
        ["requests", str(result.page.requests)],
        ["failed", f"{result.failed} (bound: 0)"],
        ["slowest answer", f"{result.page.slowest_seconds:.1f} s (bound: {SLOWEST_SECONDS:g})"],
        ["an engine is replaced after", f"{median(result.replaced):.1f} s, at most {max(result.replaced):.1f} s"],
    ]
    return "\n".join(
        [
            f"## Kills: {models} MiniLM classifiers with an engine each, {CONNECTIONS} connections",
            "",
            table(["what", "measured"], rows),
        ]
    )
