"""What is only described is not loaded: any page may have a browser send a GET, and it often does not say so."""

import asyncio
from typing import Any

import pytest

from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.openapi.routes import ROUTES
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.contracts import classifier
from tests.serving.front.local_front import MakeFront
from tests.waiting import WAIT_SECONDS

PATHS = sorted(
    {route.path.replace("{name}", "m").replace("{version}", "1") for route in ROUTES if route.method == "GET"}
)
KEY = ("m", "1")


def unloaded(make_front: MakeFront, *, has_contract: bool = True) -> Front:
    front = make_front()
    contract = classifier(max_tokens=8) if has_contract else None
    entry = VersionEntry(state="unloaded", on_demand=True, contract=contract)
    front.routing._loaded.clear()
    front.routing.table = Table(
        models={"m": ModelEntry(live="1", aliases={}, serves={"m@x": "1"}, versions={"1": entry})}
    )
    return front


async def get(front: Front, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Status and body of the answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost:3000")],
        "scheme": "http",
        "server": ("127.0.0.1", 3000),
        "client": ("127.0.0.1", 4000),
    }
    await asyncio.wait_for(DataPlane(front, inner)(scope, receive, send), WAIT_SECONDS)
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("has_contract", [True, False])
def test_no_get_loads_a_version(path: str, method: str, has_contract: bool, make_front: MakeFront) -> None:
    async def work() -> None:
        front = unloaded(make_front, has_contract=has_contract)
        asked = asyncio.create_task(get(front, path, method))
        while not asked.done() and not front.routing.demand._asked_at:
            await asyncio.sleep(0.001)
        assert not front.routing.demand._asked_at, "the manager would be told to load it"
        asked.result()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


@pytest.mark.parametrize(
    "path", ["/v2/models/m", "/v2/models/m/versions/1", "/v2/models/m/config", "/v2/models/m/stats", "/models/m/info"]
)
def test_a_version_that_is_not_loaded_is_described(path: str, make_front: MakeFront) -> None:
    status, body = asyncio.run(get(unloaded(make_front), path))
    assert status == 200
    assert b'"m"' in body


def test_a_version_of_which_nothing_is_known_yet_is_refused(make_front: MakeFront) -> None:
    status, body = asyncio.run(get(unloaded(make_front, has_contract=False), "/v2/models/m"))
    assert status == 503
    assert b"is loaded on demand" in body
