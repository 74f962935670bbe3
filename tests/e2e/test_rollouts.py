"""Rollouts through a real server: an equal version is promoted, one with other answers is caught before any client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.flavor import log_model
from registry.rollout.control import Rollouts
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.demo.candidates import lose_a_word, prefer_one_label, widen
from serving.demo.rollout import DemoCandidate, roll_out
from serving.demo.traffic import Traffic
from tests.e2e.conftest import copy_of
from tests.e2e.server import WAIT_SECONDS, Server, invoke, wait_until

TEXTS = [f"a text about {what}, number {number}" for number in range(10) for what in ("a parcel", "rain", "tea", "war")]


OTHER, SAME, FAILING, WRONG, SLOW = "2", "4", "5", "6", "7"
"""Versions of another model, of the one that is live, and of that one made to fail on one word, to err, and slow."""
GUARDS = ("errors < stable + 5%", "p50 < 4 × stable", "agreement > 90%")
"""On a busy machine an engine that is asked seldom takes twice as long as one that is asked often;
SLOW at least five times."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small_template: Path, seeds: list[Path]) -> Iterator[Server]:
    """A server of `m`, whose version 1 is live."""
    home = copy_of(small_template, tmp_path_factory)
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    failing, wrong, slow = (tmp_path_factory.mktemp(name) for name in ("failing", "wrong", "slow"))
    lose_a_word(seeds[0], failing, TEXTS, 0.25)
    prefer_one_label(seeds[0], wrong, TEXTS, 0.3)
    widen(seeds[0], slow, 400_000)
    for folder, version in ((seeds[0], SAME), (failing, FAILING), (wrong, WRONG), (slow, SLOW)):
        assert log_model(folder, task="text-classification", name="m", settings=settings).version == version
    with Server(home, ("m",)) as server:
        yield server


def status(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke(server.home, "rollout", "status", "m", "--json").output)
    return found


def ask(server: Server) -> list[httpx.Response]:
    """The answers to some requests with keys of their own."""
    return [
        server.http.post("/models/m", json={"inputs": text}, headers={"X-Headwaiter-Key": f"customer {number}"})
        for number, text in enumerate(TEXTS)
    ]


def ask_all(server: Server) -> set[str]:
    """The versions that answer some requests, all of which succeed."""
    answers = ask(server)
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["x-model-version"] for answer in answers}


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
    told = "failed at shadow:40: agreement > 90%"  # in a second write, after the one that ends the rollout
    wait_until(lambda: told in invoke(server.home, "history", "m").output, "history tells it")
    wait_until(lambda: OTHER not in server.describe("m")["versions"], "the candidate has left")


def test_a_version_that_fails_on_some_inputs_is_caught_by_its_errors(server: Server) -> None:
    start(server, FAILING, "--steps", "50%,100%", "--guard", "errors < stable + 1%")
    statuses: list[int] = []

    def is_caught() -> bool:
        statuses.extend(answer.status_code for answer in ask(server))
        return bool(status(server)["phase"] == "failed")

    wait_until(is_caught, "failed: ", WAIT_SECONDS, server.log)
    assert set(statuses) == {200, 500}
    assert status(server)["stop"]["guard"] == "errors < stable + 1%"
    wait_until(lambda: {answer.status_code for answer in ask(server)} == {200}, "nobody gets its answers")


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
    wait_until(lambda: server.describe("m")["rollout"]["phase"] == "paused", "GET /models/m tells")
    assert "rollout of champion  1 → 4  paused  [50%]  100%" in invoke(server.home, "status", server.url).output
    invoke(server.home, "rollout", "abort", "m", "--why", "enough")
    wait_until(lambda: ask_all(server) == {"1"}, "all requests are the stable version's")
    assert server.describe("m")["rollout"] is None
    refused = invoke(server.home, "rollout", "resume", "m", "--why", "again", check=False)
    assert (refused.exit_code, "is over: aborted" in refused.output) == (1, True)


@pytest.mark.long
def test_the_demo_of_rollouts_in_short_form(server: Server) -> None:
    """Its four candidates, under its clients' requests, with fewer of them to be certain by."""
    steps = ("shadow:40", "10%", "50%", "100%")
    rollouts = Rollouts(Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(server.home)})))
    said: list[str] = []

    def candidate(version: str, title: str, *, is_good: bool = False) -> DemoCandidate:
        return DemoCandidate(version=version, title=title, steps=steps, guards=GUARDS, is_good=is_good)

    with Traffic(f"{server.url}/models/m", TEXTS, rate=80) as traffic:
        wrong, failing, slow, good = (
            roll_out(rollouts, server.http, traffic, "m", each, said.append)
            for each in (
                candidate(WRONG, "30 % wrong"),
                candidate(FAILING, "fails on a quarter"),
                candidate(SLOW, "slow"),
                candidate(SAME, "as good", is_good=True),
            )
        )
    assert [each.harmed for each in (wrong, failing)] == [0, 0]
    assert [(each.phase, each.step) for each in (wrong, failing)] == [("failed", "shadow:40")] * 2
    assert wrong.why.startswith("agreement > 90%: ")
    assert (slow.phase, slow.step, slow.why.partition(":")[0]) == ("failed", "10%", "p50 < 4 × stable")
    first = next(at for at, each in enumerate(slow.sent) if each.version == SLOW)
    in_step = len(slow.sent) - first
    assert slow.harmed <= 1 + 0.1 * in_step + 5 * (0.09 * in_step) ** 0.5  # a step of 10 %, at random
    assert (good.phase, good.harmed) == ("promoted", 0)
    assert {each.version for each in good.sent} == {"1", SAME}
    assert any("promoted after" in line and "0 of them harmed (0.00%)" in line for line in said)
