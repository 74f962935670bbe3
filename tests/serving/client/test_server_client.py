"""The key that the command line shows to a server."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from serving.client.server_client import Remote
from serving.errors import RemoteError

pytestmark = pytest.mark.slow


KEY = "hw_a-key"


class Answering(BaseHTTPRequestHandler):
    """Answers the key's holder with a state, and a POST with a redirection to it."""

    def do_GET(self) -> None:  # http.server's name
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._answer(401, {"error": "this server asks for a key"})
        else:
            self._answer(200, {"models": [], "registry_error": None})

    def do_POST(self) -> None:
        self.send_response(303)
        self.send_header("Location", "/models")
        self.end_headers()

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *given: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_key_of_the_environment_is_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteError, match="answered 401: this server asks for a key.*, or set HEADWAITER_API_KEY"):
        Remote(url).status()
    monkeypatch.setenv("HEADWAITER_API_KEY", KEY)
    assert Remote(url).status()["models"] == []


def test_the_key_does_not_follow_to_where_a_server_points(url: str) -> None:
    with pytest.raises(RemoteError, match="401"):
        Remote(url, KEY).predict("m", {})
