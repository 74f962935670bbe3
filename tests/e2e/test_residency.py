"""More models than fit into memory: all are served, and the engines never take more than they may."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.manager.memory_reading import MemoryReader
from tests.e2e.server import Server, invoke, wait_until
from tests.waiting import WAIT_SECONDS

MODELS = tuple("abcdefghijklmnop")
FITTING = 2.5
"""Engines like the first one that fit into memory. That one takes 140 to 350 MiB, depending on the batches that pay on
a machine; later ones, which need not measure that, take 70."""
REQUESTS, CLIENTS = 48, 6
ASKED = "the same text"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> Path:
    """A registry with a live version of each of MODELS."""
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    versions = Versions(settings)
    for number, name in enumerate(MODELS):
        log_model(seeds[number % len(seeds)], task="text-classification", name=name, settings=settings)
        versions.promote(name, "1", why="start")
    return home


@pytest.fixture(scope="module")
def memory_bytes(home: Path) -> int:
    """A bound for all engines, of which some fit."""
    with Server(home, MODELS[:1]) as server:
        return round(FITTING * server.describe(MODELS[0])["versions"]["1"]["memory_bytes"])


@contextmanager
def watching(server: Server) -> Iterator[list[int]]:
    """The memory that its engines take together, as often as it can be read.

    Of each engine what it took both before and after one moment: one that leaves while others are read, and one that
    takes its place, were not there together.
    """
    sums: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            engines = server.processes("serving.engine")
            before, after = ([MemoryReader().read(engine.pid).own for engine in engines] for _ in range(2))
            sums.append(sum(map(min, before, after)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sums
    finally:
        over.set()
        thread.join()


def states(server: Server) -> dict[str, str]:
    """The state of each model's version."""
    return {model["name"]: model["versions"]["1"]["state"] for model in server.http.get("/models").json()["models"]}


@pytest.mark.long
def test_more_models_than_fit_are_all_served_within_the_bound(home: Path, memory_bytes: int) -> None:
    environ = {"HEADWAITER_MEMORY_BYTES": str(memory_bytes), "HEADWAITER_TIMEOUT_SECONDS": str(WAIT_SECONDS)}
    with Server(home, ("!a", *MODELS[1:]), environ) as server:
        assert all(server.live(name) == "1" for name in MODELS)
        assert set(states(server).values()) == {"ready", "unloaded"}
        assert "ready, not loaded" in invoke(home, "status", server.url).output
        assert server.http.get(f"/v2/models/{MODELS[-1]}/ready").json() == {"name": MODELS[-1], "ready": True}
        pinned = server.describe("a")["versions"]["1"]["engines"][0]["pid"]
        chosen = random.Random(0).choices(MODELS, [1 / rank for rank in range(1, len(MODELS) + 1)], k=REQUESTS)

        def ask(name: str) -> httpx.Response:
            return httpx.post(f"{server.url}/models/{name}", json={"inputs": ASKED}, timeout=WAIT_SECONDS)

        with watching(server) as sums, ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(ask, (*chosen, *MODELS)))
        assert [answer.text for answer in answers if answer.status_code != 200] == [], server.text()
        assert {answer.headers["x-model-version"] for answer in answers} == {"1"}
        assert 0 < max(sums) <= memory_bytes
        assert server.sample("loads_on_demand_total") >= 1
        assert server.sample("unloads_total", reason="memory") >= 1
        assert server.sample("engine_restarts_total") == 0
        assert server.describe("a")["versions"]["1"]["engines"][0]["pid"] == pinned
        memory = server.http.get("/models").json()["engine_memory"]
        assert memory["limit_bytes"] == memory_bytes


@pytest.mark.long
def test_a_deadline_that_is_too_short_is_told_when_to_come_back_and_idle_versions_leave(home: Path) -> None:
    with Server(home, MODELS[:2], options=("--idle-unload", "1")) as server:
        wait_until(lambda: set(states(server).values()) == {"unloaded"}, "both have left")
        assert server.is_ready()
        assert server.http.get("/livez").status_code == 200
        head = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
        soon = server.http.post("/v2/models/a/infer", json={**head, "parameters": {"timeout": 1000}})
        assert soon.status_code == 503, soon.text
        assert float(soon.headers["retry-after"]) >= 1
        assert server.ask("b", ASKED)
        wait_until(lambda: server.ask("a", ASKED), "it was loaded all the same")
        assert server.sample("unloads_total", reason="idle") >= 2
