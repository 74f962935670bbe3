"""Benchmark: 50 models of which about 8 fit into the memory that engines may take, beside a server in which all fit.

Clients ask for models by Zipf's law, one text after the other. A hit is a request whose model is loaded when it comes.
All models are one artifact under different names, so that their engines are alike.
"""

import json
import random
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.faults import wait_for
from bench.headwaiter_server import CLI, environment_of, log_copies
from bench.models import encoder_folder, tiny_classifier
from bench.processes import free_port, serving
from bench.report import table
from bench.texts import SHORT, make_texts, read_words
from serving.manager.memory_reading import MemoryReader

MODELS, FITTING = 50, 8
QUICK_MODELS, QUICK_FITTING = 12, 3
CLIENTS = 8
TIMEOUT_SECONDS = 300.0
"""Of a request: on a busy machine many wait for a load, and none may fail."""
WATCH_SECONDS = 0.05


@dataclass
class Result:
    """What the clients of one server saw. answers: status and seconds of each. resident: versions loaded at the start.

    peak_bytes: what its engines took at most. taken_bytes: what counted as taken in the end. limit_bytes: what they may
    take. cold: requests that waited for a load.
    """

    answers: list[tuple[int, float]] = field(default_factory=list)
    resident: int = 0
    peak_bytes: int = 0
    taken_bytes: int = 0
    limit_bytes: int = 0
    cold: int = 0
    loads: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        found = sorted(seconds for _, seconds in self.answers)
        return 1e3 * found[min(len(found) - 1, int(share * len(found)))] if found else 0.0


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each server; below 5 there are fewer models."""
    models, fitting = (MODELS, FITTING) if seconds >= 5 else (QUICK_MODELS, QUICK_FITTING)
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder)
        names = log_copies(home, tiny_classifier(), models)
        keep_graph(home, names[0])
        full = measure(home, names, texts, seconds, 0)
        few = measure(home, names, texts, seconds, fitting * full.taken_bytes // models)
    rows = [
        [
            "all fit" if result is full else f"{fitting} fit",
            f"{result.resident}",
            str(len(result.answers)),
            str(sum(status != 200 for status, _ in result.answers)),
            f"{1 - result.cold / max(1, len(result.answers)):.3f}",
            str(result.loads),
            f"{result.percentile(0.5):.1f}",
            f"{result.percentile(0.99):.1f}",
            f"{result.peak_bytes / 2**20:,.0f}",
            f"{result.limit_bytes / 2**20:,.0f}",
        ]
        for result in (full, few)
    ]
    header = [
        "server",
        "loaded",
        "requests",
        "failed",
        "hit ratio",
        "loads",
        "p50 ms",
        "p99 ms",
        "most MiB",
        "bound MiB",
    ]
    return "\n".join(
        [
            f"## Residency: {models} models of one layer, of which {fitting} fit",
            "",
            f"{CLIENTS} clients choose models by Zipf's law, {seconds:.0f} s each.",
            "",
            table(header, rows),
            "",
            f"The engines took at most {few.peak_bytes / max(1, few.limit_bytes):.0%} of what they may (bound: 100%).",
        ]
    )


def keep_graph(home: Path, name: str) -> None:
    """Serve one of the models until its graph is kept, so that every engine that is measured loads it."""
    port = free_port()
    ready = f"http://127.0.0.1:{port}/readyz"
    command = [CLI, "serve", name, "--port", str(port)]
    with serving(command, environment_of(home), ready, home / "serve.log"):
        wait_for(lambda: any(home.glob("cache/*/graphs/*.json")), "the graph is kept")


def measure(home: Path, names: Sequence[str], texts: Sequence[str], seconds: float, bound_bytes: int) -> Result:
    """Serve the models, with a bound or without (0), and ask for them."""
    result = Result()
    port = free_port()
    environment = environment_of(home) | {
        "HEADWAITER_MEMORY_BYTES": str(bound_bytes or 2**40),
        "HEADWAITER_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        "HEADWAITER_POLL_SECONDS": "60",  # no alias moves
    }
    ready = f"http://127.0.0.1:{port}/readyz"
    command = [CLI, "serve", *names, "--port", str(port)]
    with serving(command, environment, ready, home / "serve.log", wait_seconds=1800), watching(home, result):
        states = Counter(model["versions"][model["live"]]["state"] for model in ask(port, "/models")["models"])
        result.resident = states["ready"]
        before = count(port, "cold_requests_total"), count(port, "loads_on_demand_total")
        over = time.monotonic() + seconds
        clients = [
            threading.Thread(target=ask_on, args=(port, names, texts, over, seed, result)) for seed in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        result.cold = count(port, "cold_requests_total") - before[0]
        result.loads = count(port, "loads_on_demand_total") - before[1]
        memory = ask(port, "/models")["engine_memory"]
        result.taken_bytes, result.limit_bytes = memory["taken_bytes"], memory["limit_bytes"]
    return result


def ask_on(port: int, names: Sequence[str], texts: Sequence[str], over: float, seed: int, result: Result) -> None:
    """One client: ask for models by Zipf's law until the time is over."""
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    while time.monotonic() < over:
        (name,) = chance.choices(names, weights)
        body = json.dumps({"inputs": chance.choice(texts)})
        began = time.perf_counter()
        connection.request("POST", f"/models/{name}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        result.answers.append((answer.status, time.perf_counter() - began))
    connection.close()


@contextmanager
def watching(home: Path, result: Result) -> Iterator[None]:
    """Note the most memory of their own that the engines take together, those that load included."""
    over = threading.Event()
    readers: dict[int, MemoryReader] = {}

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            taken = sum(readers.setdefault(pid, MemoryReader()).read(pid).own for pid in engines_of(home))
            result.peak_bytes = max(result.peak_bytes, taken)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def engines_of(home: Path) -> list[int]:
    """The process ids of the engines, by their reports in the run folder."""
    found = []
    for path in (home / "run").glob("*/engines/*.json"):
        try:
            if path.name != "template.json" and path.with_suffix(".order").exists():
                found.append(int(json.loads(path.read_bytes())["pid"]))
        except (OSError, ValueError, KeyError):  # it ended meanwhile
            continue
    return found


def ask(port: int, path: str) -> dict[str, Any]:
    """The JSON at a path."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def count(port: int, name: str) -> int:
    """The sum of a counter's series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(f"headwaiter_{name}{{"))
