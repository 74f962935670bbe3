"""Benchmark: processes are killed and stopped, files are damaged, disk, descriptors and the registry run out, while 32
connections ask one model. A ledger holds every request; nothing that was accepted may be without an answer.

After each fault the alias moves: the fault is over once every front answers with the other version.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
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
from bench.stepped_clock import SteppedClock

CONNECTIONS, FRONTS = 32, 2
ROUNDS = 20
PAUSE_SECONDS = 5.0
"""How long something is away or stands still."""
SMALL_DISK_BYTES = 1 << 30
"""A home on a disk of its own that is at most this large can be filled."""
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that say where artifacts are."""


@dataclass
class Result:
    """What the ledger says. pages: by fault. recovered: seconds from the end of each fault until the alias' move was
    followed everywhere. skipped: faults that this home cannot have. has_clock: whether the server has a clock of its
    own, which is set.
    """

    pages: dict[str, Page]
    recovered: dict[str, list[float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    has_clock: bool = False

    @property
    def faults(self) -> list[str]:
        """Everything that may not be."""
        return [f"{name}: {each}" for name, page in self.pages.items() for each in page.faults]


def break_everything(home: Path, model: str, rounds: int, pause_seconds: float = PAUSE_SECONDS) -> Result:
    """Serve `model` from `home`, an embedded registry with three versions of it, the first one live; break what there
    is, `rounds` times each. Blocks. Raises BenchError where the server does not recover.
    """
    port, behind, before, store = (free_port() for _ in range(4))
    address_over_http(home, store)
    environment = environment_of(home) | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HEADWAITER_POLL_SECONDS": "0.5",
        "HEADWAITER_RETRY_SECONDS": "0.5",
        "HEADWAITER_ARTIFACT_HOSTS": f"127.0.0.1:{store}",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{before}",
    }
    clock = SteppedClock.make(home)
    own = {**environment, **(clock.environment if clock is not None else {})}
    stores = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", f"{home}/artifacts"]
    mlflow = ["mlflow", "server", *stores, "--workers", "1", "--port", str(behind)]
    command = ["serving.commands.main", "serve", model, "--port", str(port), "--workers", str(FRONTS)]
    with ExitStack() as stack:
        gate, artifacts = (stack.enter_context(Gate(number, behind)) for number in (before, store))
        stack.enter_context(serving(mlflow, environment, f"http://127.0.0.1:{behind}/health", home / "mlflow.log"))
        ready = f"http://127.0.0.1:{port}/readyz"
        pid = stack.enter_context(serving(command, own, ready, home / "serve.log"))
        ledger = stack.enter_context(Ledger(port, f"/models/{model}", connections=CONNECTIONS))
        shop = Shop(home, model, port, pid, ledger, gate, artifacts, clock, pause_seconds)
        result = Result(ledger.pages, has_clock=clock is not None)
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


def address_over_http(home: Path, port: int) -> None:
    """The registry in `home` says that its artifacts are at MLflow's server behind this port, and not in a folder."""
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow-artifacts/artifacts"
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        for table, column in LOCATIONS:
            for prefix in (f"file://{home / 'artifacts'}", str(home / "artifacts")):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (prefix, address))
        database.commit()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """`folder` is a disk of its own, where this process may mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs"]
    mount = ["mount", *options, str(folder)]
    is_mounted = sys.platform == "linux" and not subprocess.run(mount, capture_output=True, check=False).returncode
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5, each fault comes once. Raises BenchError where an answer is owed."""
    rounds = ROUNDS if seconds >= 5 else 1
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder) / "h"
        with small_disk(home):
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
            "- Steps of the clock: all files of the home get the times of another day"
            + (
                ", and the server's clock is set a day ahead, a day back, and right again." if result.has_clock else "."
            ),
            f"- Skipped: {', '.join(result.skipped) or 'nothing'}. Only a small disk is filled, which root can mount.",
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
