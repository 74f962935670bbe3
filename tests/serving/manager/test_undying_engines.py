"""Engines that no signal ends do not hold up the manager: other models load, swap and serve meanwhile."""

import threading
from collections.abc import Iterator

import pytest

from registry.references import Reference
from serving.manager import engine_process
from serving.manager.manager import Manager
from serving.wire.heartbeat import heartbeat_path
from tests.serving.manager.world import FakeProcess, Server
from tests.waiting import WAIT_SECONDS

MODELS = (Reference("m", alias="champion"), Reference("m", alias="canary"))


class Undying(FakeProcess):
    """A process that waits in the kernel for a device that never answers."""

    def kill(self) -> None:
        """Have no effect."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Never return."""
        threading.Event().wait()
        raise AssertionError


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(MODELS, keep_previous=0)
    server.world.targets |= {"champion": "1", "canary": "2"}
    server.settle()
    yield server
    server.close()


def make_undying(server: Server, version: str) -> None:
    for process in server.world.running():
        if process.order.version == version:
            process.__class__ = Undying


def in_time(server: Server, seconds: float = 1.1) -> None:
    """A step of the manager; fails where it waits."""
    stepped = threading.Thread(target=server.step, args=(seconds,), daemon=True)
    stepped.start()
    stepped.join(WAIT_SECONDS)
    assert not stepped.is_alive(), "the manager's loop waits"


def test_a_version_that_fails_while_its_engine_cannot_be_killed_stalls_nothing(server: Server) -> None:
    manager: Manager = server.manager
    make_undying(server, "2")
    held = manager._versions["m", "2"]
    process = next(each for each in server.world.running() if each.order.version == "2")
    beats = heartbeat_path(process.order.address, process.pid)
    beats.touch()
    held.fail("it crashed too often", server.world.now)
    in_time(server)
    assert server.states() == {"1": "ready", "2": "failed"}
    entry = server.table().models["m"].versions["2"]
    assert entry.engines == (), "nobody sends it rows any more"
    assert beats.exists(), "fronts read which rows it was computing"
    process.__class__ = FakeProcess
    process.kill()
    in_time(server)
    assert not beats.exists()
    server.move("champion", "3")
    assert server.serves("champion") == "3"


def test_a_version_whose_engine_cannot_be_killed_leaves_all_the_same(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "KILL_SECONDS", -1.0)
    make_undying(server, "2")
    server.world.targets["canary"] = "1"
    for _ in range(3):
        in_time(server)
    in_time(server, server.settings.timeout_seconds + 10)
    in_time(server)
    assert server.states() == {"1": "ready"}
    server.move("canary", "2")
    assert server.serves("canary") == "2", "it can be loaded again"
