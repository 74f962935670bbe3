"""`/predict` answers its refusals itself, so that BentoML logs none of them; a bug is logged."""

import asyncio
import json
import logging
import pickle
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from _bentoml_impl.server.app import ServiceAppFactory
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from serving import service
from serving.errors import Failed, QueueFull
from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.protocols.bentoml import InvalidForms, PredictForm, predict, quiet_refusals
from tests.serving.front.attacked import Whole
from tests.serving.front.local_front import MakeFront, answer, engines

ID = (b"x-request-id", b"mine")


class Broken(Whole):
    """A task with a bug."""

    def decode(self, *given: Any) -> Any:
        raise ZeroDivisionError("a bug")


@pytest.fixture
def app(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> DataPlane:
    """A front's app around BentoML's own, without what BentoML starts with it."""
    front = make_front(task=Whole())
    engines(front, "1", *[answer("an answer")] * 9)
    monkeypatch.setattr(service, "front", lambda: front)
    service.Headwaiter.inject_config()
    factory = ServiceAppFactory(service.Headwaiter)
    inner = factory()
    local = partial(service.Headwaiter.apis["predict"].func, None)
    factory._service_instance = SimpleNamespace(predict=SimpleNamespace(local=local))
    return DataPlane(front, inner)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged in a process of a front."""
    logger = logging.getLogger("bentoml._internal.server.http_app")
    before = list(logger.filters)
    quiet_refusals()
    yield caplog
    logger.filters = before


async def post(app: DataPlane, body: bytes, kind: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/predict", content=body, headers={"content-type": kind})


KINDS = ["application/json", "multipart/form-data", "application/vnd.bentoml+pickle", "text/plain"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"model": "m", "inputs": "a", "parameters": {"temperature": -1}}', 422, "parameters.temperature"),
        (b'{"model": "nobody", "inputs": "a"}', 404, "there is no model 'nobody'"),
        (b'{"inputs": "a"}', 400, "1 validation error"),
        (b'{"model": 7, "inputs": "a", "parameters": []}', 400, "2 validation error"),
        (b"not json", 400, "1 validation error"),
        (b"", 400, "2 validation error"),
        (b'{"model": "m", "inputs": "\xff"}', 400, "1 validation error"),
        (b'{"model": "m", "inputs": "\\ud800"}', 400, "1 validation error"),
        (b'{"model": "m", "inputs": ' + b"[" * 500 + b"]" * 500 + b"}", 400, "1 validation error"),
        (b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n", 400, "1 validation error"),
        (pickle.dumps({"model": "m", "inputs": "a"}), 400, "1 validation error"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_refused_is_told_and_not_logged(
    app: DataPlane, logged: pytest.LogCaptureFixture, kind: str, body: bytes, status: int, words: str
) -> None:
    found = asyncio.run(post(app, body, kind))
    assert (found.status_code, found.headers["content-type"]) == (status, "application/json"), found.text
    assert words in found.json()["error"]
    assert not [record for record in logged.records if record.exc_info]


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_is_json_whatever_its_content_type_says(app: DataPlane, kind: str) -> None:
    found = asyncio.run(post(app, b'{"model": "m", "inputs": "a text"}', kind))
    assert (found.status_code, found.json()) == (200, "an answer"), found.text
    assert found.headers["x-model-version"] == "1"


def test_rows_of_a_client_that_left_are_given_up(
    make_front: MakeFront, app: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = make_front(task=Whole())
    link = engines(front, "1", lambda waiter: None)
    monkeypatch.setattr(service, "front", lambda: front)
    messages = [{"type": "http.request", "body": b'{"model": "m", "inputs": "a text"}', "more_body": False}]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "headers": []}
    scope |= {
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 80),
        "http_version": "1.1",
    }

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    async def work() -> None:
        asking = asyncio.create_task(app(scope, receive, send))
        now = time.monotonic()
        while not asking.done():
            await asyncio.sleep(0.01)
            now += 1.0
            front._disconnects.tick(now)

    asyncio.run(asyncio.wait_for(work(), 30))
    assert link.abandoned == link.waiters != []


def ask(front: Front, form: PredictForm) -> Response:
    return asyncio.run(predict(front, form, [ID]))


def test_an_answer_has_its_version_and_times(make_front: MakeFront) -> None:
    front = make_front(task=Whole())
    engines(front, "1", answer("an answer"))
    found = ask(front, PredictForm("m", "a text"))
    assert (found.status_code, json.loads(bytes(found.body))) == (200, "an answer")
    assert found.headers["x-model-version"] == "1"
    assert found.headers["x-request-id"] == "mine"
    assert found.headers["server-timing"].startswith("tokenize;dur=")


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [(QueueFull("the queue is full", retry_seconds=2.5), 429, "3"), (Failed("the model failed"), 500, None)],
)
def test_a_refusal_says_why_and_when_to_try_again_and_logs_no_traceback(
    make_front: MakeFront, caplog: pytest.LogCaptureFixture, error: Any, status: int, retry: str | None
) -> None:
    front = make_front(task=Whole())
    engines(front, "1", lambda waiter: waiter.fail(error))
    found = ask(front, PredictForm("m", "a text"))
    assert (found.status_code, found.headers.get("retry-after")) == (status, retry)
    assert json.loads(bytes(found.body)) == {"error": error.message}
    assert not [record for record in caplog.records if record.exc_info]


def test_a_bug_is_logged_with_its_traceback_and_not_told(
    make_front: MakeFront, caplog: pytest.LogCaptureFixture
) -> None:
    front = make_front(task=Broken())
    engines(front, "1", answer("an answer"))
    found = ask(front, PredictForm("m", "a text"))
    assert found.status_code == 500
    assert "a bug" not in bytes(found.body).decode()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_only_tracebacks_of_invalid_forms_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    class Form(BaseModel):
        model: str

    logger = logging.Logger("of BentoML")
    logger.addHandler(caplog.handler)
    logger.addFilter(InvalidForms())
    for make in (lambda: Form.model_validate({}), lambda: 1 / 0):
        try:
            make()
        except (ValidationError, ZeroDivisionError):
            logger.exception("Exception on /predict [POST]")
    logger.error("a word")
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ZeroDivisionError, None]


@pytest.mark.parametrize("path", ["/predict%0A", "/predict%00", "/metrics%0a", "/%7Fpredict"])
def test_a_path_with_a_control_character_is_no_route(app: DataPlane, path: str) -> None:
    """BentoML's pattern of `/predict` lets a line feed pass, and would answer it without the checks of its body."""

    async def work() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post(path, content=b'{"model": "m", "inputs": "a"}')

    found = asyncio.run(work())
    assert found.status_code == 404
    assert "control character" in found.text


@pytest.mark.parametrize(("fields", "status"), [({"top_k": 1}, 422), ({"parameter": {}}, 422), ({"top_k": None}, 200)])
def test_an_unknown_field_is_refused_by_its_name(app: DataPlane, fields: dict[str, Any], status: int) -> None:
    body = json.dumps({"model": "m", "inputs": "a"} | fields).encode()
    found = asyncio.run(post(app, body, "application/json"))
    assert (found.status_code, next(iter(fields)) in found.text) == (status, status == 422), found.text
