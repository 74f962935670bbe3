"""Versions where memory is short: the real manager in a simulated world with memory for a given number of engines."""

from collections.abc import Callable, Iterator

import pytest

from registry.layout import MODEL_FOLDER
from registry.references import Reference
from serving.manager.memory_budget import RESERVE_BYTES
from tests.serving.manager.world import ENGINE_BYTES, Server

Start = Callable[..., Server]
DAY = 86_400.0


@pytest.fixture
def start() -> Iterator[Start]:
    """A server with room for `engines`, whose alias serves version 1."""
    servers: list[Server] = []

    def make(engines: float, keep_previous: int = 0, *, replace_live: bool = False) -> Server:
        server = Server((Reference("m", alias="champion"),), keep_previous, replace_live=replace_live)
        servers.append(server)
        server.world.memory_bytes = round(engines * ENGINE_BYTES) + RESERVE_BYTES
        server.move("champion", "1")
        assert server.serves("champion") == "1"
        return server

    yield make
    for server in servers:
        server.close()


def error(server: Server, version: str) -> str:
    return server.table().models["m"].versions[version].error


def started(server: Server, version: str) -> int:
    return sum(process.order.version == version for process in server.world.processes)


def begin(server: Server, version: str) -> None:
    """Move the alias, until an engine of the version loads."""
    server.world.targets["champion"] = version
    for _ in range(5):
        server.step(1.1)
    assert server.states()[version] == "loading"
    assert started(server, version) == 1


def test_a_version_that_does_not_fit_beside_the_live_one_is_not_started(start: Start) -> None:
    server = start(engines=1.5)
    server.move("champion", "2")
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready", "2": "failed"})
    assert started(server, "2") == 0
    for words in ("needs about 100 MiB", "50 MiB are free", "the limit is 214 MiB, set by the control group"):
        assert words in error(server, "2")
    assert "set HEADWAITER_REPLACE_LIVE=1" in error(server, "2")
    (swap,) = (swap for swap in server.table().models["m"].swaps if swap.outcome == "failure")
    assert "needs about 100 MiB" in swap.error


def test_to_replace_the_live_version_is_only_advised_where_it_helps(start: Start) -> None:
    server = start(engines=1.5)
    weights = server.home / "cache" / "2" / MODEL_FOLDER / "model.safetensors"
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(ENGINE_BYTES)
    server.move("champion", "2")
    assert "220 MiB of memory beside" in error(server, "2")
    assert "REPLACE_LIVE" not in error(server, "2")


def test_it_is_started_once_there_is_memory(start: Start) -> None:
    server = start(engines=1.5)
    server.move("champion", "2")
    server.world.memory_bytes *= 2
    server.settle(seconds=server.settings.retry_seconds)
    assert server.serves("champion") == "2"


def test_a_version_that_is_only_kept_warm_leaves_for_a_new_one(start: Start) -> None:
    server = start(engines=2.5, keep_previous=1)
    server.move("champion", "2")
    assert server.states() == {"1": "ready", "2": "ready"}
    server.move("champion", "3")
    assert (server.serves("champion"), server.states()) == ("3", {"2": "ready", "3": "ready"})


def test_nothing_that_is_live_leaves_unless_that_is_asked_for(start: Start) -> None:
    server = start(engines=1.5, keep_previous=1)
    server.world.targets["champion"] = "2"
    for _ in range(10):
        server.step(1.1)
        assert "1" in server.world.answering()
        server.world.let_engines_go_on()


def test_the_live_version_gives_its_place_where_that_is_asked_for(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    server.move("champion", "2")
    assert (server.serves("champion"), server.states()) == ("2", {"2": "ready"})


def test_a_version_that_got_the_live_ones_place_in_vain_gives_it_back(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    server.world.unloadable.add("2")
    server.move("champion", "2")
    server.settle()
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready", "2": "failed"})
    server.settle(seconds=DAY)
    assert started(server, "2") == 1, "to try again would stop the live one again"
    assert server.states()["1"] == "ready"


def test_a_version_that_the_kernel_kills_while_it_loads_is_given_up(start: Start) -> None:
    server = start(engines=3)
    begin(server, "2")
    server.world.run_out_of_memory("2")
    server.step()
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready", "2": "failed"})
    for words in ("signal 9", "oom_kill count is 1", "memory limit is 364 MiB"):
        assert words in error(server, "2")
    server.settle(seconds=DAY)
    assert started(server, "2") == 1
    server.move("champion", "1")
    server.move("champion", "2")  # somebody asks for it again
    assert server.serves("champion") == "2"


def test_a_version_that_ends_for_another_reason_is_tried_again(start: Start) -> None:
    server = start(engines=3)
    begin(server, "2")
    next(body for body in server.world.running() if body.order.version == "2").kill()
    server.step()
    assert "signal 9" in error(server, "2")
    server.settle(seconds=server.settings.retry_seconds)
    assert server.serves("champion") == "2"


def test_a_live_version_that_the_kernel_kills_does_not_come_back_beside_what_took_its_memory(start: Start) -> None:
    server = start(engines=4, keep_previous=1)
    server.move("champion", "2")
    begin(server, "3")
    server.world.run_out_of_memory("2")
    server.step()
    assert "memory ran out beside m/2" in error(server, "3")
    assert "oom_kill count is 1" in error(server, "2")
    server.settle()
    assert (server.serves("champion"), server.states()) == ("2", {"2": "ready", "3": "failed"})
    assert error(server, "2") == ""
    server.settle(seconds=DAY)
    assert started(server, "3") == 1


def replace_live(server: Server, version: str) -> None:
    """Move the alias, until the live version has left and an engine of this one loads in its place."""
    server.world.targets["champion"] = version
    for _ in range(4):
        server.step(1.1)
        for body in server.world.running():
            if body.asked_to_leave:
                body.returncode = 0
    assert server.states() == {version: "loading"}
    assert started(server, version) == 1


def test_a_version_that_takes_the_live_ones_place_starts_once_that_has_left(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    server.world.targets["champion"] = "2"
    for _ in range(5):
        server.step(1.1)
    assert server.states() == {"1": "draining", "2": "loading"}, "version 1 finishes what it has"
    assert started(server, "2") == 0
    server.settle()
    assert (server.serves("champion"), server.states()) == ("2", {"2": "ready"})


def test_a_live_version_that_has_left_comes_back_when_the_alias_does(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    replace_live(server, "2")
    server.move("champion", "1")
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready"})


def test_a_live_version_that_is_killed_while_it_comes_back_is_tried_again(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    replace_live(server, "2")
    server.world.unloadable.add("2")
    server.world.let_engines_go_on()
    for _ in range(3):
        server.step()
    assert started(server, "1") == 2
    server.world.run_out_of_memory("1")
    server.step()
    assert server.states() == {"1": "failed", "2": "failed"}
    server.settle(seconds=server.settings.retry_seconds)
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready", "2": "failed"})


def test_the_next_manager_brings_a_live_version_back_that_has_left(start: Start) -> None:
    server = start(engines=1.5, replace_live=True)
    replace_live(server, "2")
    server.world.unloadable.add("2")
    server.restart()
    server.settle(turns=10)
    assert (server.serves("champion"), server.states()) == ("1", {"1": "ready", "2": "failed"})


def test_nothing_takes_the_memory_of_an_engine_that_is_being_restarted(start: Start) -> None:
    server = start(engines=1.5)
    server.step(6.0)
    server.world.targets["champion"] = "2"
    server.step(1.1)
    server.world.running()[0].kill()
    for _ in range(3):
        server.step()
    assert (server.states(), started(server, "2")) == ({"1": "ready", "2": "failed"}, 0)
    server.settle()
    assert server.world.answering() == {"1"}
