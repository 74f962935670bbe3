"""Rollouts through a real server: an equal version is promoted, one with other answers is caught before any client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.flavor import log_model
from registry.settings import RegistrySettings
from tests.e2e.conftest import copy_of
from tests.e2e.server import WAIT_SECONDS, Server, invoke, wait_until

TEXTS = [f"a text about {what}, number {number}" for number in range(10) for what in ("a parcel", "rain", "tea", "war")]


OTHER, SAME, FAILING = "2", "4", "5"
"""Versions of another model, of the one that is live, and of that one with no finite answer for one word."""


def spoil(folder: Path, word: str, target: Path) -> Path:
    """A copy of the classifier which fails on texts with this word."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)] = float("nan")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, small_template: Path, seeds: list[Path]) -> Iterator[Server]:
    """A server of `m`, whose version 1 is live."""
    home = copy_of(small_template, tmp_path_factory)
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    failing = spoil(seeds[0], "war", tmp_path_factory.mktemp("failing"))
    for folder, version in ((seeds[0], SAME), (failing, FAILING)):
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
    history = invoke(server.home, "history", "m").output
    assert "failed at shadow:40: agreement > 90%" in history
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
    invoke(server.home, "rollout", "abort", "m", "--why", "enough")
    wait_until(lambda: ask_all(server) == {"1"}, "all requests are the stable version's")
    refused = invoke(server.home, "rollout", "resume", "m", "--why", "again", check=False)
    assert (refused.exit_code, "is over: aborted" in refused.output) == (1, True)
