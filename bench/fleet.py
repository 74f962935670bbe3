"""Benchmark: what a fleet's polls cost the registry. The pollers of 50 servers ask a real MLflow server on SQLite.

They are the manager's own, `RegistryWatch` and `RolloutKeeper`, without engines. Requests are counted in the MLflow
server's access log, processor time in its processes. docs/fleet.md has the formula by which both grow.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.headwaiter_server import environment_of
from bench.models import tiny_classifier
from bench.processes import free_port, serving
from bench.report import table
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.kubernetes.installation import poll_seconds
from serving.manager.registry_watch import RegistryWatch
from serving.manager.rollout.keeper import RolloutKeeper
from serving.runtime.backoff import SPREAD
from serving.settings import ServingSettings

POLLERS = 50
POLL_SECONDS = 5.0
MEAN_PAUSE = 1 - SPREAD / 2
"""Of two polls of a server, in poll intervals."""
MODELS = (1, 10)
REPLICAS = 1000
STEP_SECONDS = 0.02
SETTLING_POLLS = 6
"""Polls before anything is counted: the first ones ask for each model, and rollouts are read at each fifth."""
HEADER = (
    "models",
    "requests a poll",
    "MLflow's ms a request",
    f"poll interval of {REPLICAS:,}, s",
    f"requests/s of {REPLICAS:,}",
    "MLflow's cores",
)


@dataclass(frozen=True)
class Registry:
    """A running MLflow server. pid: its first process. log: has a line for each request."""

    url: str
    pid: int
    log: Path

    def requests(self) -> int:
        """The number of requests that it has answered."""
        return self.log.read_text(errors="replace").count("/api/2.0/mlflow/")

    def processor_seconds(self) -> float:
        """Of all its processes."""
        first = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time for each number of models, at least two reads of rollouts."""
    window = max(seconds, 10 * POLL_SECONDS)
    logging.getLogger("headwaiter").setLevel(logging.ERROR)  # all begin at once, which is slow, and said by each
    rows = []
    with TemporaryDirectory(prefix="headwaiter-bench-") as name:
        folder = Path(name)
        with _mlflow(folder) as registry:
            names = _log(folder, registry)
            for count in MODELS:
                per_poll, request_seconds = _poll(registry, folder, names[:count], window)
                interval = poll_seconds(REPLICAS, count)
                rate = REPLICAS * per_poll / (MEAN_PAUSE * interval)
                cells = (str(count), f"{per_poll:.2f}", f"{1e3 * request_seconds:.1f}", f"{interval:g}", f"{rate:.0f}")
                rows.append([*cells, f"{rate * request_seconds:.2f}"])
    return "\n".join([f"## A fleet: {POLLERS} pollers of an MLflow server on SQLite", "", table(HEADER, rows)])


@contextmanager
def _mlflow(folder: Path) -> Iterator[Registry]:
    """A server of the registry in `folder`."""
    port, log = free_port(), folder / "mlflow.log"
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}"
    with serving(command, environment_of(folder) | off, f"{url}/health", log) as pid:
        yield Registry(url, pid, log)


def _log(folder: Path, registry: Registry) -> list[str]:
    """The names of as many models as are followed at most, each with a live version."""
    settings = RegistrySettings(folder / "operator", registry.url)
    names = [f"m{number}" for number in range(max(MODELS))]
    for name in names:
        log_model(tiny_classifier(), task="text-classification", name=name, settings=settings)
        Versions(settings).promote(name, "1", why="bench")
    return names


def _poll(registry: Registry, folder: Path, names: list[str], seconds: float) -> tuple[float, float]:
    """Let POLLERS servers follow the models: requests a poll, and processor seconds of MLflow's a request."""
    references = tuple(Reference(name, alias="champion") for name in names)
    wake, servers = threading.Event().set, []
    for number in range(POLLERS):
        home = folder / f"server-{len(names)}-{number}"
        home.mkdir()
        own = RegistrySettings(home, registry.url)
        settings = ServingSettings(own, references, home, poll_seconds=POLL_SECONDS)
        servers.append((RegistryWatch(settings, wake), RolloutKeeper(settings, wake)))

    def follow(for_seconds: float) -> None:
        until = time.monotonic() + for_seconds
        while (now := time.monotonic()) < until:
            for watch, keeper in servers:
                watch.step(now)
                keeper.step(now, names, {})
            time.sleep(STEP_SECONDS)

    while not all(watch.view.is_known for watch, _ in servers):
        follow(POLL_SECONDS)
    follow(SETTLING_POLLS * POLL_SECONDS)
    began, before, used = time.monotonic(), registry.requests(), registry.processor_seconds()
    follow(seconds)
    requests, used = registry.requests() - before, registry.processor_seconds() - used
    polls = POLLERS * (time.monotonic() - began) / (MEAN_PAUSE * POLL_SECONDS)
    for watch, keeper in servers:
        watch.close()
        keeper.close()
    return requests / polls, used / max(1, requests)
