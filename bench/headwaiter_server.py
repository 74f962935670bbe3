"""Headwaiter as a user runs it: a model is logged, promoted and served through the command line, in a fresh home.

The user's own `HEADWAITER_*` variables hold (all but the home and the list of models), so that
`HEADWAITER_WORKERS=2 python -m bench` measures two fronts.
"""

import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.processes import BenchError, Server, free_port, run_module, serving
from registry.settings import DEFAULT_ALIAS, RegistrySettings
from registry.tracking import connect

MODEL = "bench"
GENERATOR = "generator"
CLI = "serving.commands.main"


@dataclass(frozen=True)
class Engine:
    """The dtype and the device that run the model, by torch's names."""

    dtype: str
    device: str


@contextlib.contextmanager
def headwaiter(
    folder: Path,
    task: str = "text-classification",
    *,
    versions: int = 1,
    retrained: Sequence[Path] = (),
    home: Path | None = None,
    generator: Path | None = None,
    python: str = sys.executable,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[Server, Engine]]:
    """Serve the checkpoint in `folder` while the block runs. Raises BenchError where a command fails.

    versions: how often it is logged; the first one is live. retrained: checkpoints of further versions.
    home: a folder of the caller's; default: one of its own.
    generator: a checkpoint that is served beside it as `GENERATOR`, for text-generation.
    python: the program that runs the server's modules. settings: variables of the server besides.
    """
    with contextlib.ExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwaiter-bench-")))
        environment = environment_of(home) | dict(settings)
        log_versions(home, MODEL, task, [*[folder] * versions, *retrained])
        names = [MODEL]
        if generator is not None:
            log_versions(home, GENERATOR, "text-generation", [generator])
            names.append(GENERATOR)
        port = free_port()
        root = f"http://127.0.0.1:{port}"
        command = [CLI, "serve", *names, "--port", str(port)]
        pid = stack.enter_context(serving(command, environment, f"{root}/readyz", home / "serve.log", python=python))
        url = f"{root}/models/{MODEL}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            engine = read_engine(json.load(answer))
        yield Server("Headwaiter", url, pid=pid), engine


def log_versions(home: Path, name: str, task: str, folders: Sequence[Path]) -> None:
    """Log a version of each checkpoint to the registry in `home`; the first one is live. Raises BenchError."""
    environment = environment_of(home)
    for folder in folders:
        run_module([CLI, "log", str(folder), "--task", task, "--name", name], environment)
    run_module([CLI, "promote", name, "1", "--why", "bench"], environment)


def log_copies(home: Path, folder: Path, count: int) -> list[str]:
    """Log a classifier's checkpoint, and register the artifact under as many names, each with a live version."""
    log_versions(home, MODEL, "text-classification", [folder])
    import mlflow  # seconds, which other benchmarks need not wait for

    registry = f"sqlite:///{home / 'mlflow.db'}"
    mlflow.set_tracking_uri(registry)  # MLflow's store looks there for what a version is made of
    client = connect(RegistrySettings(home, registry))
    logged = client.get_model_version(MODEL, "1")
    names = [f"{MODEL}-{number:02}" for number in range(count)]
    for name in names:
        client.create_registered_model(name)
        client.create_model_version(name, logged.source, tags=logged.tags)
        client.set_registered_model_alias(name, DEFAULT_ALIAS, "1")
    return names


def read_engine(model: dict[str, Any]) -> Engine:
    """The engine of the live version in the answer of `GET /models/{name}`; this function alone knows its shape."""
    try:
        first = model["versions"][model["live"]]["engines"][0]
        return Engine(dtype=first["dtype"], device=first["device"])
    except (KeyError, IndexError, TypeError) as error:
        raise BenchError(f"GET /models/{MODEL} does not say which engine is live: {model}") from error


def environment_of(home: Path) -> dict[str, str]:
    """The variables of a Headwaiter whose data is in `home` alone."""
    environment = dict(os.environ)
    of_other_servers = (
        "HEADWAITER_MODELS",
        "HEADWAITER_KEYS_FILE",
        "HEADWAITER_TLS_CERT",
        "HEADWAITER_ADMIN_PORT",
        "HEADWAITER_GRPC_PORT",
    )
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", *of_other_servers):
        environment.pop(name, None)
    own = {
        "HEADWAITER_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    return environment | own
