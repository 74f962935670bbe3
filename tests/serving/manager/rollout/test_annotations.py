"""A Grafana that takes annotations over HTTP gets one of each start, step and end, and none twice."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.manager.rollout.annotations import Annotator
from serving.manager.rollout.cycle import Cycle
from serving.wire.version_state import State
from tests.rollout_registry import MemoryVersions

pytestmark = pytest.mark.slow


TOKEN = "a token of a service account"
READY: dict[tuple[str, str], State] = {("m", "1"): "ready", ("m", "2"): "ready"}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        grafana: Any = self.server
        if self.path == "/api/annotations" and self.headers["authorization"] == f"Bearer {TOKEN}":
            assert body["tags"][:3] == ["headwaiter", "rollout", "m"]
            assert body["time"] > 1_700_000_000_000, "milliseconds"
            grafana.texts.append(body["text"])
        self.send_response(grafana.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Grafana(ThreadingHTTPServer):
    """texts: of the annotations that it took; status: of its answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.texts: list[str] = []
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running() -> Iterator[Grafana]:
    with Grafana() as grafana:
        thread = threading.Thread(target=grafana.serve_forever)
        thread.start()
        yield grafana
        grafana.shutdown()
        thread.join()


def test_starts_and_ends_are_annotated_once_and_by_the_leader(tmp_path: Path) -> None:
    rollouts = MemoryVersions().rollouts()
    (tmp_path / "other").mkdir()
    with running() as grafana:

        def cycle(run: Path, replica: str) -> Cycle:
            return Cycle(run, rollouts, replica, annotator=Annotator(grafana.url, TOKEN))

        replicas = (cycle(tmp_path, "a"), cycle(tmp_path / "other", "b"))

        def look() -> None:
            for now in (0.0, 1.0):
                for replica in replicas:
                    replica.run({"m"}, READY, now)

        rollouts.start("m", "2", why="new labels")
        look()
        rollouts.abort("m", why="a bug report")
        look()
        cycle(tmp_path, "a").run({"m"}, READY, 2.0)  # a manager that is restarted
    assert grafana.texts == [
        "m: rollout 1 → 2, running at shadow:200",
        "m: rollout 1 → 2, aborted at shadow:200: a bug report",
    ]


def test_a_grafana_that_takes_none_is_logged_and_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions = MemoryVersions()
    versions.rollouts().start("m", "2", why="x")
    with running() as grafana:
        grafana.status = 403
        cycle = Cycle(tmp_path, versions.rollouts(), "a", annotator=Annotator(grafana.url, TOKEN))
        assert cycle.run({"m"}, READY, 0.0).states["m"].phase == "running"
    assert "Grafana takes no annotation of the rollout of m: HTTP Error 403" in caplog.text
    assert TOKEN not in caplog.text
