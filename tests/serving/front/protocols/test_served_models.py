"""Which models a protocol names: those that take requests. One that is leaving only finishes what it has."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serving.front.app import DataPlane
from serving.front.front import Front
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.serving.front.local_front import MakeFront

LEAVING = ModelEntry(live=None, aliases={}, versions={"3": VersionEntry(state="draining")})
STAYING = ModelEntry(
    live="1", aliases={"champion": "1"}, versions={"1": VersionEntry(state="ready")}, serves={"a": "1"}
)


async def no_other_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope["path"])


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    front = make_front()
    front.routing.table = Table(models={"leaving": LEAVING, "m": STAYING})
    return front


@pytest.fixture
def ask(front: Front) -> Callable[..., httpx.Response]:
    def ask(method: str, path: str, **given: Any) -> httpx.Response:
        async def work() -> httpx.Response:
            transport = httpx.ASGITransport(DataPlane(front, no_other_app))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, **given)

        return asyncio.run(work())

    return ask


def test_openai_lists_models_that_take_requests(ask: Callable[..., httpx.Response]) -> None:
    assert [model["id"] for model in ask("GET", "/v1/models").json()["data"]] == ["m"]
    assert ask("GET", "/v1/models/m").json()["id"] == "m"
    assert ask("GET", "/v1/models/leaving").status_code == 404


def test_a_model_that_is_leaving_does_not_make_the_one_model_ambiguous(ask: Callable[..., httpx.Response]) -> None:
    answer = ask("POST", "/invocations", json={"inputs": ["a"]})
    assert (answer.status_code, "m/1" in answer.json()["message"]) == (503, True), "the one model was asked"


def test_where_all_models_are_leaving_none_is_named(front: Front, ask: Callable[..., httpx.Response]) -> None:
    front.routing.table = Table(models={"leaving": LEAVING})
    answer = ask("POST", "/invocations", json={"inputs": ["a"]})
    assert (answer.status_code, "none yet" in answer.json()["message"]) == (404, True)


def test_the_servers_own_list_shows_what_is_leaving_too(ask: Callable[..., httpx.Response]) -> None:
    assert [model["name"] for model in ask("GET", "/models").json()["models"]] == ["leaving", "m"]
