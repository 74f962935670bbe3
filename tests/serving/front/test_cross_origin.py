"""Pages of other origins: allowed on request, on ASGI and on the fast path alike."""

import asyncio
import re
from contextlib import nullcontext
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry.settings import InvalidSetting
from serving.errors import Forbidden
from serving.front.cross_origin import allow_origins, check_origin
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


@pytest.mark.parametrize(
    ("host", "origin", "scheme", "is_own"),
    [
        ("localhost:3000", "http://localhost:3000", "http", True),
        ("LOCALHOST:3000", "http://localhost:3000", "http", True),
        ("localhost:3000", "http://localhost", "http", False),
        ("localhost:3000", "http://localhost:03000x", "http", False),
        ("localhost:3000", "http://a@localhost:3000", "http", False),
        ("localhost:3000", "http://localhost:3000/", "http", False),
        ("localhost:3000", "chrome-extension://localhost:3000", "http", False),
        ("localhost:3000", "file://localhost:3000", "http", False),
        ("localhost:3000", "//localhost:3000", "http", False),
        ("localhost", "http://localhost", "http", True),
        ("localhost", "http://localhost:443", "http", False),
        ("localhost:80", "http://localhost", "http", True),
        ("localhost", "http://localhost:80", "http", True),
        ("name:443", "https://name", "http", True),  # behind a proxy that speaks TLS
        ("name", "https://name", "http", True),
        ("name:443", "http://name", "http", False),
        ("name:80", "https://name", "http", False),
        ("name:8443", "https://name:8443", "http", True),
        ("name:8443", "https://name:8443", "https", True),
        ("name:8443", "http://name:8443", "https", False),
        ("name", "http://name", "https", False),
        ("[::1]:3000", "http://[::1]:3000", "http", True),
        ("[::1]", "http://[::1]:3000", "http", False),
        ("name:", "http://name", "http", False),
        ("", "null", "http", False),
        ("name:99999999999", "http://name:99999999999", "http", False),
    ],
)
def test_an_own_origin_has_the_scheme_host_and_port_of_this_server(
    host: str, origin: str, scheme: str, is_own: bool
) -> None:
    headers = [(b"host", host.encode()), (b"origin", origin.encode())]
    scope = {"method": "POST", "scheme": scheme, "headers": headers}
    with nullcontext() if is_own else pytest.raises(Forbidden):
        check_origin(scope, ())


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
