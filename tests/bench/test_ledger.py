"""The ledger of `bench chaos` notices each way in which a request can be left without its answer."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.gate import Gate
from bench.ledger import Ledger, Page
from tests.e2e.server import free_port, wait_until

pytestmark = pytest.mark.slow


def answer(status: int = 200, label: str = "good", version: str = "1", headers: str = "") -> bytes:
    body = json.dumps([[{"label": label, "score": 1.0}]]).encode()
    head = f"HTTP/1.1 {status} X\r\nX-Model-Version: {version}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def serving(play: Callable[[int], bytes | None]) -> Iterator[int]:
    """A server that answers its n-th request with `play(n)`, or breaks the connection for None; its port."""
    count = iter(range(10**9))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while any(iter(lambda: self.rfile.readline().strip(), b"")):  # a head
                self.rfile.read(len(json.dumps({"inputs": "the same text"})))
                reply = play(next(count))
                if reply is None:
                    return
                self.wfile.write(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def page_of(play: Callable[[int], bytes | None], requests: int = 8) -> Page:
    """What the ledger says of the first requests, over one connection at a time."""
    with serving(play) as port:
        with Ledger(port, "/models/m", connections=1, rest_seconds=0.001) as ledger:
            wait_until(lambda: ledger.pages and ledger.pages["start"].requests >= requests, "requests were sent")
        return ledger.pages["start"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "broken after"),
        (answer(500), "500: "),
        (answer(503), "503: "),
        (answer(label="bad"), "'1' answers bad, and before good"),
        (answer(version=""), "version '' answers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "200 without an answer: {}"),
    ],
)
def test_a_request_without_its_answer_is_a_fault(wrong: bytes | None, said: str) -> None:
    page = page_of(lambda number: wrong if number == 3 else answer())
    assert [said in fault for fault in page.faults] == [True]
    assert page.answered >= 6


@pytest.mark.parametrize("status", [429, 503, 504])
def test_a_refusal_that_says_so_is_none(status: int) -> None:
    refusal = answer(status, headers="Retry-After: 1\r\n")
    page = page_of(lambda number: refusal if number == 3 else answer())
    assert (page.faults, page.refused[status]) == ([], 1)


def test_connections_that_are_broken_on_purpose_are_no_fault() -> None:
    is_killed = threading.Event()
    with serving(lambda _: None if is_killed.is_set() else answer()) as port:
        with Ledger(port, "/models/m", connections=2, rest_seconds=0.001) as ledger:
            wait_until(lambda: ledger.versions["1"] >= 4, "it answers")
            ledger.doomed |= set(range(1, 65536))
            is_killed.set()
            wait_until(lambda: ledger.pages["start"].broken >= 2, "they are broken")
        assert ledger.pages["start"].faults == []


def test_a_server_behind_a_gate_is_away_lies_and_is_back() -> None:
    with serving(lambda _: answer()) as target, Gate(free_port(), target) as gate:
        for mode, said in (("away", "broken after"), ("lying", "version '' answers")):
            with Ledger(gate.port, "/models/m", connections=1, rest_seconds=0.001) as ledger:
                wait_until(lambda ledger=ledger: ledger.versions["1"], "it is open")
                ledger.phase = mode
                with gate.being(mode):  # type: ignore[arg-type]
                    wait_until(lambda ledger=ledger: len(ledger.pages.get(ledger.phase, Page()).faults) > 1, mode)
                assert any(said in fault for fault in ledger.pages[mode].faults), ledger.pages[mode]
                before = ledger.versions["1"]
                wait_until(lambda ledger=ledger, before=before: ledger.versions["1"] > before, "it is open again")
