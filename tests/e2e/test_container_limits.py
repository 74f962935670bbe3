"""A server in real control groups: it uses the cores that it has, and no version takes the live one's memory."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from bench.control_group import NoControlGroups, RealGroup, make_group, take_memory
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.manager.memory_reading import MemoryReader
from tests.e2e.load import Load
from tests.e2e.overlap import held
from tests.e2e.server import Server, run_cli, wait_until

MIB = 1 << 20
ROOMY_BYTES = 3 << 30


@pytest.fixture
def shop(small_home: Path) -> tuple[Path, Versions]:
    """A registry with three versions of `m`, the first one live."""
    return small_home, Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(small_home)}))


@pytest.fixture
def group() -> Iterator[RealGroup]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(make_group("test"))
        except NoControlGroups as reason:
            pytest.skip(str(reason))
        yield made


def version(server: Server, number: str) -> dict[str, object]:
    """What `GET /models/m` says of a version; nothing where it is not held."""
    found: dict[str, object] = server.describe("m")["versions"].get(number, {})
    return found


@pytest.mark.long
@pytest.mark.parametrize(("quota", "cores"), [(1.0, 1), (1.5, 1)])
def test_a_quota_decides_the_cores(shop: tuple[Path, Versions], group: RealGroup, quota: float, cores: int) -> None:
    home, _ = shop
    group.limit_cores(quota)
    with Server(home, ("m",), command=group.serve("m")) as server:
        assert server.ask("m", "a text")
        machine = server.http.get("/models").json()["machine"]
        assert (machine["cores"], machine["machine_cores"]) == (cores, psutil.cpu_count())
        assert machine["cores_by"] == ("control group" if (psutil.cpu_count() or 1) > cores else "machine")
        (engine,) = server.describe("m")["versions"]["1"]["engines"]
        assert engine["split"] == "1 × 1", "one forward pass at a time, of one thread"
        shown = run_cli(home, "status", server.url).stdout
        assert f"cores: {cores} of {psutil.cpu_count()} ({machine['cores_by']})" in shown


@pytest.mark.long
def test_a_roomy_limit_holds_through_five_moves_under_load(shop: tuple[Path, Versions], group: RealGroup) -> None:
    home, versions = shop
    group.limit_memory(ROOMY_BYTES)
    with Server(home, ("m",), command=group.serve("m")) as server, Load(server, "/models/m", 16) as load:
        for move in range(5):
            target = str(move % 3 + 1) if move else "2"
            versions.promote("m", target, why="on")
            load.wait_for(target)
        assert (load.failures(), load.lost) == ([], [])
        assert group.oom_kills() == 0
        machine = server.http.get("/models").json()["machine"]
        assert (machine["memory_bytes"], machine["memory_by"]) == (ROOMY_BYTES, "control group")
        assert server.sample("engine_restarts_total", model="m") == 0


@pytest.mark.long
def test_a_version_without_room_is_refused_and_no_request_fails(shop: tuple[Path, Versions], group: RealGroup) -> None:
    home, versions = shop
    group.limit_memory(ROOMY_BYTES)
    with Server(home, ("m",), command=group.serve("m")) as server, Load(server, "/models/m", 16) as load:
        load.wait_for("1")
        (engine,) = server.processes("serving.engine")
        limit = group.used_bytes() + MemoryReader().read(engine.pid).own // 2 + 64 * MIB
        group.limit_memory(limit)
        versions.promote("m", "2", why="better")
        wait_until(lambda: version(server, "2").get("state") == "failed", "version 2 is refused")
        error = str(version(server, "2")["error"])
        for words in ("of memory beside what is served", f"{limit / MIB:,.0f} MiB, set by the control group"):
            assert words in error
        (swap,) = (swap for swap in server.describe("m")["swaps"] if swap["outcome"] == "failure")
        assert swap["error"] == error
        load.wait_for("1")
        assert server.processes("serving.engine") == [engine], "no second engine was started"
        assert (load.failures(), load.lost, group.oom_kills()) == ([], [], 0)
        assert error.partition("Raise")[0] in run_cli(home, "status", server.url).stdout


@pytest.mark.long
def test_a_version_that_takes_more_than_expected_is_killed_before_the_live_one(
    shop: tuple[Path, Versions], group: RealGroup
) -> None:
    """Something else in the container takes the memory while the version loads."""
    home, versions = shop
    group.limit_memory(ROOMY_BYTES)
    with Server(home, ("m",), command=group.serve("m")) as server, Load(server, "/models/m", 16) as load:
        load.wait_for("1")
        (engine,) = server.processes("serving.engine")
        versions.promote("m", "2", why="better")
        (loading,) = wait_until(lambda: set(server.processes("serving.engine")) - {engine}, "version 2 loads")
        with held(loading):
            hog = take_memory(group, 2 * ROOMY_BYTES // 3)
            assert hog.stdout.readline() == b"held\n"
            group.limit_memory(group.used_bytes() + 8 * MIB)
        try:
            wait_until(lambda: version(server, "2").get("state") == "failed", "version 2 is given up")
            load.wait_for("1")
        finally:
            hog.communicate()
        error = str(version(server, "2")["error"])
        for words in ("signal 9", "because memory ran out", "oom_kill count is", "its memory limit is"):
            assert words in error
        assert group.oom_kills() > 0
        assert engine.is_running()
        assert server.sample("engine_restarts_total", model="m") == 0
        assert (load.failures(), load.lost) == ([], [])
