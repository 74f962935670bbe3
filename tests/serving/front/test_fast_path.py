"""The fast path answers as ASGI alone does, and is left where uvicorn does not allow it."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.merge import Merge
from serving.front.app import DataPlane
from serving.front.asgi import App
from serving.front.connection import Connection
from serving.front.connection_choice import check_uvicorn, choose_connection
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.fast_path import FastConnection, FastRequest
from serving.front.front import Front
from serving.runtime.instruments import instruments
from tests.serving.front.local_front import Letters, MakeFront, answer, engines
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


CHANGING = re.compile(rb"(?m)^(date|server-timing|x-request-id): .*?\r\n")


class Whole(Letters):
    """Answers at once, so nothing of it can be a stream."""

    generates = False


async def no_other_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope)


def request(body: bytes, *lines: str, path: str = "/models/m", version: str = "1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


async def answers(
    front: Front, http: type[asyncio.Protocol], data: bytes, wrap: Callable[[App], App] = lambda app: app
) -> bytes:
    """The bytes that the server sends on one connection until the last request in `data` closes it.

    wrap: makes the app that is served from Headwaiter's.
    """
    app = DataPlane(front, no_other_app)
    if issubclass(http, Connection):
        http.guard = ConnectionGuard(ConnectionLimits.of(front.settings))
    if issubclass(http, FastConnection):
        http.front, http.protocol = front, app.huggingface
    config = uvicorn.Config(wrap(app), port=0, http=http, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    found = await reader.read()
    writer.close()
    server.should_exit = True
    await serving
    return found


BODY = b'{"inputs": "a text"}'


@pytest.mark.parametrize(
    "data",
    [
        request(BODY, "Connection: close"),
        request(BODY) + request(BODY, "Connection: close", path="/models/m/versions/1"),
        request(BODY, "Connection: close", path="/models/nobody"),
        request(BODY, "Connection: close", path="/models/m/versions/9"),
        request(b"[", "Connection: close"),
        request(b'{"inputs": 3}', "X-Request-Id: mine", "Connection: close"),
        request(b'{"inputs": "a", "stream": true}', "Connection: close"),
        request(BODY, version="1.0"),
    ],
    ids=["plain", "two", "no model", "no version", "no JSON", "no text", "no stream", "HTTP/1.0"],
)
def test_the_fast_path_answers_as_asgi_alone_does(data: bytes, make_front: MakeFront) -> None:
    made: list[bool] = []

    class Counted(FastConnection):
        def _plain_request(self) -> FastRequest | None:
            found = super()._plain_request()
            made.append(found is not None)
            return found

    async def work() -> list[bytes]:
        front = make_front(task=Whole())
        engines(front, "1", *[answer("an answer")] * 9)
        return [await answers(front, http, data) for http in (HttpToolsProtocol, Counted)]

    asgi, fast = asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert asgi.startswith(b"HTTP/1.1 ")
    assert sorted(CHANGING.sub(b"", asgi).splitlines()) == sorted(CHANGING.sub(b"", fast).splitlines())
    assert any(made) == (b"HTTP/1.0" not in data)


def refusals() -> float:
    labels = ("m", "1", "text-generation", "queue_full")
    return Merge(instruments().store.folder).read().get(("rejected_total", labels), [0.0])[0]


def test_a_full_queue_refuses_without_a_task_as_asgi_does(make_front: MakeFront) -> None:
    class Tasks(FastRequest):
        made = 0

        async def _answer(self) -> None:
            Tasks.made += 1
            await super()._answer()

    class Counted(FastConnection):
        def _plain_request(self) -> FastRequest | None:
            found = super()._plain_request()
            return found and Tasks(self, "m", None, None)

    data = request(BODY, "X-Request-Id: mine") + request(BODY, "Connection: close", path="/models/m/versions/1")
    fronts = []

    async def work() -> list[bytes]:
        found = []
        for http in (HttpToolsProtocol, Counted):
            front = make_front(task=Whole())
            share = engines(front, "1").share
            share.tokens, share.tokens_per_second = share.bound_tokens, share.bound_tokens / 7
            before = refusals()
            found.append(await answers(front, http, data))
            fronts.append(refusals() - before)
        return found

    asgi, fast = asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert fast.count(b"HTTP/1.1 429 ") == 2
    assert b"x-request-id: mine" in fast
    assert b"retry-after: 7" in fast
    assert sorted(CHANGING.sub(b"", asgi).splitlines()) == sorted(CHANGING.sub(b"", fast).splitlines())
    assert fronts == [2, 2], "each is counted once"
    assert not Tasks.made


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_this_uvicorn_allows_our_connections(kind: type[Connection]) -> None:
    check_uvicorn(kind)


def without(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delattr(owner, name)


def renamed_in_connections(patch: pytest.MonkeyPatch) -> None:
    made = HttpToolsProtocol.__init__

    def init(self: Any, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self.all_tasks = self.__dict__.pop("tasks")

    patch.setattr(HttpToolsProtocol, "__init__", init)


def sends_otherwise(patch: pytest.MonkeyPatch) -> None:
    """The connection tells of a body in another way than by `message_event`."""
    patch.setattr(HttpToolsProtocol, "on_message_complete", lambda self: None)


@pytest.mark.parametrize(
    "change",
    [
        without(HttpToolsProtocol, "_start_asgi_task"),
        without(FlowControl, "drain"),
        lambda patch: patch.delitem(HTTP_PROTOCOLS, "auto"),
        renamed_in_connections,
    ],
    ids=["method", "flow", "table", "attribute"],
)
def test_another_uvicorn_is_told_apart_and_makes_its_own_connections(
    change: Callable[[pytest.MonkeyPatch], None],
    make_front: MakeFront,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)
    plane = DataPlane(make_front(), no_other_app)
    change(monkeypatch)
    before = dict(HTTP_PROTOCOLS)
    assert choose_connection(plane.huggingface) is None
    assert before == HTTP_PROTOCOLS
    fast, bounded = (record for record in caplog.records if record.name == "headwaiter.front")
    assert "all requests take ASGI" in fast.getMessage()
    assert bounded.levelname == "ERROR"
    assert "neither deadlines nor bounds" in bounded.getMessage()


@pytest.mark.parametrize(("fast_path", "kind"), [(True, FastConnection), (False, Connection)])
def test_uvicorn_makes_the_connections_that_were_chosen(
    fast_path: bool, kind: type[Connection], make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    assert choose_connection(DataPlane(make_front(fast_path=fast_path), no_other_app).huggingface) is kind
    config = uvicorn.Config(no_other_app, lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is kind


def test_where_only_the_fast_path_does_not_work_connections_are_bounded_all_the_same(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    sends_otherwise(monkeypatch)
    assert choose_connection(DataPlane(make_front(), no_other_app).huggingface) is Connection
