"""The audit log: who asked what, a line for each request."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from serving.front.app import DataPlane
from serving.front.connection import Connection
from serving.front.fast_path import FastConnection
from serving.runtime.key_file import KeyFile
from tests.serving.front.attacked import BODY, PATIENT, Attacked, Whole, attack, head
from tests.serving.front.closed_front import ask, bearer, call
from tests.serving.front.local_front import MakeFront, answer, engines


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


def test_a_request_behind_another_one_is_not_told_in_that_ones_name(tmp_path: Path, make_front: MakeFront) -> None:
    """A connection starts the task of a request that waited from within the task of the one before."""
    file = KeyFile(tmp_path / "keys.json")
    alice = file.add("alice", models=("m",))
    front = make_front(task=Whole(), keys_file=tmp_path / "keys.json", audit_file=tmp_path / "audit.log")
    app: Any = DataPlane(front, None)  # type: ignore[arg-type]

    async def within() -> None:
        access = front.access
        access.admit([(b"authorization", b"Bearer " + alice.encode())]).begin()
        await asyncio.create_task(call(app, "GET", "/v2", bearer("wrong")))

    asyncio.run(within())
    front.access.close()
    line = json.loads((tmp_path / "audit.log").read_text())
    assert (line["who"], line["status"]) == ("", 401)
