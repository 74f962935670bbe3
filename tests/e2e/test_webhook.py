"""A real MLflow server tells a real Headwaiter by webhook that an alias moved, long before the next poll."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.registries import MlflowServer
from tests.e2e.server import Server, wait_until

SECRET = "a secret that MLflow and Headwaiter share"
ENVIRON = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
}


@pytest.fixture
def registry(small_home: Path) -> Iterator[str]:
    """MLflow's address; its registry is `small_home`'s."""
    with MlflowServer(small_home, f"sqlite:///{small_home}/mlflow.db", ENVIRON) as mlflow:
        yield mlflow.url


@pytest.mark.long
def test_an_alias_move_is_followed_by_webhook_long_before_the_poll(small_home: Path, registry: str) -> None:
    environ = {
        "MLFLOW_TRACKING_URI": registry,
        "HEADWAITER_POLL_SECONDS": "3600",
        "HEADWAITER_WEBHOOK_SECRET": SECRET,
    }
    client = MlflowClient(tracking_uri=registry, registry_uri=registry)
    versions = Versions(RegistrySettings(small_home, registry))
    with Server(small_home, ("m",), environ) as server:
        hook = client.create_webhook(
            "headwaiter", f"{server.url}/hooks/mlflow", ["model_version_alias.created"], secret=SECRET
        )
        tested = client.test_webhook(hook.webhook_id)
        assert (tested.success, tested.response_status) == (True, 202), tested
        versions.promote("m", "2", why="better")
        wait_until(lambda: server.live("m") == "2", "version 2 is live")
        assert server.post("m", {"inputs": "x"}).headers["x-model-version"] == "2"
        versions.rollback("m", why="worse after all")
        wait_until(lambda: server.live("m") == "1", "version 1 is live again")

        client.update_webhook(hook.webhook_id, secret="not the same")
        tested = client.test_webhook(hook.webhook_id)
        assert (tested.success, tested.response_status) == (False, 401), tested
        assert "HEADWAITER_WEBHOOK_SECRET" in (tested.response_body or "")
        assert "a webhook was refused with 401" in server.text()
    assert SECRET not in server.log.read_text()
