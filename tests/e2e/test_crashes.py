"""kill -9 of each kind of process, under load: what goes on, what is started again, and what never remains."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.manager.policy import CRASH_LIMIT
from tests.e2e.conftest import copy_of
from tests.e2e.load import Load
from tests.e2e.overlap import held
from tests.e2e.server import WAIT_SECONDS, Server, ports_of, wait_until

pytestmark = pytest.mark.surroundings


@dataclass
class Shop:
    """A server with two fronts and two engines a version, and its registry."""

    server: Server
    home: Path
    versions: Versions

    def engines(self, version: str) -> set[int]:
        """The ids of a version's engines that answer."""
        found = self.server.describe("m")["versions"].get(version, {})
        return {engine["pid"] for engine in found.get("engines", ())}

    def serve(self, version: str) -> None:
        """Version live, both of its engines there, nothing else going on."""
        self.versions.promote("m", version, why="start")
        wait_until(lambda: self.server.live("m") == version and len(self.engines(version)) == 2, "two engines")
        wait_until(self.server.is_ready, "ready")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Shop]:
    home = copy_of(small_template, tmp_path_factory)
    versions = Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)}))
    with Server(home, ("m",), options=("--workers", "2", "--replicas", "2"), own_template=True) as server:
        yield Shop(server, home, versions)


def engine_of(order: str) -> psutil.Process | None:
    """The process that has this order, adopted or not; a restarted engine has that of the one before."""
    return next((found for found in psutil.process_iter(["cmdline"]) if order in (found.info["cmdline"] or ())), None)


def order_of(pid: int) -> str:
    """The file of an engine's order, by its command line, which may end in empty arguments."""
    return next(part for part in psutil.Process(pid).cmdline() if part.endswith(".order"))


def test_requests_of_a_killed_engine_are_answered_by_another_of_its_version(shop: Shop) -> None:
    shop.serve("1")
    server, before = shop.server, shop.engines("1")
    victim = psutil.Process(min(before))
    victim.suspend()
    answers: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(16)]
    for thread in asking:
        thread.start()
    wait_until(lambda: 0 < server.sample("requests_in_progress", model="m") == 16 - len(answers), "only it has some")
    restarts = server.sample("engine_restarts_total", model="m", version="1")
    victim.kill()
    for thread in asking:
        thread.join(WAIT_SECONDS)
    assert [(answer.status_code, answer.headers["x-model-version"]) for answer in answers] == [(200, "1")] * 16
    # one front may have asked another engine while the other front has not read yet that the killed one has left
    wait_until(lambda: len(shop.engines("1") - {victim.pid}) == 2, "it is started again")
    assert len(shop.engines("1") & before) == 1
    assert server.sample("engine_restarts_total", model="m", version="1") == restarts + 1


def ask(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/models/m", json={"inputs": "x"}, timeout=WAIT_SECONDS)


def test_a_killed_front_breaks_its_own_connections_only(shop: Shop) -> None:
    shop.serve("1")
    loads = [Load(shop.server, "/models/m", 16) for _ in range(2)]
    with ExitStack() as stack:
        fronts = shop.server.fronts()
        for load, other in zip(loads, reversed(fronts), strict=True):
            with held(other):  # so the connections are the first front's, and then the second's
                stack.enter_context(load)
        mine = ports_of(fronts[0], shop.server.port) & loads[0].open
        assert len(mine) == 16
        fronts[0].kill()
        wait_until(lambda: len(loads[0].lost) >= len(mine), "they are broken")
        for load in loads:
            load.wait_for("1", 160)
        wait_until(lambda: len(shop.server.fronts()) == 2, "another front takes its place")
        wait_until(shop.server.is_ready, "ready again")
    assert set(loads[0].lost) == mine
    assert loads[1].lost == []
    assert loads[0].failures() == loads[1].failures() == []


@pytest.mark.long
def test_a_manager_killed_while_a_version_loads_is_followed_by_one_that_goes_on_from_there(shop: Shop) -> None:
    shop.serve("1")
    server, before = shop.server, shop.engines("1")
    with Load(server, "/models/m", 16) as load:
        shop.versions.promote("m", "2", why="better")
        loading = wait_until(lambda: set(server.processes("serving.engine")) - mine(before), "version 2 loads")
        (manager,) = server.processes("headwaiter_manager")
        manager.kill()
        load.wait_for("2", 16)
        assert shop.engines("1") == before
        assert shop.engines("2") & {engine.pid for engine in loading}, (
            "the next manager adopts the engine that was loading"
        )
        shop.versions.rollback("m", why="worse after all")
        load.wait_for("1", 16)
        assert shop.engines("1") == before, "the version before is still warm"
    assert (load.failures(), load.lost) == ([], [])

    def last_moves() -> list[tuple[str, str]]:
        return [(swap["from_version"], swap["to_version"]) for swap in server.describe("m")["swaps"]][-2:]

    wait_until(lambda: last_moves() == [("1", "2"), ("2", "1")], "every front has read of both moves")


@pytest.mark.long
def test_a_killed_template_costs_no_request_and_another_forks_the_next_engines(shop: Shop) -> None:
    shop.serve("1")
    server, before = shop.server, shop.engines("1")
    (template,) = server.processes("serving.engine.template")
    with Load(server, "/models/m", 16) as load:
        template.kill()
        (other,) = wait_until(lambda: set(server.processes("serving.engine.template")) - {template}, "there is another")
        assert shop.engines("1") == before
        shop.versions.promote("m", "3", why="better")
        load.wait_for("3", 16)
        assert {psutil.Process(engine).ppid() for engine in shop.engines("3")} == {other.pid}
    assert (load.failures(), load.lost) == ([], [])


def mine(pids: set[int]) -> set[psutil.Process]:
    return {psutil.Process(pid) for pid in pids}


def test_a_new_version_that_crashes_again_and_again_gives_way_to_the_one_before(shop: Shop) -> None:
    shop.serve("1")
    server = shop.server
    with Load(server, "/models/m", 16) as load:
        shop.versions.promote("m", "2", why="better")
        load.wait_for("2", 16)
        order = order_of(min(shop.engines("2")))
        for _ in range(CRASH_LIMIT):
            victim = wait_until(lambda: engine_of(order), "it is there (again)")
            victim.kill()
            victim.wait(WAIT_SECONDS)
        load.wait_for("1", 16)
        wait_until(lambda: server.live("m") == "1", "the front that is asked has read of it, too")
        described = server.describe("m")
    assert {seen.status for seen in load.failures()} <= {500}, "what two engines lost while they computed it"
    assert load.lost == []
    assert described["live"] == "1"
    assert described["versions"]["2"]["state"] == "failed"
    assert f"crashed {CRASH_LIMIT} times in a row" in described["versions"]["2"]["error"]
    last = described["swaps"][-1]
    assert (last["from_version"], last["to_version"], last["outcome"]) == ("2", "1", "crashed")
    assert "version 2 crashed" in last["error"]
    assert server.sample("swap_total", model="m", outcome="crashed") == 1
    assert server.sample("model_state", model="m", version="2", state="failed") == 1
    assert f"m/2: its engines crashed {CRASH_LIMIT} times" in server.log.read_text()
    asked_again = server.sample("engine_restarts_total", model="m", version="2")
    shop.serve("3")
    assert server.sample("engine_restarts_total", model="m", version="2") <= asked_again
    shop.serve("2")
