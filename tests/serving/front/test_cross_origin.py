"""Pages of other origins: allowed on request, on ASGI and on the fast path alike."""

import asyncio
import re
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry.settings import InvalidSetting
from serving.front.cross_origin import allow_origins
from serving.front.fast_path import FastConnection
from serving.setting_values import read_origins
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.test_fast_path import BODY, Whole, answers, request
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


PAGE = "https://app.example.com"
FROM_PAGE = (f"Origin: {PAGE}", "Connection: close")
PREFLIGHT = (
    "OPTIONS {path} HTTP/1.1\r\nHost: here\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
    "Access-Control-Request-Headers: authorization, x-request-id\r\nConnection: close\r\n\r\n"
)


def ask(make_front: MakeFront, http: type[asyncio.Protocol], data: bytes, *origins: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer."""

    async def work() -> bytes:
        front = make_front(task=Whole(), cors_origins=origins)
        engines(front, "1", answer("an answer"))
        return await answers(front, http, data, lambda app: allow_origins(app, origins))

    head = asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS)).partition(b"\r\n\r\n")[0].decode()
    status, *lines = head.split("\r\n")
    return int(status.split()[1]), dict(re.split(": *", line.lower(), maxsplit=1) for line in lines)


@pytest.mark.parametrize("http", [HttpToolsProtocol, FastConnection])
def test_an_answer_says_which_origin_may_read_it(http: Any, make_front: MakeFront) -> None:
    def allowed(*origins: str, data: bytes = request(BODY, *FROM_PAGE)) -> tuple[int, str | None]:
        status, headers = ask(make_front, http, data, *origins)
        assert "access-control-allow-credentials" not in headers
        return status, headers.get("access-control-allow-origin")

    assert allowed() == (403, None)
    assert allowed(PAGE) == (200, PAGE)
    assert allowed("http://other:8080", PAGE) == (200, PAGE)
    assert allowed("http://other:8080") == (403, None)
    assert allowed("*") == (200, "*")
    refused = request(b'{"inputs": 3}', *FROM_PAGE)
    assert allowed(PAGE, data=refused) == (422, PAGE)
    assert allowed(PAGE, data=request(BODY, *FROM_PAGE, path="/models/nobody")) == (404, PAGE)
    _, headers = ask(make_front, http, request(BODY, *FROM_PAGE), PAGE)
    assert {"x-model-version", "server-timing", "retry-after"} <= set(
        headers["access-control-expose-headers"].split(", ")
    )


@pytest.mark.parametrize("http", [HttpToolsProtocol, FastConnection])
@pytest.mark.parametrize("path", ["/models/m", "/models/m/versions/1", "/v1/chat/completions", "/v2/models/m/infer"])
def test_a_preflight_request_is_answered_for_an_allowed_origin_only(
    http: Any, path: str, make_front: MakeFront
) -> None:
    data = PREFLIGHT.format(path=path, origin=PAGE).encode()
    status, headers = ask(make_front, http, data, PAGE)
    assert (status, headers["access-control-allow-origin"]) == (200, PAGE)
    assert "post" in headers["access-control-allow-methods"]
    assert {"authorization", "x-request-id"} <= set(headers["access-control-allow-headers"].split(", "))
    status, headers = ask(make_front, http, PREFLIGHT.format(path=path, origin="https://else").encode(), PAGE)
    assert (status, "access-control-allow-origin" in headers) == (400, False)
    status, headers = ask(make_front, http, data)
    assert (status, "access-control-allow-origin" in headers) == (405, False)


@pytest.mark.parametrize("http", [HttpToolsProtocol, FastConnection])
@pytest.mark.parametrize(
    ("told", "status"),
    [
        ((), 200),
        (("Origin: http://here",), 200),
        (("Origin: http://HERE",), 200),
        (("Origin: http://here:8080",), 403),
        (("Origin: null",), 403),
        (("Origin: http://[",), 403),
        (("Sec-Fetch-Site: same-origin", "Origin: https://proxy"), 200),
        (("Sec-Fetch-Site: none",), 200),
        (("Sec-Fetch-Site: same-site", "Origin: http://here"), 403),
        (("Sec-Fetch-Site: cross-site",), 403),
    ],
    ids=str,
)
def test_only_pages_of_this_server_send_to_one_without_keys(
    http: Any, told: tuple[str, ...], status: int, make_front: MakeFront
) -> None:
    data = request(BODY, *told, "Connection: close")
    assert ask(make_front, http, data)[0] == status


def test_origins_are_read_and_checked() -> None:
    assert read_origins("") == ()
    assert read_origins("*") == ("*",)
    assert read_origins(f" {PAGE}  http://localhost:5173 http://[::1]:80 {PAGE}") == (
        PAGE,
        "http://localhost:5173",
        "http://[::1]:80",
    )
    for wrong in ("app.example.com", f"{PAGE}/", "https://*.example.com", "null", f"{PAGE},http://b", "HTTPS://A"):
        with pytest.raises(InvalidSetting, match=r"HEADWAITER_CORS_ORIGINS=.* is not allowed"):
            read_origins(wrong)
