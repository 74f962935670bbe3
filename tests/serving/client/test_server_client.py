"""The key that the command line shows to a server."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from serving.client import server_client
from serving.client.server_client import Remote
from serving.errors import RemoteError

pytestmark = pytest.mark.slow


KEY = "hw_a-key"
FOREIGN = {
    "/deep/models": b"[" * 200_000,
    "/deep/error/models": b"[" * 200_000,
    "/other/models": b'{"models": [{"x": 1}], "registry_error": null}',
    "/list/models": b'{"models": [1], "registry_error": null}',
    "/large/models": b'{"models": [], "registry_error": null}' + b" " * 1000,
    "/error/models": b'{"error": "' + b"x" * 5000 + b'"}',
}
"""Answers of servers that are no Headwaiter, by their paths."""


class Answering(BaseHTTPRequestHandler):
    """Answers the key's holder with a state, and a POST with a redirection to it."""

    def do_GET(self) -> None:  # http.server's name
        if self.path in FOREIGN:
            self.send_response(500 if "error" in self.path else 200)
            self.end_headers()
            self.wfile.write(FOREIGN[self.path])
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
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


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/deep", "no Headwaiter answers"),
        ("/deep/error", "answered 500: Internal Server Error"),
        ("/other", "is no Headwaiter"),
        ("/list", "is no Headwaiter"),
        ("/large", "has more than 1,000 bytes"),
    ],
)
def test_what_another_server_answers_is_an_error_with_a_reason(
    url: str, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    if path == "/large":
        monkeypatch.setattr(server_client, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(RemoteError, match=message):
        Remote(url + path, "").model("m")


def test_a_message_of_a_server_is_bounded(url: str) -> None:
    with pytest.raises(RemoteError) as caught:
        Remote(f"{url}/error", "").status()
    assert len(str(caught.value)) < 2500
