"""A rolling upgrade: a server of the last release and one of this tree follow one registry, and take over homes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.ledger import Ledger
from registry.contract import FORMAT
from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.registries import MlflowServer
from tests.e2e.server import Server, run_cli, wait_until
from tests.small_models import build_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EARLIER = "1845a82f7a4d77c1b902801f6800563b2a1b44dd"
"""A commit that writes contracts of format 1 and records without a format, taken as long as there is no release."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the last release before this tree, by its tag; skips the test in a copy without the history."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("earlier")
    describe = ["git", "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"]
    found = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True)
    commit = found.stdout.strip() or EARLIER
    archive = ["git", "archive", f"--output={folder / 'tree.zip'}", commit]
    if subprocess.run(archive, cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"needs the history of the repository, with commit {commit[:12]}")
    shutil.unpack_archive(folder / "tree.zip", folder / "tree")
    return folder / "tree"


@dataclass
class Fleet:
    """An MLflow server, a home for the server of each release and one of the operator, and the earlier release.

    can_read: whether the earlier release reads the contracts of this one.
    """

    mlflow: MlflowServer
    homes: dict[str, Path]
    tree: Path
    can_read: bool = False

    @property
    def environ(self) -> dict[str, str]:
        """Of a process of the earlier release."""
        return {"MLFLOW_TRACKING_URI": self.mlflow.url, "PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1"}

    def server(self, release: str, home: str) -> Server:
        """A server of the "old" or "new" release with one of the homes."""
        if release == "new":
            return Server(self.homes[home], ("m",), {"MLFLOW_TRACKING_URI": self.mlflow.url})
        return Server(self.homes[home], ("m",), self.environ, cwd=self.tree, own_template=True)

    def run_old(self, *arguments: str) -> str:
        """The output of the earlier release's command."""
        return run_cli(self.homes["operator"], *arguments, **self.environ).stdout


@pytest.fixture(scope="module")
def fleet(earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """With versions 1 and 2 of "m", which the earlier release logged, and 3, of this one; the first one is live."""
    folder = tmp_path_factory.mktemp("f")
    homes = {name: tmp_path_factory.mktemp("h") for name in ("old", "new", "operator")}
    with MlflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}") as mlflow:
        fleet = Fleet(mlflow, homes, earlier)
        code = "import registry.contract as found; print(found.FORMAT, found.__file__)"
        found = subprocess.run(
            [sys.executable, "-c", code], env=fleet.environ, capture_output=True, text=True, check=True
        )
        number, _, file = found.stdout.strip().partition(" ")
        assert earlier in Path(file).parents
        fleet.can_read = int(number) >= FORMAT
        folders = [build_model(folder / str(seed), "single", seed) for seed in range(3)]
        for checkpoint in folders[:2]:
            fleet.run_old("log", str(checkpoint), "--task", "text-classification", "--name", "m")
        settings = RegistrySettings(homes["operator"], mlflow.url)
        log_model(folders[2], task="text-classification", name="m", settings=settings)
        fleet.run_old("promote", "m", "1", "--why", "the first one")
        yield fleet


def refusal(server: Server) -> str:
    """Why it does not load version 3, or empty."""
    return str(server.describe("m")["versions"].get("3", {}).get("error", ""))


def test_a_mixed_fleet_follows_one_registry_and_homes_change_releases(fleet: Fleet) -> None:
    """Each step is one of a rolling upgrade, or of the way back."""
    operator = Versions(RegistrySettings(fleet.homes["operator"], fleet.mlflow.url))
    with fleet.server("old", "old") as old, fleet.server("new", "new") as new:
        with (
            Ledger(old.port, "/models/m", connections=4) as of_old,
            Ledger(new.port, "/models/m", connections=4) as of_new,
        ):
            operator.promote("m", "2", why="better")
            wait_until(lambda: old.live("m") == new.live("m") == "2", "2 is live")
            fleet.run_old("rollback", "m", "--why", "worse")
            wait_until(lambda: old.live("m") == new.live("m") == "1", "1 is live")
            operator.promote("m", "3", why="of the new release")
            wait_until(lambda: new.live("m") == "3", "3 is live")
            if fleet.can_read:
                wait_until(lambda: old.live("m") == "3", "3 is live in the earlier release, too")
            else:
                wait_until(lambda: "format" in refusal(old), "the earlier release says why it does not load 3")
                assert old.live("m") == "1"
            operator.promote("m", "2", why="what both can read")
            wait_until(lambda: old.live("m") == new.live("m") == "2", "2 is live")
        for ledger in (of_old, of_new):
            assert all((page.faults, page.refused) == ([], {}) for page in ledger.pages.values()), ledger.pages
            assert {"1", "2"} <= set(ledger.versions)
    moves = [("promote", "1"), ("promote", "2"), ("rollback", "1"), ("promote", "3"), ("promote", "2")]
    assert [(move.action, move.to_version) for move in operator.history("m")] == moves
    assert "of the new release" in fleet.run_old("history", "m")
    fleet.mlflow.kill()
    for release, home in (("new", "old"), ("old", "new")):
        with fleet.server(release, home) as server:
            assert server.ask("m", "x")
            assert server.live("m") == "2", f"the {release} release knows what the other one served last"
