"""Whatever is wrong with a new version, the old one stays live, the cause shows everywhere, and it is not tried at once
again. Every fault is a real one: in the files, in the process, on the disk.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import yaml

from registry.contract import Contract
from registry.digests import digest_folder
from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.versions import Versions
from tests.abilities import require
from tests.e2e.conftest import make_home
from tests.e2e.load import Load
from tests.e2e.server import Server, has_ended, wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

NOWHERE_NEAR = 10**13
"""Rows of a table that would take 1.28 PB."""


@dataclass
class Shop:
    """A server of `m`, version 1 live, and its registry, whose aliases are moved by hand: nothing is checked before."""

    server: Server
    home: Path
    folder: Path

    def __post_init__(self) -> None:
        self.client = connect(RegistrySettings.from_environment({"HEADWAITER_HOME": str(self.home)}))

    def log(self) -> tuple[str, Path]:
        """A new version that is good: its number, and its files in the registry's store."""
        before = set(self.home.glob("artifacts/**/MLmodel"))
        settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(self.home)})
        version = log_model(self.folder, task="text-classification", name="m", settings=settings).version
        (described,) = set(self.home.glob("artifacts/**/MLmodel")) - before
        return version, described.parent

    def change(self, version: str, root: Path, **fields: Any) -> None:
        """Let contract, digests and the registry's record agree with what was done to the files and with `fields`."""
        described = yaml.safe_load((root / "MLmodel").read_text())
        flavor = described["flavors"]["headwaiter"]
        contract = msgspec.structs.replace(
            Contract.parse(flavor["contract"]), files=digest_folder(root, "model"), **fields
        )
        flavor["contract"] = contract.to_record()
        (root / "MLmodel").write_text(yaml.safe_dump(described))
        self.client.set_model_version_tag("m", version, "headwaiter.digest", contract.digest)

    def move(self, version: str, alias: str = "champion") -> None:
        self.client.set_registered_model_alias("m", alias, version)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> Iterator[Shop]:
    home, versions = make_home(tmp_path_factory, {"m": seeds[:1]})
    versions.promote("m", "1", why="start")
    with Server(home, ("m", "m@canary"), {"HEADWAITER_RETRY_SECONDS": "3600"}) as server:
        yield Shop(server, home, seeds[1])


def test_a_server_is_ready_beside_an_alias_that_is_missing(shop: Shop) -> None:
    assert shop.server.live("m") == "1"
    wait_until(lambda: "canary" in (shop.server.describe("m")["error"] or ""), "the missing alias is shown")
    assert shop.server.is_ready()


def flip_a_byte(shop: Shop, version: str, root: Path) -> None:
    weights = root / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def lose_a_file(shop: Shop, version: str, root: Path) -> None:
    (root / "model" / "model.safetensors").unlink()


def claim_another_head(shop: Shop, version: str, root: Path) -> None:
    edit_config(root, architectures=["BertForTokenClassification"])
    shop.change(version, root)


def want_more_memory_than_there_is(shop: Shop, version: str, root: Path) -> None:
    edit_config(root, max_position_embeddings=NOWHERE_NEAR)
    shop.change(version, root)


def crash_on_the_longest_row(shop: Shop, version: str, root: Path) -> None:
    shop.change(version, root, max_tokens=5000)  # the model has 256 positions


def have_answered_otherwise(shop: Shop, version: str, root: Path) -> None:
    contract = Contract.parse(yaml.safe_load((root / "MLmodel").read_text())["flavors"]["headwaiter"]["contract"])
    assert contract.example is not None
    output = [[{**entry, "score": 1 - entry["score"]} for entry in contract.example.output[0]]]
    shop.change(version, root, example=msgspec.structs.replace(contract.example, output=output))


def edit_config(root: Path, **fields: Any) -> None:
    path = root / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


FILES: dict[str, tuple[Callable[[Shop, str, Path], None], str]] = {
    "a bad digest": (flip_a_byte, "DigestMismatch: model/model.safetensors has sha256"),
    "a missing file": (lose_a_file, "model/model.safetensors is missing"),
    "a wrong head": (claim_another_head, "WrongHead: text-classification needs BertForSequenceClassification"),
    "out of memory": (want_more_memory_than_there_is, "allocate"),
    "a crash at warm-up": (crash_on_the_longest_row, "Error: "),
    "an example that differs": (have_answered_otherwise, "the contract's example came out otherwise"),
}


@pytest.mark.parametrize("what", FILES)
def test_bad_files_leave_the_old_version_live(shop: Shop, what: str) -> None:
    spoil, cause = FILES[what]
    version, root = shop.log()
    spoil(shop, version, root)
    failures = shop.server.sample("swap_total", model="m", outcome="failure")
    with Load(shop.server, "/models/m", 4) as load:
        shop.move(version)
        assert_refused(shop, version, cause, failures)
    assert_undisturbed(load)


def test_an_engine_killed_while_it_loads_leaves_the_old_version_live(shop: Shop) -> None:
    version, _ = shop.log()
    failures = shop.server.sample("swap_total", model="m", outcome="failure")
    (serving,) = shop.server.processes("serving.engine")
    with Load(shop.server, "/models/m", 4) as load:
        shop.move(version)
        loading_engine(shop.server, serving).kill()
        assert_refused(shop, version, "the engine was killed by signal 9", failures)
        assert shop.server.processes("serving.engine") == [serving]
    assert_undisturbed(load)


def loading_engine(server: Server, serving: psutil.Process) -> psutil.Process:
    found: set[psutil.Process] = wait_until(
        lambda: set(server.processes("serving.engine")) - {serving}, "an engine loads"
    )
    return found.pop()


def assert_refused(shop: Shop, version: str, cause: str, failures: float) -> None:
    """The failure shows everywhere; while the registry is asked on and on the version is not tried again."""
    server = shop.server

    def found() -> dict[str, Any]:
        entry: dict[str, Any] = server.describe("m")["versions"].get(version, {})
        return entry

    wait_until(lambda: found().get("state") == "failed", f"the failure is shown: {found()}")
    assert cause in found()["error"]
    assert "Traceback" not in found()["error"]
    described = server.describe("m")
    assert described["live"] == "1"
    last = described["swaps"][-1]
    assert (last["from_version"], last["to_version"], last["outcome"]) == ("1", version, "failure")
    assert cause in last["error"]
    logged = [line for line in logged_lines(server) if line["message"].startswith(f"m/{version} could not be loaded: ")]
    assert [line["level"] for line in logged] == ["error"]
    assert cause in logged[0]["message"]
    assert server.sample("swap_total", model="m", outcome="failure") == failures + 1
    assert server.sample("model_state", model="m", version=version, state="failed") == 1
    assert server.sample("model_state", model="m", version="1", state="ready") == 1
    asked = server.post("m", {"inputs": "x"}, version=version)
    assert (asked.status_code, "retry-after" in asked.headers) == (503, True)
    assert server.is_ready()
    for _ in range(2):  # each of these shows that the registry was asked again
        shop.move("1", "canary")
        wait_until(lambda: server.describe("m")["aliases"].get("canary") == "1", "the canary is followed")
        wait_until(lambda: not server.describe("m")["error"], "the alias is seen")
        shop.client.delete_registered_model_alias("m", "canary")
        wait_until(lambda: "canary" in (server.describe("m")["error"] or ""), "its end is seen")
    assert found()["attempt"] == 1
    assert server.log.read_text().count(f"loading m/{version}, attempt") == 1
    shop.move("1")
    wait_until(lambda: not found(), "the failed version is forgotten")


def logged_lines(server: Server) -> list[dict[str, Any]]:
    whole = [line for line in server.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [json.loads(line) for line in whole]


def assert_undisturbed(load: Load) -> None:
    assert (load.failures(), load.lost) == ([], [])
    assert set(load.answers()) == {"1"}


@pytest.mark.long
def test_a_load_that_takes_too_long_leaves_the_old_version_live_and_is_tried_again_later(small_home: Path) -> None:
    versions = Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(small_home)}))
    environ = {"HEADWAITER_LOAD_SECONDS": "60", "HEADWAITER_RETRY_SECONDS": "1"}
    with Server(small_home, ("m",), environ) as server, Load(server, "/models/m", 4) as load:
        (serving,) = server.processes("serving.engine")
        failures = server.sample("swap_total", model="m", outcome="failure")
        versions.promote("m", "2", why="better")
        stuck = loading_engine(server, serving)
        stuck.suspend()
        wait_until(lambda: server.sample("swap_total", model="m", outcome="failure") > failures, "it is given up")
        why = "loading took longer than HEADWAITER_LOAD_SECONDS=60"
        wait_until(lambda: why in error_of(server, "2"), "fronts say why")
        assert server.live("m") == "1"
        wait_until(lambda: has_ended(stuck), "its engine is killed")
        load.wait_for("2", 16)
        assert server.describe("m")["versions"]["2"]["attempt"] > 1
    assert (load.failures(), load.lost) == ([], [])


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home on a disk of its own of 48 MiB."""
    require("mount")
    folder = tmp_path_factory.mktemp("d")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all of the disk but `leave` bytes."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb") as file:  # others may take the last of it
        for _ in range(max(0, shutil.disk_usage(disk).free - leave) // 4096):
            file.write(bytes(4096))
    return ballast


@pytest.mark.long
def test_a_full_disk_leaves_the_old_version_live_and_the_new_one_comes_once_there_is_room(
    small_disk: Path, small_home: Path
) -> None:
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{small_home / 'mlflow.db'}", "HEADWAITER_RETRY_SECONDS": "0.5"}
    versions = Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(small_home)}))
    with Server(small_disk, ("m",), environ) as server, Load(server, "/models/m", 8) as load:
        ballast = fill(small_disk, leave=3 << 20)
        versions.promote("m", "2", why="better")
        wait_until(lambda: "No space left on device" in error_of(server, "2"), "the failure is shown")
        assert server.live("m") == "1"
        (engine,) = server.processes("serving.engine")
        engine.kill()  # the live version is restarted although the disk is full
        engine.wait(WAIT_SECONDS)
        wait_until(lambda: server.post("m", {"inputs": "x"}).status_code == 200, "it answers again")
        assert server.sample("engine_restarts_total", model="m", version="1") >= 1
        full = fill(small_disk / "cache", leave=0)
        before = load.total("1")
        wait_until(lambda: load.total("1") > before + 64, "version 1 answers without any room at all")
        assert server.http.get("/metrics").status_code == 200
        full.unlink()
        ballast.unlink()
        load.wait_for("2", 16)
        assert not list(small_disk.glob("cache/.incoming-*"))
        assert len(list(small_disk.glob("cache/*/model"))) == 2
    assert load.lost == []
    assert load.statuses() <= {200, 503}


def error_of(server: Server, version: str) -> str:
    return server.describe("m")["versions"].get(version, {}).get("error") or ""
