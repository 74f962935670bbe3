"""A front with keys, and requests to it without a socket."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from serving.front.app import DataPlane
from serving.front.front import Front
from serving.runtime.key_file import KeyFile


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
    return asyncio.run(call(app, method, path, *headers, kind=kind))


async def call(app: Any, method: str, path: str, *headers: tuple[str, str], kind: str = "http") -> Asked:
    """As `ask`, in the event loop."""
    asked = Asked(b"{}") if "repository" in path else Asked()
    sent = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": kind, "method": method, "path": path, "headers": sent, "query_string": b"", "root_path": ""}
    await app(scope, asked.receive, asked.send)
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
