"""Several engines of one version on one device."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from registry.references import Reference
from serving.manager import engine_starter
from serving.manager.engine_starter import EngineStarter
from tests.serving.manager.world import FakeEngineProcess, Server


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server((Reference("m", alias="champion"),), 1, replicas=2)
    yield made
    made.close()


def engines(server: Server) -> int:
    """The engines of version 1 that take requests."""
    return len(server.table().models["m"].versions["1"].engines)


def test_a_version_answers_on_while_one_of_its_engines_is_replaced(server: Server) -> None:
    server.move("champion", "1")
    assert (engines(server), server.states()) == (2, {"1": "ready"})
    server.world.running()[0].kill()
    server.step()
    assert (engines(server), server.states()) == (1, {"1": "ready"})
    server.settle()
    assert (engines(server), server.states()) == (2, {"1": "ready"})


def test_the_next_manager_starts_the_replica_that_is_missing(server: Server) -> None:
    server.move("champion", "1")
    server.world.running()[0].kill()
    server.restart()
    server.settle()
    assert engines(server) == 2


def test_a_version_whose_replicas_do_not_all_fit_is_not_started(server: Server) -> None:
    server.move("champion", "1")
    server.world.memory_bytes = round(3.5 * 100 * 2**20)
    server.move("champion", "2")
    assert server.serves("champion") == "1"
    assert "needs about 200 MiB" in server.table().models["m"].versions["2"].error


@pytest.mark.parametrize(
    ("replicas", "threads", "cores", "expected"),
    [(1, 0, 4, 0), (2, 0, 4, 2), (3, 0, 4, 1), (8, 0, 4, 1), (2, 3, 4, 3)],
)
def test_replicas_share_the_cores(
    server: Server, monkeypatch: pytest.MonkeyPatch, replicas: int, threads: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(engine_starter, "usable_cores", lambda groups: (cores, "machine"))
    settings = msgspec.structs.replace(server.settings, replicas=replicas, threads=threads)
    (server.settings.run / "engines").mkdir(exist_ok=True)
    starter = EngineStarter(settings, FakeEngineProcess)
    started = starter.start(settings.engine_devices, "m", "1", Path("/"), "", low_priority=False)
    assert [engine.order.threads for engine in started] == [expected] * replicas
