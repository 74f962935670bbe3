"""Benchmark: processes are killed and stopped, files are damaged, disk, descriptors and the registry run out, while 32
connections ask one model. A ledger holds every request; nothing that was accepted may be without an answer.

After each fault the alias moves: the fault is over once every front answers with the other version.
"""

import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.faults import FAULTS, Shop
from bench.gate import Gate
from bench.headwaiter_server import MODEL, environment_of, log_versions
from bench.ledger import Ledger, Page
from bench.models import minilm_classifier
from bench.processes import BenchError, free_port, serving
from bench.report import table

CONNECTIONS, FRONTS = 32, 2
ROUNDS = 20
PAUSE_SECONDS = 5.0
"""How long something is away or stands still."""
SMALL_DISK_BYTES = 1 << 30
"""A home on a disk of its own that is at most this large can be filled."""


@dataclass
class Result:
    """What the ledger says. pages: by fault. recovered: seconds from the end of each fault until the alias' move was
    followed everywhere. skipped: faults that this home cannot have.
    """

    pages: dict[str, Page]
    recovered: dict[str, list[float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Everything that may not be."""
        return [f"{name}: {each}" for name, page in self.pages.items() for each in page.faults]


def break_everything(home: Path, model: str, rounds: int, pause_seconds: float = PAUSE_SECONDS) -> Result:
    """Serve `model` from `home`, an embedded registry with three versions of it, the first one live; break what there
    is, `rounds` times each. Blocks. Raises BenchError where the server does not recover.
    """
    port, behind, before = free_port(), free_port(), free_port()
    environment = environment_of(home) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HEADWAITER_POLL_SECONDS": "0.5",
        "HEADWAITER_RETRY_SECONDS": "0.5",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{before}",
    }
    database = f"sqlite:///{home / 'mlflow.db'}"
    mlflow = ["mlflow", "server", "--backend-store-uri", database, "--workers", "1", "--port", str(behind)]
    command = ["serving.commands.main", "serve", model, "--port", str(port), "--workers", str(FRONTS)]
    with ExitStack() as stack:
        gate = stack.enter_context(Gate(before, behind))
        stack.enter_context(serving(mlflow, environment, f"http://127.0.0.1:{behind}/health", home / "mlflow.log"))
        ready = f"http://127.0.0.1:{port}/readyz"
        pid = stack.enter_context(serving(command, environment, ready, home / "serve.log"))
        ledger = stack.enter_context(Ledger(port, f"/models/{model}", connections=CONNECTIONS))
        shop, result = Shop(home, model, port, pid, ledger, gate, pause_seconds), Result(ledger.pages)
        if not (os.path.ismount(home) and shutil.disk_usage(home).total <= SMALL_DISK_BYTES):
            result.skipped.append("disk full")
        for _ in range(rounds):
            for name in [name for name in FAULTS if name not in result.skipped]:
                print(name, file=sys.stderr, flush=True)  # it takes long
                ledger.phase = name
                FAULTS[name](shop)
                began = time.monotonic()
                shop.move()
                result.recovered.setdefault(name, []).append(time.monotonic() - began)
                ledger.doomed.clear()
        ledger.phase = "end"
    return result


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5, each fault comes once. Raises BenchError where an answer is owed."""
    rounds = ROUNDS if seconds >= 5 else 1
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder) / "h"
        log_versions(home, MODEL, "text-classification", make_versions(Path(folder)))
        result = break_everything(home, MODEL, rounds)
    if result.faults:
        raise BenchError("\n".join([f"{len(result.faults)} requests are without their answer:", *result.faults[:20]]))
    return "\n".join(
        [
            f"## Chaos: each fault {rounds} times, {CONNECTIONS} connections, {FRONTS} fronts, MiniLM classification",
            "",
            _table(result),
            "",
            "- Refused: status 429 or 503 with `Retry-After`, or 504 after the deadline.",
            "- Broken: requests that a front had when it was killed. No other process can answer them. They are "
            "counted with the fault in which they were sent, which may be the one before.",
            "- Without an answer: anything else. The run fails if there is one.",
            "- Slowest: until a request was answered. Requests of an engine that is replaced wait for the next one.",
            "- Recovered: seconds from the end of the fault until the alias' next move was followed by every front.",
            f"- Skipped: {', '.join(result.skipped) or 'nothing'}. Only a small disk can be filled.",
        ]
    )


def make_versions(folder: Path) -> list[Path]:
    """MiniLM classifiers in `folder` that differ in their heads, so that an answer shows which version gave it."""
    from safetensors.torch import load_file, save_file

    made = []
    for number, factor in enumerate((1.0, -1.0, 0.5)):
        made.append(Path(shutil.copytree(minilm_classifier(), folder / str(number))))
        weights = load_file(made[-1] / "model.safetensors")
        weights["classifier.weight"] *= factor
        save_file(weights, made[-1] / "model.safetensors", {"format": "pt"})
    return made


def _table(result: Result) -> str:
    rows = []
    for name, page in result.pages.items():
        seconds = result.recovered.get(name)
        worst = f"{max(seconds):.1f}" if seconds else "-"
        refused = ", ".join(f"{count} × {status}" for status, count in sorted(page.refused.items())) or "0"
        counts = [str(page.requests), str(page.answered), refused, str(page.broken), str(len(page.faults))]
        rows.append([name, *counts, f"{page.slowest_seconds:.1f}", worst])
    header = ["fault", "requests", "answered", "refused", "broken", "without an answer", "slowest s", "recovered s"]
    return table(header, rows)
