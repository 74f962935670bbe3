"""Nothing answers without a key where there are keys; and a key opens what it is for, and no more."""

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from _bentoml_sdk import Service
from starlette.routing import Mount

from registry.settings import InvalidSetting
from serving.front.access import Access
from serving.front.app import DataPlane
from serving.front.connection import Connection
from serving.front.fast_path import FastConnection
from serving.front.front import Front
from serving.runtime.key_file import KeyFile
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, VersionEntry
from tests.serving.front.attacked import BODY, PATIENT, Attacked, attack, head
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.test_fast_path import Whole
from tests.test_docs import ROUTES
from tests.waiting import WAIT_SECONDS

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")


class Asked:
    """The answer to one request, and whether the server read anything of its body."""

    status = 0
    has_read = False

    def __init__(self, given: bytes = b'{"inputs": "a text"}') -> None:
        self.given = given
        self.headers: dict[str, str] = {}
        self.body = b""

    async def receive(self) -> dict[str, Any]:
        self.has_read = True
        return {"type": "http.request", "body": self.given, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.headers |= {name.decode(): value.decode() for name, value in message.get("headers", ())}
        self.body += message.get("body", b"")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Any, method: str, path: str, *headers: tuple[str, str], kind: str = "http") -> Asked:
    asked = Asked(b"{}") if "repository" in path else Asked()
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": kind, "method": method, "path": path, "headers": sent, "query_string": b"", "root_path": ""}
    asyncio.run(app(scope, asked.receive, asked.send))
    return asked


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


class Closed:
    """A server with keys: of somebody who may ask "m" and "absent", and of an operator."""

    def __init__(self, front: Front, file: KeyFile) -> None:
        self.front = front
        self.file = file
        self.inner: list[str] = []
        self.app = DataPlane(front, self.other_app)
        self.somebody = bearer(file.add("somebody", models=("m", "absent")))
        self.operator = bearer(file.add("operator", admin=True))
        front.access._reload()

    async def other_app(self, scope: Any, receive: Any, send: Any) -> None:
        self.inner.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    def ask(self, method: str, path: str, *headers: tuple[str, str]) -> Asked:
        return ask(self.app, method, path, *headers)


@pytest.fixture
def closed(tmp_path: Path, make_front: MakeFront) -> Iterator[Closed]:
    file = KeyFile(tmp_path / "keys.json")
    file.add("first")
    front = make_front(task=Whole(), keys_file=tmp_path / "keys.json")
    front.access.start(tmp_path, 1, 0)
    entry = VersionEntry(state="failed", error="the reason in words")
    secret = ModelEntry(live="1", aliases={}, versions={"1": entry}, error="a trouble")
    front.routing.table = Table(models={**front.routing.table.models, "secret": secret}, is_known=True)
    yield Closed(front, file)
    front.access.close()


def bentoml_paths() -> list[str]:
    """The routes of BentoML's own app."""
    from serving.service import Headwaiter

    app: Any = Service.to_asgi(Headwaiter)
    paths = [f"{route.path}/a-file" if isinstance(route, Mount) else route.path for route in app.routes]
    assert {"/predict", "/livez", "/readyz", "/docs.json", "/"} <= set(paths)
    return paths


def all_paths(app: DataPlane) -> list[str]:
    """Of the app's own tables, of the documentation, and what lies beside them; without the page, which is public."""
    openai: Any = app._handlers["v1"]
    own = [f"/{first}" for first in app._handlers if first != "ui"]
    below = [f"/models/m{base}/{name}" for base in ("", "/v1") for name in ("", "health", "info", *openai._routes)]
    documented = [
        route.replace("{name}", "m").replace("{version}", "1") for _, route in ROUTES if not route.startswith("/ui")
    ]
    strange = [
        "",
        "//",
        "/models//",
        "/%2e%2e/metrics",
        "/METRICS",
        "/metrics/",
        "/nothing",
        "/static_content/../predict",
    ]
    return [*own, *(f"/v1/{name}" for name in openai._routes), *below, *documented, *bentoml_paths(), *strange]


def test_no_route_answers_without_a_key_or_with_a_wrong_one(closed: Closed) -> None:
    paths = all_paths(closed.app)
    assert len(paths) > 60
    wrong: list[list[tuple[str, str]]] = [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer ")],
        [bearer("hw_wrong")],
        [("Authorization", closed.operator[1].removeprefix("Bearer "))],
        [("Authorization", closed.operator[1].replace("Bearer", "Basic"))],
        [bearer("hw_wrong"), closed.operator],
        [("X-Api-Key", closed.operator[1])],
    ]
    for path in paths:
        for method in METHODS:
            for headers in wrong if path in ("/models/m", "/predict") else wrong[:1]:
                asked = closed.ask(method, path, *headers)
                assert asked.status == 401, (method, path, headers)
                assert asked.headers["www-authenticate"] == "Bearer"
                assert asked.headers["x-request-id"]
                assert not asked.has_read, "the body of a stranger is not read"
    assert closed.inner == []


def test_the_same_routes_answer_with_a_key(closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 99)
    for path in all_paths(closed.app):
        assert closed.ask("GET", path, closed.operator).status not in (401, 403), path
    assert "/predict" in closed.inner


def test_no_other_kind_of_connection_gets_in(closed: Closed) -> None:
    assert ask(closed.app, "GET", "/predict", kind="websocket").status == 0
    assert closed.inner == []


def test_each_protocol_refuses_in_its_own_form(closed: Closed) -> None:
    message = "this server asks for a key: send the header Authorization: Bearer KEY"
    openai = {"message": message, "type": "authentication_error", "param": None, "code": "invalid_api_key"}
    bodies = {
        "/models/m": {"error": message, "error_type": "unauthorized"},
        "/v1/completions": {"error": openai},
        "/models/m/v1/completions": {"error": openai},
        "/v2/models/m/infer": {"error": message},
        "/invocations": {"error_code": "UNAUTHENTICATED", "message": message},
        "/predict": {"error": message},
        "/hooks/mlflow": {"error": message, "error_type": "unauthorized"},
    }
    for path, body in bodies.items():
        assert closed.ask("POST", path).json == body, path


def test_a_key_asks_the_models_that_it_is_for(closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 9)
    assert closed.ask("POST", "/models/m", closed.somebody).json == "an answer"
    assert closed.ask("POST", "/models/m@alias", closed.somebody).status == 404
    refused = closed.ask("POST", "/models/secret", closed.somebody)
    assert (refused.status, refused.json["error_type"]) == (403, "forbidden")
    for path in ("/models/secret@x", "/models/secret/versions/1", "/invocations/secret", "/models/nobody"):
        assert closed.ask("POST", path, closed.somebody).status == 403, "whether or not it is there"
    for path in (
        "/models/secret",
        "/models/secret/info",
        "/v1/models/secret",
        "/v2/models/secret",
        "/models/secret/health",
    ):
        assert closed.ask("GET", path, closed.somebody).status == 403
    for path in ("/v2/models/secret/ready", "/v2/models/secret/stats", "/v2/models/secret/config"):
        assert closed.ask("GET", path, closed.somebody).status == 403
    absent = closed.ask("POST", "/models/absent", closed.somebody)
    assert absent.status == 404
    assert "secret" not in absent.json["error"]
    assert closed.ask("POST", "/invocations", closed.somebody).status != 404, "m is the only model that it sees"


def test_what_a_key_cannot_ask_it_does_not_see(closed: Closed) -> None:
    lists = [("GET", "/models"), ("GET", "/v1/models"), ("POST", "/v2/repository/index"), ("GET", "/v2/models/stats")]
    for method, path in lists:
        seen, known = (closed.ask(method, path, key).body for key in (closed.somebody, closed.operator))
        assert b"secret" not in seen, path
        assert b'"m"' in seen, path
        assert path == "/v2/models/stats" or b"secret" in known


def test_what_is_for_operators_is_shown_to_nobody_else(closed: Closed) -> None:
    for path in ("/models", "/models/m"):
        shown = closed.ask("GET", path, closed.somebody).json
        model = shown["models"][0] if path == "/models" else shown
        assert model == {"name": "m", "live": "1", "aliases": {}, "versions": {"1": {"state": "ready"}}}
        assert path != "/models" or shown.keys() == {"models"}
    assert {"machine", "registry_error"} <= closed.ask("GET", "/models", closed.operator).json.keys()
    assert "engines" in closed.ask("GET", "/models/m", closed.operator).json["versions"]["1"]
    asked = closed.ask("GET", "/metrics", closed.somebody)
    assert (asked.status, asked.json) == (403, {"error": "/metrics takes a key that was made with --admin"})
    assert closed.ask("GET", "/metrics", closed.operator).status == 200
    everything = bearer(closed.file.add("all-models"))
    closed.front.access._reload()
    index = closed.ask("POST", "/v2/repository/index", everything).json
    assert {entry["reason"] for entry in index} == {""}
    index = closed.ask("POST", "/v2/repository/index", closed.operator).json
    assert "the reason in words" in {entry["reason"] for entry in index}


def test_a_key_with_a_rate_is_told_when_to_come_again(closed: Closed) -> None:
    slow = bearer(closed.file.add("slow", rate=0.01))
    closed.front.access._reload()
    engines(closed.front, "1", *[answer("an answer")] * 9)
    assert closed.ask("POST", "/models/m", slow).status == 200
    for path, reason in (
        ("/models/m", ("error_type", "key_limit")),
        ("/invocations", ("error_code", "REQUEST_LIMIT_EXCEEDED")),
    ):
        asked = closed.ask("POST", path, slow)
        assert (asked.status, asked.json[reason[0]], asked.has_read) == (429, reason[1], False)
        assert 90 < int(asked.headers["retry-after"]) <= 100
    refused = closed.ask("POST", "/v1/embeddings", slow)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert closed.ask("POST", "/models/m", closed.somebody).status == 200


def test_requests_of_a_key_in_progress_are_bounded(closed: Closed) -> None:
    one = bearer(closed.file.add("one", concurrency=1))
    closed.front.access._reload()
    link = engines(closed.front, "1")
    link.on_submit = lambda waiter: None

    async def work() -> None:
        first, second = Asked(), Asked()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/models/m",
            "headers": [(b"authorization", one[1].encode())],
        }
        asking = asyncio.create_task(closed.app(dict(scope), first.receive, first.send))
        while not link.waiters:
            await asyncio.sleep(0)
        await closed.app(dict(scope), second.receive, second.send)
        assert second.status == 429
        link.waiters[0].put(0, ["an answer"], 0.1)  # type: ignore[list-item]
        await asking
        assert first.status == 200
        link.on_submit = answer("another")
        await closed.app(dict(scope), second.receive, second.send)
        assert second.status == 200

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_changes_of_the_file_hold_without_a_restart(closed: Closed) -> None:
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 200
    closed.file.remove("somebody")
    closed.front.access._reload()
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 401


def test_a_file_that_broke_leaves_the_keys_as_they_were(closed: Closed, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(InvalidSetting):
        closed.front.access._reload()
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 200
    assert closed.ask("GET", "/v1/models").status == 401
    (tmp_path / "keys.json").unlink()
    with pytest.raises(InvalidSetting):
        closed.front.access._reload()
    assert closed.ask("GET", "/v1/models").status == 401


def test_a_front_follows_the_file(closed: Closed) -> None:
    async def work() -> None:
        following = asyncio.create_task(closed.front.access.follow())
        closed.file.remove("somebody")

        async def ask_as(key: tuple[str, str]) -> Asked:
            asked = Asked()
            headers = [(b"authorization", key[1].encode())]
            scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
            await closed.app(scope, asked.receive, asked.send)
            return asked

        before = await ask_as(closed.somebody)
        while (after := await ask_as(closed.somebody)).status == 200:
            await asyncio.sleep(0.01)
        assert (before.status, after.status) == (200, 401)
        assert "the key is not valid" in after.json["error"]["message"]
        assert (await ask_as(closed.operator)).status == 200
        assert not following.done()
        following.cancel()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_a_server_does_not_start_without_the_file_that_it_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="headwaiter keys add"):
        Access(tmp_path / "none")


def test_a_signed_hook_needs_no_key_and_an_unsigned_one_is_not_read(tmp_path: Path, make_front: MakeFront) -> None:
    KeyFile(tmp_path / "keys.json").add("first")
    app = DataPlane(make_front(keys_file=tmp_path / "keys.json", webhook_secret="s" * 20), None)  # type: ignore[arg-type]
    asked = ask(app, "POST", "/hooks/mlflow")
    assert (asked.status, asked.has_read) == (401, False)
    assert b"X-MLflow-Signature" in asked.body
    asked = ask(app, "POST", "/hooks/mlflow", ("X-MLflow-Signature", "v1,wrong"))
    assert (asked.status, asked.has_read) == (401, True)
    assert ask(app, "POST", "/hookss").status == 401


# on a socket, by every way through the server


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_a_key_is_asked_for_before_the_body_comes(kind: type[Connection], closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 9)

    async def work(server: Attacked) -> None:
        for path in ("/models/m", "/v1/embeddings", "/v2/models/m/infer", "/invocations", "/predict"):
            for key in ((), ("Authorization: Bearer hw_wrong",)):
                client = await server.client()
                client.send(head(path, "Content-Length: 1000", *key))
                status, headers, _ = await client.answer()
                assert (status, headers[b"www-authenticate"]) == (401, b"bearer")
                client.leave()
        client = await server.client()
        for path in ("/models/m", "/models/m/versions/1", "/models/secret"):
            key = f"Authorization: {closed.somebody[1]}"
            client.send(head(path, f"Content-Length: {len(BODY)}", key) + BODY)
            assert (await client.answer())[0] == (403 if path == "/models/secret" else 200)
            client.send(head(path, f"Content-Length: {len(BODY)}") + BODY)
            assert (await client.answer())[0] == 401, "each request on a connection shows its own key"

    attack(lambda: Attacked(closed.front, PATIENT, kind, 60.0), work)


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_a_request_that_was_answered_or_given_up_is_in_progress_no_more(kind: type[Connection], closed: Closed) -> None:
    one = bearer(closed.file.add("one", concurrency=1))
    closed.front.access._reload()
    link = engines(closed.front, "1")
    link.on_submit = answer("an answer")
    sent = head("/models/m", f"Content-Length: {len(BODY)}", f"Authorization: {one[1]}")

    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send((sent + BODY) * 3)
        assert [(await client.answer())[0] for _ in range(3)] == [200] * 3
        leaving = await server.client()
        leaving.send(sent + BODY[:3])
        while (await refused(server)) != 429:
            await asyncio.sleep(0.002)
        leaving.leave()
        while (await refused(server)) != 200:
            await asyncio.sleep(0.002)

    async def refused(server: Attacked) -> int:
        return (await server.ask(sent + BODY))[0]

    attack(lambda: Attacked(closed.front, PATIENT, kind, 60.0), work)


# the audit log


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_the_audit_log_has_a_line_for_each_request_by_whichever_way(
    kind: type[Connection], tmp_path: Path, make_front: MakeFront
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    alice = file.add("alice", models=("m",))
    front = make_front(task=Whole(), keys_file=tmp_path / "keys.json", audit_file=tmp_path / "audit.log")
    engines(front, "1", *[answer("an answer")] * 9)

    async def work(server: Attacked) -> None:
        asked = [("/models/m", alice), ("/models/m/versions/1", alice), ("/models/other", alice), ("/models/m", "x")]
        for path, key in asked:
            lines = (f"Content-Length: {len(BODY)}", f"Authorization: Bearer {key}", "X-Request-Id: r1")
            await server.ask(head(path, *lines) + BODY)
        await server.ask(head("/v1/models?key=secret", f"Authorization: Bearer {alice}", method="GET"))

    attack(lambda: Attacked(front, PATIENT, kind, 60.0), work)
    front.access.close()
    text = (tmp_path / "audit.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    shown = [tuple(line.get(name, "") for name in ("who", "what", "status", "model", "version")) for line in lines]
    assert shown == [
        ("alice", "POST /models/m", 200, "m", "1"),
        ("alice", "POST /models/m/versions/1", 200, "m", "1"),
        ("alice", "POST /models/other", 403, "other", ""),
        ("", "POST /models/m", 401, "", ""),
        ("alice", "GET /v1/models", 200, "", ""),
    ]
    assert all(line["request_id"] for line in lines)
    assert {line["request_id"] for line in lines[:4]} == {"r1"}
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert "secret" not in text
    assert alice not in text


def test_the_audit_log_of_a_server_without_keys_names_nobody(tmp_path: Path, make_front: MakeFront) -> None:
    front = make_front(task=Whole(), audit_file=tmp_path / "audit.log")
    engines(front, "1", answer("an answer"))
    app: Any = DataPlane(front, None)  # type: ignore[arg-type]
    assert ask(app, "POST", "/models/m").status == 200
    front.access.close()
    line = json.loads((tmp_path / "audit.log").read_text())
    assert (line["who"], line["model"], line["status"]) == ("anybody", "m", 200)


# what other software said is for operators


def test_what_other_software_said_is_told_to_operators_only(make_front: MakeFront) -> None:
    trouble = "connection to server at db.internal refused: /srv/models/x"
    engine = EngineEntry(address="ipc:///nobody", pid=1, accepting=True)
    failed = VersionEntry(state="failed", error=trouble)
    unread = VersionEntry(state="ready", error=trouble, engines=(engine,))
    models = {
        "leaving": ModelEntry(live=None, aliases={}, versions={}, error=trouble),
        "unloaded": ModelEntry(live=None, aliases={"champion": None}, versions={}, serves={"r": None}, error=trouble),
        "failed": ModelEntry(live=None, aliases={}, versions={"1": failed}, serves={"r": None}, error=trouble),
        "unread": ModelEntry(live="1", aliases={}, versions={"1": unread}, serves={"r": "1"}, error=trouble),
    }
    front = make_front(task=Whole())
    front.routing.table = Table(models=models, is_known=True)
    app: Any = DataPlane(front, None)  # type: ignore[arg-type]
    for name in models:
        for path in (
            f"/models/{name}",
            f"/models/{name}/versions/1",
            f"/invocations/{name}",
            f"/v2/models/{name}/infer",
        ):
            asked = ask(app, "POST", path)
            assert asked.status in (404, 422, 503), path
            assert trouble.encode() not in asked.body, path
        assert trouble in ask(app, "GET", f"/models/{name}").body.decode()


def test_a_bug_is_told_by_its_request_id_alone(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    front = make_front(task=Whole())

    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter22 at /srv/models")

    monkeypatch.setattr(front.routing, "find", fail)
    app: Any = DataPlane(front, None)  # type: ignore[arg-type]
    asked = ask(app, "POST", "/models/m", ("X-Request-Id", "r-17"))
    assert asked.status == 500
    told = asked.json["error"]
    assert told == "the server failed on this request; its log says why, under request_id r-17"
