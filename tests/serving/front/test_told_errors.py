"""What other software said, and what a bug says, is for operators: clients do not get it."""

from typing import Any

import pytest

from serving.front.app import DataPlane
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, VersionEntry
from tests.serving.front.attacked import Whole
from tests.serving.front.closed_front import ask
from tests.serving.front.local_front import MakeFront


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
