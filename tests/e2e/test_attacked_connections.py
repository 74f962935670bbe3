"""A real server with few descriptors, under clients that hold connections: it goes on, and follows the registry."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.server import Server, wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

DESCRIPTORS = 256
SERVE = ("sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh", sys.executable, "-m", "serving.commands.main")
LIMITS = {"HEADWAITER_CLIENT_SECONDS": "2", "HEADWAITER_MAX_BODY_BYTES": "10000", "HEADWAITER_WORKERS": "1"}


@contextmanager
def held(server: Server, count: int, data: bytes) -> Iterator[None]:
    """As many connections that each sent this and nothing more. What is closed is opened again, 500 a second."""
    leaves, begun = threading.Event(), threading.Event()

    def hold() -> None:
        open_ones: list[socket.socket] = []
        while not leaves.wait(0.01):
            open_ones = [each for each in open_ones if not has_ended(each)]
            for _ in range(min(count - len(open_ones), 5 if begun.is_set() else count)):
                with suppress(OSError):
                    open_ones.append(socket.create_connection(("127.0.0.1", server.port), timeout=1))
                    open_ones[-1].sendall(data)
            begun.set()
        for each in open_ones:
            each.close()

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        assert begun.wait(WAIT_SECONDS)
        yield
    finally:
        leaves.set()
        holding.join()


def has_ended(connection: socket.socket) -> bool:
    """Whether the server has answered it or closed it, after which this end closes it, too."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


def probe(server: Server, path: str) -> int:
    """The status on a connection of its own."""
    return httpx.get(server.url + path, timeout=WAIT_SECONDS).status_code


@pytest.fixture
def server(small_home: Path) -> Iterator[Server]:
    with Server(small_home, (), LIMITS, command=(*SERVE, "serve", "m")) as running:
        yield running


@pytest.mark.long
def test_a_flood_of_connections_ends_neither_probes_nor_routing(server: Server, small_home: Path) -> None:
    versions = Versions(RegistrySettings.from_environment({"HEADWAITER_HOME": str(small_home)}))
    for data in (b"", b"GET /livez HTTP/1.1\r\nHost: "):
        with held(server, 2 * DESCRIPTORS, data):
            for _ in range(20):
                assert [probe(server, path) for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
            answer = httpx.post(f"{server.url}/models/m", json={"inputs": "x"}, timeout=WAIT_SECONDS)
            assert answer.status_code == 200
            if not data:
                versions.promote("m", "2", why="in the flood")
                wait_until(lambda: httpx.get(f"{server.url}/models/m").json().get("live") == "2", "the move")
    unfinished = b"POST /models/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with held(server, DESCRIPTORS, unfinished):
        wait_until(lambda: probe(server, "/models") == 503, "there is no room")
        for _ in range(20):
            assert [probe(server, path) for path in ("/livez", "/readyz", "/metrics")] == [200] * 3
    wait_until(lambda: probe(server, "/models") == 200, "there is room again")
    assert server.sample("rejected_total", reason="overloaded") > 0
    assert server.http.post("/predict", json={"model": "m", "inputs": "x" * 10_000}).status_code == 413
    assert server.http.post("/predict", json={"model": "m", "inputs": "x"}).status_code == 200
    assert "Too many open files" not in server.log.read_text()
    with held(server, 10, b""), held(server, 10, unfinished):
        server.stop()
