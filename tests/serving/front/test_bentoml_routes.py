"""BentoML's own routes behind the data plane: its app as the server makes it."""

import asyncio
from typing import Any

import bentoml
import httpx
import pytest
from _bentoml_sdk.service.factory import Service

from serving.front.app import DataPlane
from serving.front.openapi.routes import BENTOML
from serving.front.openapi.routes import ROUTES as DECLARED
from tests.serving.front.local_front import MakeFront

GETS = [
    route.path for route in DECLARED if route.protocol == BENTOML and route.method == "GET" and "{" not in route.path
]


class Typed:
    """An API of BentoML's."""

    @bentoml.api
    def predict(self, text: str) -> str:
        return text


@pytest.fixture
def plane(make_front: MakeFront) -> Any:
    from serving.service import _leave_out_redirects

    inner = Service(name="typed", config={}, inner=Typed).to_asgi()
    inner.user_middleware.clear()  # its metrics are registered once in a process
    _leave_out_redirects(inner)
    return DataPlane(make_front(), inner)


def ask(plane: Any, method: str, path: str) -> httpx.Response:
    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, json=None if method == "GET" else {"model": "m", "inputs": "a"})

    return asyncio.run(work())


@pytest.mark.parametrize("path", GETS)
def test_a_slash_at_the_end_changes_nothing(plane: Any, path: str) -> None:
    plain, slashed = ask(plane, "GET", path), ask(plane, "GET", f"{path}/")
    assert (slashed.status_code, slashed.content) == (plain.status_code, plain.content)
    assert "location" not in slashed.headers


@pytest.mark.parametrize("path", ["/predict", "/predict/", "/predict//"])
def test_a_slash_at_the_end_changes_nothing_for_the_typed_api(path: str, make_front: MakeFront) -> None:
    paths = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert ask(DataPlane(make_front(), inner), "POST", path).status_code == 200
    assert paths == ["/predict"]


@pytest.mark.parametrize("path", ["/static_content", "/static_content/", "/static_content/index.css/", "/nowhere/"])
def test_nothing_is_redirected_to_a_host_that_the_client_names(plane: Any, path: str) -> None:
    assert "location" not in ask(plane, "GET", path).headers


def test_the_page_loads_nothing_from_other_hosts(plane: Any) -> None:
    page = ask(plane, "GET", "/")
    assert "googletagmanager" in page.text, "BentoML's page has changed: is the policy still needed?"
    policy = dict(each.split(" ", 1) for each in page.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'", "an inline script would load another"
    sources = {source for sources in policy.values() for source in sources.split()}
    assert sources <= {"'self'", "'none'", "'unsafe-inline'", "data:", "blob:"}


def test_the_files_of_the_page_are_its_own(plane: Any) -> None:
    for name in ("swagger-ui.css", "index.css", "swagger-ui-bundle.js", "swagger-initializer.js"):
        assert f'"./static_content/{name}"' in ask(plane, "GET", "/").text
        assert ask(plane, "GET", f"/static_content/{name}").status_code == 200
