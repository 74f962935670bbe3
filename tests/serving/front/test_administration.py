"""`/admin`: who may change what is live, through a manager's socket, with a line in the audit log."""

import asyncio
import json
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest

from registry.errors import BreakingChange, HistoryError, RegistryUnavailable
from registry.history import Move
from registry.references import Reference
from registry.versions import Versions
from serving.errors import DeadlineExceeded, Overloaded
from serving.front.administration import MAX_ORDERS, Administration
from serving.front.front import Front
from serving.manager import registry_desk
from serving.manager.registry_desk import MAX_HANGING, RegistryDesk
from serving.runtime.key_file import KeyFile
from serving.wire.registry_orders import MAX_ORDER_BYTES, RegistryOrder
from tests.abilities import require
from tests.e2e.server import wait_until
from tests.other_user import OTHER, acting_as
from tests.rollout_registry import MemoryVersions
from tests.serving.front.local_front import MakeFront
from tests.serving.front.openapi.surface import ask
from tests.waiting import WAIT_SECONDS

PROMOTE = {"version": "2", "why": "better"}


class Registry(MemoryVersions):
    """The memory's registry with moves by hand. trouble: raised by every promotion."""

    trouble: Exception | None = None

    def promote(self, name: str, version: str, **given: Any) -> Move:
        if self.trouble is not None:
            raise self.trouble
        self.resolve(Reference(name, version=version))
        return self._moved(name, "promote", version, given)

    def rollback(self, name: str, **given: Any) -> Move:
        before = [move.from_version for move in self.history(name) if move.action == "promote"]
        if not before or before[-1] is None:
            raise HistoryError("the history names no earlier version to go back to")
        return self._moved(name, "rollback", before[-1], given)

    def _moved(self, name: str, action: str, to: str, given: dict[str, Any]) -> Move:
        alias, before = given["alias"], self.current(name, given["alias"])
        move = Move(
            time=1.0,
            action=action,
            alias=alias,
            from_version=before,
            to_version=to,
            who=given["who"],
            why=given["why"],
            allow_breaking=given.get("allow_breaking") or "",
        )
        return self.move(name, move)


class Administered:
    """A front with keys and an audit log, and the desk of a manager with a registry."""

    def __init__(self, front: Front, run: Path, keys: KeyFile) -> None:
        self.front, self.run = front, run
        self.registry = Registry()
        self.desk = RegistryDesk(front.settings, lambda: cast(Versions, self.registry))
        self.keys = {
            "operator": keys.add("operator", admin=True),
            "client": keys.add("client", models=("m",)),
            "other": keys.add("other", admin=True, models=("n",)),
        }
        front.access._reload()

    def ask(self, method: str, path: str, key: str = "operator", **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}", **given.pop("headers", {})}
        return ask(self.front, method, f"/admin/models/{path}", headers=headers, **given)

    def post(self, path: str, body: Any = None, key: str = "operator", **given: Any) -> httpx.Response:
        return self.ask("POST", path, key, json=body or {"why": "better"}, **given)

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "audit.log").read_text().splitlines()]


@pytest.fixture
def admin(make_front: MakeFront, tmp_path: Path) -> Iterator[Administered]:
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("first")
    front = make_front(versions=("1", "2"), keys_file=tmp_path / "keys.json", audit_file=tmp_path / "audit.log")
    front.access.start(tmp_path, 1, 0)
    made = Administered(front, tmp_path, keys)
    yield made
    made.desk.close()
    front.access.close()


def test_a_promotion_and_a_rollback_move_the_alias_and_tell_who_and_why(admin: Administered) -> None:
    moved = admin.post("m/promote", PROMOTE)
    assert moved.status_code == 200, moved.text
    assert (moved.json()["from"], moved.json()["to"], moved.json()["who"]) == ("1", "2", "operator")
    assert moved.headers["cache-control"] == "no-store"
    assert admin.registry.tags.aliases["m"] == {"champion": "2"}
    assert admin.post("m/rollback", {"why": "worse after all"}).json()["to"] == "1"
    assert admin.registry.tags.aliases["m"] == {"champion": "1"}
    moves = admin.ask("GET", "m/history").json()["moves"]
    assert [(move["action"], move["who"], move["why"]) for move in moves] == [
        ("promote", "operator", "better"),
        ("rollback", "operator", "worse after all"),
    ]


def test_the_manager_looks_at_once_after_a_change_and_not_after_a_look(admin: Administered) -> None:
    nudge = admin.run / "nudge"
    admin.ask("GET", "m/history")
    assert not nudge.exists()
    admin.post("m/promote", PROMOTE)
    assert nudge.exists()


def test_a_rollout_is_started_paused_resumed_and_aborted(admin: Administered) -> None:
    assert admin.ask("GET", "m/rollout").json() == {"rollout": None}
    plan = {**PROMOTE, "steps": ["10%", "100%"], "every": "1h", "guards": ["errors < stable + 1%"]}
    begun = admin.post("m/rollout", plan).json()["rollout"]
    assert (begun["phase"], begun["steps"], begun["plan"]["who"]) == ("running", ["10%", "100%"], "operator")
    assert admin.post("m/rollout/pause").json()["rollout"]["phase"] == "paused"
    assert admin.post("m/rollout/resume").json()["rollout"]["phase"] == "running"
    assert admin.post("m/rollout/abort").json()["rollout"]["phase"] == "aborted"
    refused = admin.post("m/rollout/abort")
    assert (refused.status_code, "is over" in refused.json()["error"]) == (422, True)
    assert admin.ask("GET", "m/rollout").json()["rollout"]["stop"]["who"] == "operator"


def test_a_rollout_may_be_finished(admin: Administered) -> None:
    admin.post("m/rollout", PROMOTE)
    assert admin.post("m/rollout/finish").json()["rollout"]["phase"] == "promoted"
    assert admin.registry.tags.aliases["m"] == {"champion": "2"}


POSTED = ("promote", "rollback", "rollout", "rollout/pause", "rollout/resume", "rollout/abort", "rollout/finish")
READ = ("history", "rollout")


@pytest.mark.parametrize(("key", "status"), [("hw_wrong", 401), ("", 401), ("client", 403), ("other", 403)])
def test_nobody_but_an_operator_of_the_model_gets_anywhere(admin: Administered, key: str, status: int) -> None:
    for path in POSTED:
        assert admin.post(f"m/{path}", PROMOTE, key).status_code == status, path
    for path in READ:
        assert admin.ask("GET", f"m/{path}", key).status_code == status, path
    assert admin.registry.tags.tags["m"] == {}
    assert admin.registry.tags.aliases["m"] == {"champion": "1"}


def test_a_server_without_keys_shows_the_registry_and_changes_nothing(make_front: MakeFront) -> None:
    front = make_front()
    registry = Registry()
    desk = RegistryDesk(front.settings, lambda: cast(Versions, registry))
    for path in POSTED:
        answer = ask(front, "POST", f"/admin/models/m/{path}", json=PROMOTE)
        assert (answer.status_code, "HEADWAITER_KEYS_FILE" in answer.json()["error"]) == (403, True)
    assert ask(front, "GET", "/admin/models/m/history").json() == {"moves": []}
    assert registry.tags.aliases["m"] == {"champion": "1"}
    desk.close()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("promote", {"version": "2"}, "why"),
        ("promote", {"why": "x"}, "version"),
        ("promote", {"version": 2, "why": "x"}, "version"),
        ("promote", {"version": "../2", "why": "x"}, "version"),
        ("promote", {"version": "2", "why": ""}, "why"),
        ("promote", {"version": "2", "why": "x" * 2001}, "why"),
        ("promote", {"version": "2", "why": "x", "alias": "a/b"}, "alias"),
        ("promote", {"version": "2", "why": "x", "who": "eve"}, "who"),
        ("rollback", {"why": "x", "name": "n"}, "name"),
        ("rollback", {"why": "x"}, "names no earlier version"),
        ("rollout", {"version": "2", "why": "x", "steps": ["a lot"]}, "step"),
        ("rollout", {"version": "2", "why": "x", "steps": []}, "steps"),
        ("rollout", {"version": "2", "why": "x", "guards": ["luck > 3"]}, "guard"),
        ("rollout/abort", {"why": "x"}, "no rollout"),
        ("rollout/pause", {}, "why"),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_by_its_field(
    admin: Administered, path: str, body: Any, words: str
) -> None:
    answer = admin.ask("POST", f"m/{path}", json=body)
    assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text
    assert admin.registry.tags.tags["m"] == {}


def test_a_page_of_another_site_cannot_send_a_form(admin: Administered) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = admin.ask("POST", "m/promote", content=json.dumps(PROMOTE), headers={"Content-Type": kind})
        assert (answer.status_code, "application/json" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 400), (b"[]", 400), (b'{"why": "\xff"}', 400), (b" " * MAX_ORDER_BYTES, 413)]
)
def test_what_is_no_object_of_json_is_refused(admin: Administered, content: bytes, status: int) -> None:
    answer = admin.ask("POST", "m/promote", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status


def test_models_and_versions_that_are_not_there_are_not_found(admin: Administered) -> None:
    for path in ("n/promote", "n%2f..%2fm/promote", "m@champion/promote"):
        assert admin.post(path, PROMOTE).status_code == 404, path
    assert admin.post("m/promote", {"version": "99", "why": "x"}).status_code == 404
    for path in ("m/nothing", "m", "m/rollout/undo", "m/promote/1"):
        assert "no such route" in admin.post(path, PROMOTE).json()["error"]
    assert admin.ask("GET", "m/promote").headers["allow"] == "POST"


def test_troubles_of_the_registry_have_their_own_answers(admin: Administered, caplog: pytest.LogCaptureFixture) -> None:
    for trouble, status, words in (
        (BreakingChange("labels: bad is gone"), 422, "labels: bad is gone"),
        (RegistryUnavailable("MLflow did not answer"), 503, "MLflow did not answer"),
        (RuntimeError("a secret of the machine"), 500, "the manager's log says why"),
    ):
        admin.registry.trouble = trouble
        answer = admin.post("m/promote", PROMOTE)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
        assert "secret" not in answer.text
        assert ("retry-after" in answer.headers) == (status == 503)
    assert "a secret of the machine" in caplog.text
    admin.desk.close()
    (admin.run / "registry.sock").unlink()
    assert admin.post("m/promote", PROMOTE).status_code == 503


def test_each_order_is_a_line_of_the_audit_log_whatever_comes_of_it(admin: Administered) -> None:
    admin.post("m/promote", PROMOTE)
    admin.post("m/promote", {"why": "no version"})
    admin.post("m/rollback", {"why": "x"}, "client")
    admin.post("m/rollback", {"why": "x"}, "hw_wrong")
    assert [(line["who"], line["what"], line["status"], line.get("model", "")) for line in admin.audit] == [
        ("operator", "POST /admin/models/m/promote", 200, "m"),
        ("operator", "POST /admin/models/m/promote", 422, "m"),
        ("client", "POST /admin/models/m/rollback", 403, "m"),
        ("", "POST /admin/models/m/rollback", 401, ""),
    ]


def test_a_manager_that_follows_another_one_takes_its_place(admin: Administered) -> None:
    admin.desk.close()
    again = RegistryDesk(admin.front.settings, lambda: cast(Versions, admin.registry))
    assert admin.ask("GET", "m/history").status_code == 200
    assert (admin.run / "registry.sock").stat().st_mode & 0o777 == 0o600
    again.close()


def test_looks_that_the_manager_does_not_answer_are_bounded_in_time_and_number(
    admin: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(admin.registry, "history", lambda *_: gate.wait(WAIT_SECONDS) and [])
    front = admin.front
    front.settings = msgspec.structs.replace(front.settings, timeout_seconds=0.2)
    administration = Administration(front)

    async def look() -> None:
        await administration._ask_manager(
            RegistryOrder(action="history", name="m", who="operator", body=msgspec.Raw(b"{}"))
        )

    async def ask_all() -> list[BaseException | None]:
        return await asyncio.gather(*(look() for _ in range(MAX_ORDERS + 2)), return_exceptions=True)

    with asyncio.Runner() as runner:
        raised = [type(each) for each in runner.run(ask_all())]
        assert raised == [DeadlineExceeded] * MAX_ORDERS + [Overloaded] * 2
        gate.set()
        front.settings = msgspec.structs.replace(front.settings, timeout_seconds=WAIT_SECONDS)
        assert {type(each) for each in runner.run(ask_all())} == {type(None), Overloaded}, "their places are free again"


def test_orders_that_never_return_are_given_up_until_too_many_hang(
    admin: Administered, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry_desk, "GIVE_UP_SECONDS", 0.01)
    monkeypatch.setattr(registry_desk, "CHANGE_SECONDS", 0.01)
    gate = threading.Event()
    for blocking in ("history", "promote"):
        monkeypatch.setattr(admin.registry, blocking, lambda *_, **given: gate.wait(WAIT_SECONDS) and [])
    for number in range(MAX_HANGING):
        refused = admin.post("m/promote", PROMOTE) if number else admin.ask("GET", "m/history")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "has not answered within 0.01 s" in refused.json()["error"]
    assert f"promote of m ({MAX_HANGING} such orders hang)" in caplog.text
    assert "orders before this one wait for the registry" in admin.ask("GET", "m/history").json()["error"]
    gate.set()
    wait_until(lambda: admin.ask("GET", "m/history").status_code == 200, "the places are free again")


def test_a_connection_that_hangs_holds_up_no_later_order(admin: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_desk, "GIVE_UP_SECONDS", 0.01)
    hangs, gate = iter((True, False)), threading.Event()
    admin.desk._connect = lambda: (next(hangs) and gate.wait(WAIT_SECONDS), cast(Versions, admin.registry))[1]
    assert admin.ask("GET", "m/history").status_code == 503
    monkeypatch.setattr(registry_desk, "GIVE_UP_SECONDS", WAIT_SECONDS)
    assert admin.ask("GET", "m/history").status_code == 200
    gate.set()


@pytest.mark.slow
def test_orders_are_taken_once_there_are_descriptors_again(
    admin: Administered, caplog: pytest.LogCaptureFixture
) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as front:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))  # those that are open stay open
        try:
            front.connect(str(admin.run / "registry.sock"))
            wait_until(lambda: "Too many open files" in caplog.text, "the manager has tried to take it")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    assert admin.ask("GET", "m/history").status_code == 200


def test_orders_of_another_user_are_not_taken(admin: Administered) -> None:
    require("other owners")
    for user in (OTHER, os.geteuid()):
        with acting_as(user):
            front, manager = socket.socketpair(socket.AF_UNIX)
        with front:
            front.sendall(json.dumps({"action": "history", "name": "m", "who": "x"}).encode())
            front.shutdown(socket.SHUT_WR)
            admin.desk._serve(manager)
            answer = b""
            with suppress(ConnectionResetError):  # as it was closed before the order was read
                answer = front.recv(MAX_ORDER_BYTES)
            assert bool(answer) == (user == os.geteuid())


def test_a_manager_that_cannot_open_its_socket_goes_on(
    admin: Administered, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(admin.front.settings, run=tmp_path / "gone")
    desk = RegistryDesk(settings, lambda: cast(Versions, admin.registry))
    assert "operators' changes by HTTP are not taken" in caplog.text
    desk.close()
