"""Guards that are queries, over HTTP; tests/e2e/test_monitoring.py asks a real Prometheus."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from registry.rollout.guards import MAX_GUARDS, Guard
from serving.manager.registry_watch import GIVE_UP_SECONDS
from serving.manager.rollout.cycle import LEASE_SECONDS, Cycle
from serving.manager.rollout.prometheus import LATE, QUERIES_SECONDS, QUERY_SECONDS, UNSET, Reading, read_guards
from serving.wire.version_state import State
from tests.rollout_registry import MemoryVersions

pytestmark = pytest.mark.slow


READY: dict[tuple[str, str], State] = {("m", "1"): "ready", ("m", "2"): "ready"}
GUARD = 'promql(returns{model="$model",version=~"$candidate|$stable"}) < 0.5'


@contextmanager
def prometheus(answer: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that answers every query so, and the queries that it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())["query"][0])
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def vector(*values: str) -> dict[str, Any]:
    return {"data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, value]} for value in values]}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (vector("0.25", "1e3"), Reading((0.25, 1000.0))),
        ({"data": {"resultType": "scalar", "result": [0, "0.5"]}}, Reading((0.5,))),
        (vector("NaN", "0.1"), Reading((0.1,))),
        (vector("NaN"), Reading(trouble="the query has no value")),
        (vector(), Reading(trouble="the query has no value")),
    ],
)
def test_the_values_of_a_query_are_read(answer: dict[str, Any], expected: Reading) -> None:
    state = MemoryVersions().rollouts().start("m", "2", why="x", guards=(GUARD,))
    with prometheus(answer) as (url, asked):
        found = read_guards(url, [Guard.parse("errors < stable + 1%"), Guard.parse(GUARD)], "m", state)
    assert found == {GUARD: expected}
    assert asked == ['returns{model="m",version=~"2|1"}']


def test_a_prometheus_that_cannot_be_asked_says_why() -> None:
    state = MemoryVersions().rollouts().start("m", "2", why="x", guards=(GUARD,))
    guards = [Guard.parse(GUARD)]
    assert read_guards("", guards, "m", state)[GUARD].trouble == UNSET
    with prometheus({"status": "error"}) as (url, _):
        assert "does not answer the query" in read_guards(url, guards, "m", state)[GUARD].trouble
    assert "does not answer the query" in read_guards(url, guards, "m", state)[GUARD].trouble, "it has ended"


@contextmanager
def silent(sends: bytes = b"") -> Iterator[str]:
    """The address of a server that takes connections and never ends an answer: after `sends` come single bytes."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(sends)
            while not ended.wait(0.02):
                if sends:
                    connection.sendall(b" ")

    def accept() -> None:
        with suppress(OSError):
            while not ended.is_set():
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        ended.set()


@pytest.mark.parametrize("sends", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_prometheus_that_does_not_answer_takes_no_longer_than_one_deadline(sends: bytes) -> None:
    texts = tuple(f"promql(up{number}) < 0.5" for number in range(MAX_GUARDS))
    state = MemoryVersions().rollouts().start("m", "2", why="x", guards=texts)
    began = time.monotonic()
    with silent(sends) as url:
        found = read_guards(url, state.plan.parsed_guards(), "m", state, began + 0.5)
    assert time.monotonic() - began < 5 * 0.5, "and not one for each query"
    assert list(found) == list(texts)
    assert "does not answer the query: " in found[texts[0]].trouble
    assert {found[text].trouble for text in texts[1:]} == {LATE}


def test_the_queries_of_all_models_have_one_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.manager.rollout.cycle.QUERIES_SECONDS", 0.0)
    versions = MemoryVersions()
    versions.rollouts().start("m", "2", why="x", guards=(GUARD,))
    with prometheus(vector("0.75")) as (url, asked):
        waiting = Cycle(tmp_path, versions.rollouts(), "a", prometheus_url=url).run({"m"}, READY, 0.0).states["m"]
    assert waiting.phase == "running"
    assert LATE in waiting.progress.waits_for
    assert not asked


def test_all_queries_end_before_the_lease_does_and_long_before_a_cycle_is_given_up() -> None:
    assert QUERIES_SECONDS + QUERY_SECONDS < LEASE_SECONDS < GIVE_UP_SECONDS / 2


def test_a_query_beyond_its_limit_ends_the_rollout(tmp_path: Path) -> None:
    versions = MemoryVersions()
    versions.rollouts().start("m", "2", why="x", guards=(GUARD,))
    waiting = Cycle(tmp_path, versions.rollouts(), "a").run({"m"}, READY, 0.0).states["m"]
    assert waiting.phase == "running"
    assert f"a value of {GUARD} (so far {UNSET})" in waiting.progress.waits_for
    with prometheus(vector("0.75")) as (url, _):
        ended = Cycle(tmp_path, versions.rollouts(), "a", prometheus_url=url).run({"m"}, READY, 1.0).states["m"]
    assert ended.stop is not None
    assert (ended.phase, ended.stop.guard, ended.stop.why) == ("failed", GUARD, f"{GUARD}: 0.75")
