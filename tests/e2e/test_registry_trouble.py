"""The registry is down, slow, answers nonsense, or lacks the live version: serving goes on, and that is reported."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.flavor import log_model
from registry.rollout.control import Rollouts
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.versions import Versions
from tests.abilities import require
from tests.e2e.load import Load
from tests.e2e.registries import MlflowServer, Postgres, find_postgres, nonsense
from tests.e2e.server import Server, wait_until

pytestmark = pytest.mark.surroundings

DATABASES = ("sqlite", "postgresql")


@dataclass
class Shop:
    """A server of the model `m` whose registry is an MLflow server."""

    mlflow: MlflowServer
    server: Server
    home: Path
    client: MlflowClient

    def settle(self, version: str = "1") -> None:
        """Wait until the registry answers and this version is live."""
        if not self.mlflow.is_running:
            self.mlflow.start()
        self.client.set_registered_model_alias("m", "champion", version)
        wait_until(lambda: self.is_well() and self.server.live("m") == version, f"version {version} is live")

    def trouble(self) -> str:
        """The error that the server reports about its registry, or empty."""
        return self.server.http.get("/models").json()["registry_error"] or ""

    def is_well(self) -> bool:
        return not self.trouble() and not self.server.describe("m")["error"]

    def follow(self, version: str) -> None:
        """Move the alias, and wait until the server serves the version."""
        self.client.set_registered_model_alias("m", "champion", version)
        wait_until(lambda: self.server.live("m") == version, f"version {version} is live")


@pytest.fixture(scope="module", params=DATABASES)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seeds: list[Path]) -> Iterator[Shop]:
    home = tmp_path_factory.mktemp("h")  # sockets need a short path
    with contextlib.ExitStack() as stack:
        database = f"sqlite:///{home / 'mlflow.db'}"
        if request.param == "postgresql":
            require("PostgreSQL")
            programs = find_postgres()
            assert programs is not None
            database = stack.enter_context(Postgres(programs)).url
        mlflow = stack.enter_context(MlflowServer(home, database))
        settings = RegistrySettings(home, mlflow.url)
        for folder in seeds:
            log_model(folder, task="text-classification", name="m", settings=settings)
        client = connect(settings)
        client.set_registered_model_alias("m", "champion", "1")
        environ = {"MLFLOW_TRACKING_URI": mlflow.url}
        server = stack.enter_context(Server(home, ("m",), environ, ("--workers", "2")))
        yield Shop(mlflow, server, home, client)


def assert_serving_goes_on(shop: Shop, live: str = "1") -> None:
    assert shop.server.live("m") == live
    assert shop.server.post("m", {"inputs": "x"}).headers["x-model-version"] == live
    assert shop.server.is_ready()
    assert shop.server.http.get("/livez").status_code == 200


@pytest.mark.long
def test_every_front_follows_a_rollouts_weight_with_the_next_reads_of_the_registry(shop: Shop) -> None:
    shop.settle()
    rollouts = Rollouts(Versions(RegistrySettings(shop.home, shop.mlflow.url)))
    with shop.server.front_clients() as fronts:

        def weights() -> list[float]:
            found = [front.get("/models/m").json()["rollout"] for front in fronts]
            return [0.0 if rollout is None else rollout["weight"] for rollout in found]

        def versions() -> list[set[str]]:
            """Those that answer, of each front."""
            return [
                {front.post("/models/m", json={"inputs": "x"}).headers["x-model-version"] for _ in range(20)}
                for front in fronts
            ]

        def reads() -> int:
            return shop.mlflow.answered("registered-models/search", "headwaiter.rollout")

        rollouts.start("m", "2", why="a test", steps=("50%", "100%"), every="1h", guards=("errors < stable + 50%",))
        wait_until(lambda: weights() == [0.5, 0.5], "both fronts share requests out")
        wait_until(lambda: versions() == [{"1", "2"}] * 2, "the candidate answers")
        rollouts.abort("m", why="enough")
        before = reads()

        def has_followed() -> bool:
            made = reads() - before  # first: what is asked now is later than they are
            behind = weights() != [0.0, 0.0]
            # one may have been under way, the next one is the poll, and by the one after it the table is published
            assert not (behind and made > 3), f"a front has not followed {made} reads of the registry"
            return not behind

        wait_until(has_followed, "no front gives the candidate requests")
        assert versions() == [{"1"}, {"1"}]
    assert len(fronts) == 2


def test_a_killed_registry_is_reported_and_followed_again_once_it_is_back(shop: Shop) -> None:
    shop.settle()
    with Load(shop.server, "/models/m", 4) as load:
        shop.mlflow.kill()
        wait_until(shop.trouble, "the trouble is shown")
        assert shop.server.sample("registry_up") == 0
        assert "the registry cannot be read, serving goes on" in shop.server.log.read_text()
        assert_serving_goes_on(shop)
        shop.mlflow.start()
        wait_until(shop.is_well, "all is well again")
        wait_until(lambda: shop.server.sample("registry_up") == 1, "the metric says so")
        shop.follow("2")
        load.wait_for("2", 4)
    assert (load.failures(), load.lost) == ([], [])
    assert set(load.answers()) == {"1", "2"}


def test_a_registry_that_does_not_answer_in_time_is_called_slow(shop: Shop) -> None:
    shop.settle()
    shop.mlflow.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: "no answer for" in shop.trouble(), "it is called slow")
        assert_serving_goes_on(shop)
    finally:
        shop.mlflow.signal(signal.SIGCONT)
    wait_until(shop.is_well, "all is well again")
    shop.follow("2")


NONSENSE = (
    (200, b"<html>this is somebody else</html>"),
    (200, b"{}"),
    (200, b'{"model_version": {"name": "m", "version": "zero", "source": 7}}'),
    (500, b'{"error_code": "INTERNAL_ERROR", "message": "no database"}'),
)


def test_a_registry_that_answers_nonsense_changes_nothing(shop: Shop) -> None:
    shop.settle()
    shop.mlflow.kill()
    for status, body in NONSENSE:
        with nonsense(shop.mlflow.port, status, body) as asked:
            wait_until(lambda: asked, f"it is asked, to answer {status} {body!r}")
            assert_serving_goes_on(shop)
            wait_until(shop.trouble, "the trouble is shown")
    shop.mlflow.start()
    wait_until(shop.is_well, "all is well again")
    shop.follow("2")


def test_a_deleted_alias_leaves_live_what_was(shop: Shop) -> None:
    shop.settle()
    shop.client.delete_registered_model_alias("m", "champion")
    wait_until(lambda: "no m@champion" in (shop.server.describe("m")["error"] or ""), "it is shown")
    assert_serving_goes_on(shop)
    shop.follow("2")
    wait_until(shop.is_well, "all is well again")


def test_a_version_that_is_deleted_while_it_is_live_stays_until_another_is_named(shop: Shop) -> None:
    shop.settle("3")
    shop.client.delete_model_version("m", "3")  # its alias goes with it
    wait_until(lambda: "no m@champion" in (shop.server.describe("m")["error"] or ""), "it is shown")
    assert_serving_goes_on(shop, live="3")
    shop.follow("1")
    wait_until(shop.is_well, "all is well again")


def test_a_renamed_model_stays_live_under_its_old_name(shop: Shop) -> None:
    shop.settle()
    shop.client.rename_registered_model("m", "renamed")
    try:
        wait_until(lambda: "no m@champion" in (shop.server.describe("m")["error"] or ""), "it is shown")
        assert_serving_goes_on(shop)
    finally:
        shop.client.rename_registered_model("renamed", "m")
    wait_until(shop.is_well, "all is well again")
    shop.follow("2")


@pytest.mark.long
def test_a_start_without_the_registry_serves_what_was_last_live_here(
    shop: Shop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop.settle("2")
    shop.mlflow.kill()
    environ = {"MLFLOW_TRACKING_URI": shop.mlflow.url}
    with Server(shop.home, ("m",), environ) as again:
        assert again.live("m") == "2"
        assert again.post("m", {"inputs": "x"}).headers["x-model-version"] == "2"
        assert again.http.get("/models").json()["registry_error"]
        assert again.sample("registry_up") == 0
    elsewhere = tmp_path_factory.mktemp("e")
    with Server(elsewhere, ("m",), environ, wait=False) as fresh:
        wait_until(lambda: fresh.http.get("/models").json()["registry_error"], "the trouble is shown")
        assert fresh.http.get("/readyz").status_code == 503, "nothing is known here"
        shop.mlflow.start()
        wait_until(fresh.is_ready, "ready")
        assert fresh.live("m") == "2"
