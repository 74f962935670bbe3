"""Nothing is lost while versions change under load, and each answer names the version that computed it."""

from pathlib import Path

import pytest

from bench.ledger import ASKED
from registry.versions import Versions
from tests.e2e.conftest import make_home
from tests.e2e.load import Load
from tests.e2e.server import Server, wait_until

MOVES = 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> tuple[Path, Versions]:
    """A registry with two models: `m` with three versions that answer differently, `n` with two."""
    return make_home(tmp_path_factory, {"m": seeds, "n": seeds[1:]})


@pytest.fixture
def from_start(shop: tuple[Path, Versions]) -> tuple[Path, Versions]:
    """The same, with version 1 of `m` live."""
    shop[1].promote("m", "1", why="start")
    return shop


def label(server: Server, version: str) -> str:
    """Return the first label. Lower ones with nearly equal scores may swap places between batches."""
    return str(server.ask("m", ASKED, version=version)[0][0]["label"])


def engines(server: Server, version: str, model: str = "m") -> set[int]:
    """The ids of a version's engines."""
    return {engine["pid"] for engine in server.describe(model)["versions"][version]["engines"]}


def test_twenty_moves_in_a_row_under_load_lose_nothing_and_load_each_version_once(
    from_start: tuple[Path, Versions],
) -> None:
    home, versions = from_start
    with Server(home, ("m",)) as server:
        with Load(server, "/models/m") as load:
            for move in range(MOVES):
                if move % 2 == 0:
                    versions.promote("m", "2", why="better")
                else:
                    versions.rollback("m", why="worse after all")
                load.wait_for("12"[move % 2 == 0])
                if move == 0:
                    loaded = {version: engines(server, version) for version in "12"}
        assert load.lost == []
        assert load.failures() == []
        own = {version: {label(server, version)} for version in "12"}
        assert own["1"] != own["2"], "the answers must prove which version gave them"
        assert load.answers() == own
        assert {version: engines(server, version) for version in "12"} == loaded
        assert server.sample("swap_total", model="m", outcome="success") == 1 + MOVES
        assert server.sample("swap_total", model="m") == 1 + MOVES
        assert server.sample("engine_restarts_total", model="m") == 0
        swaps = server.describe("m")["swaps"][-MOVES:]
        assert [(swap["from_version"], swap["to_version"]) for swap in swaps] == [("1", "2"), ("2", "1")] * (MOVES // 2)


@pytest.mark.long
def test_without_kept_versions_a_rollback_loads_again_and_loses_nothing(from_start: tuple[Path, Versions]) -> None:
    home, versions = from_start
    with Server(home, ("m",), options=("--keep-previous", "0")) as server:
        with Load(server, "/models/m") as load:
            first = engines(server, "1")
            versions.promote("m", "2", why="better")
            load.wait_for("2")
            wait_until(lambda: set(server.describe("m")["versions"]) == {"2"}, "version 1 has left")
            wait_until(lambda: len(server.processes("serving.engine")) == 1, "its engine has ended")
            versions.rollback("m", why="worse after all")
            versions.promote("m", "2", why="no, better")  # seen or not: version 2 goes on either way
            versions.rollback("m", why="worse indeed")
            load.wait_for("1")
            assert engines(server, "1") != first
            wait_until(lambda: set(server.describe("m")["versions"]) == {"1"}, "version 2 has left")
        assert (load.failures(), load.lost) == ([], [])
        assert set(load.answers()) == {"1", "2"}


@pytest.mark.long
def test_models_aliases_pins_and_devices_stand_side_by_side(from_start: tuple[Path, Versions]) -> None:
    home, versions = from_start
    versions.promote("m", "2", why="try it", alias="canary")
    versions.promote("n", "2", why="start")
    served = ("m", "m@canary", "n/1")
    with Server(home, served, {"HEADWAITER_DEVICE": "cpu,cpu"}) as server:
        wait_until(lambda: server.describe("m")["aliases"]["canary"] == "2", "the canary is live")
        pinned = engines(server, "1", "n")
        assert all(len(found) == 2 for found in (engines(server, "1"), engines(server, "2"), pinned))
        assert set(server.describe("n")["versions"]) == {"1"}, "what is pinned follows no alias"
        with (
            Load(server, "/models/m", 16) as champion,
            Load(server, "/models/m@canary", 16) as canary,
            Load(server, "/models/n", 16) as pin,
        ):
            versions.promote("m", "2", why="the canary lives")
            champion.wait_for("2", 16)
            versions.promote("m", "1", why="the canary died", alias="canary")
            canary.wait_for("1", 16)
            assert server.describe("m")["aliases"] == {"champion": "2", "canary": "1"}
        for load in (champion, canary, pin):
            assert (load.failures(), load.lost) == ([], [])
        assert set(champion.answers()) == set(canary.answers()) == {"1", "2"}
        assert champion.answers() == canary.answers(), "one version answers alike, whatever alias it has"
        assert set(pin.answers()) == {"1"}
        assert engines(server, "1", "n") == pinned
        assert server.sample("swap_total", model="m", outcome="success") == 4
        assert server.sample("swap_total", model="n", outcome="success") == 1
