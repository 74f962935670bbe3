"""Rollouts through a real server: an equal version is promoted, one with other answers is caught before any client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.flavor import log_model
from registry.settings import RegistrySettings
from tests.e2e.conftest import copy_of
from tests.e2e.server import WAIT_SECONDS, Server, invoke, wait_until

TEXTS = [f"a text about {what}, number {number}" for number in range(10) for what in ("a parcel", "rain", "tea", "war")]


OTHER, SAME = "2", "4"
"""Versions of another model, and of the one that is live."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small_template: Path, seeds: list[Path]) -> Iterator[Server]:
    """A server of `m`, whose version 1 is live."""
    home = copy_of(small_template, tmp_path_factory)
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    assert log_model(seeds[0], task="text-classification", name="m", settings=settings).version == SAME
    with Server(home, ("m",)) as server:
        yield server


def status(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke(server.home, "rollout", "status", "m", "--json").output)
    return found


def ask_all(server: Server) -> set[str]:
    """The versions that answer some requests with keys of their own."""
    seen = set()
    for number, text in enumerate(TEXTS):
        answer = server.http.post(
            "/models/m", json={"inputs": text}, headers={"X-Headwaiter-Key": f"customer {number}"}
        )
        assert answer.status_code == 200, answer.text
        seen.add(answer.headers["x-model-version"])
    return seen


def start(server: Server, version: str, *options: str) -> None:
    invoke(server.home, "rollout", "start", "m", version, "--why", "a test", "--every", "1s", "--bake", "1s", *options)


def until(server: Server, phase: str) -> set[str]:
    """Ask until the rollout has come to this phase; the versions that answered."""
    seen: set[str] = set()

    def has_come() -> bool:
        seen.update(ask_all(server))
        return bool(status(server)["phase"] == phase)

    wait_until(has_come, f"{phase}: ", WAIT_SECONDS, server.log)
    return seen


def test_other_answers_are_caught_by_shadows_and_no_client_gets_them(server: Server) -> None:
    start(server, OTHER, "--steps", "shadow:40,50%,100%", "--guard", "agreement > 90%")
    assert until(server, "failed") == {"1"}
    assert server.live("m") == "1"
    history = invoke(server.home, "history", "m").output
    assert "failed at shadow:40: agreement > 90%" in history
    wait_until(lambda: OTHER not in server.describe("m")["versions"], "the candidate has left")


def test_a_version_that_is_as_good_is_promoted_and_a_rollback_by_hand_stays(server: Server) -> None:
    start(server, SAME, "--steps", "shadow:40,50%,100%", "--guard", "agreement > 90%", "--guard", "p50 < 20 x stable")
    assert until(server, "promoted") == {"1", SAME}
    wait_until(lambda: server.live("m") == SAME, "the alias is followed")
    invoke(server.home, "rollback", "m", "--why", "by hand")
    wait_until(lambda: server.live("m") == "1", "the rollback is followed")
    assert ask_all(server) == {"1"}


def test_a_pause_and_an_abort_are_followed(server: Server) -> None:
    start(server, SAME, "--steps", "50%,100%", "--guard", "errors < stable + 1%")
    wait_until(lambda: len(ask_all(server)) == 2, "both versions answer")
    assert "paused" in invoke(server.home, "rollout", "pause", "m", "--why", "lunch").output
    assert len(ask_all(server)) == 2
    invoke(server.home, "rollout", "abort", "m", "--why", "enough")
    wait_until(lambda: ask_all(server) == {"1"}, "all requests are the stable version's")
    refused = invoke(server.home, "rollout", "resume", "m", "--why", "again", check=False)
    assert (refused.exit_code, "is over: aborted" in refused.output) == (1, True)
