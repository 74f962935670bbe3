"""`bench kills` beside a server whose engines are processes that sleep: what it kills, and what it counts."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.kills import kill_engines

pytestmark = pytest.mark.slow


NAMES = ("a", "b")


class Fake(ThreadingHTTPServer):
    """Answers all requests, and replaces an engine that has ended once it is asked which one there is."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.killed = 0
        self.engines = {name: self.start_engine() for name in NAMES}
        self.lock = threading.Lock()

    def start_engine(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sleep", "600"])

    def engine_of(self, name: str) -> int:
        with self.lock:
            if self.engines[name].poll() is not None:
                self.killed += 1
                self.engines[name] = self.start_engine()
            return self.engines[name].pid


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def do_GET(self) -> None:
        pid = self.server.engine_of(self.path.rpartition("/")[2])
        self.reply(200, {"live": "1", "versions": {"1": {"engines": [{"pid": pid}]}}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, [[{"label": "good"}]])

    def reply(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("X-Model-Version", "1"), ("Retry-After", "1"), ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Fake]:
    with Fake() as fake:
        thread = threading.Thread(target=fake.serve_forever)
        thread.start()
        try:
            yield fake
        finally:
            fake.shutdown()
            thread.join()
            for engine in fake.engines.values():
                engine.kill()
                engine.wait()


def test_every_engine_that_is_killed_is_replaced_and_all_answers_count() -> None:
    with serving() as fake:
        result = kill_engines(int(fake.server_address[1]), NAMES, kills=3, connections=4)
    assert (fake.killed, len(result.replaced), result.failed) == (3, 3, 0)
    assert result.page.answered >= 4


def test_more_kills_than_versions_survive_are_refused() -> None:
    with pytest.raises(ValueError, match="2 models allow 4 kills"):
        kill_engines(1, NAMES, kills=5)
