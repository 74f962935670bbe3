"""Guards that are queries, over HTTP; tests/e2e/test_monitoring.py asks a real Prometheus."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from registry.rollout.guards import Guard
from serving.manager.rollout.cycle import Cycle
from serving.manager.rollout.prometheus import UNSET, Reading, read_guards
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
