import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.server import Server, run_cli
from tests.small_models import build_model

LOGGED = (
    # name, kind, task, further options of `headwaiter log`
    ("sentiment", "single", "text-classification", ("--dtype", "float32")),
    ("sentiment-bf16", "single", "text-classification", ("--dtype", "bfloat16")),
    ("topics", "multi", "text-classification", ("--dtype", "float32")),
    ("stars", "regression", "text-classification", ("--dtype", "float32")),
    ("names", "tokens", "token-classification", ("--dtype", "float32")),
    ("embedder", "base", "feature-extraction", ("--dtype", "float32", "--default", "pooling=mean")),
)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """A registry with one live version of several models, made by the command line."""
    home = tmp_path_factory.mktemp("home")
    for name, kind, task, options in LOGGED:
        done = run_cli(home, "log", str(models[kind]), "--task", task, "--name", name, *options)
        assert done.stdout.strip() == "1", done
        run_cli(home, "promote", name, "1", "--why", "the first one")
    return home


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    """One server with all of them and two front workers."""
    with Server(home, tuple(name for name, *_ in LOGGED), options=("--workers", "2")) as running:
        yield running


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three classifiers that differ in their weights."""
    root = tmp_path_factory.mktemp("seeds")
    return [build_model(root / str(seed), "single", seed) for seed in range(3)]


@pytest.fixture
def small_home(tmp_path: Path, seeds: list[Path]) -> Path:
    """A registry of the test's own: three versions of one model, `m`, the first one live."""
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path)})
    for folder in seeds:
        log_model(folder, task="text-classification", name="m", settings=settings)
    Versions(settings).promote("m", "1", why="start")
    return tmp_path


def ask_together(server: Server, requests: list[tuple[str, Any]], connections: int = 32) -> list[httpx.Response]:
    """The responses, in order, to (model, body) sent over `connections` connections at once."""

    async def run() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120.0) as client:
            return await asyncio.gather(*(client.post(f"/models/{model}", json=body) for model, body in requests))

    return asyncio.run(run())
