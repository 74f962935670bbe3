"""What the demo of rollouts counts, and how its clients ask."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from serving.demo.rollout import DemoCandidate, Rollout
from serving.demo.server import wait
from serving.demo.traffic import Sent, Traffic
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


SENT = [Sent(1.0, 0.01, 200, "1"), Sent(2.0, 0.03, 200, "2"), Sent(3.0, 0.01, 500, ""), Sent(9.0, 0.01, 200, "2")]


def rollout(**fields: Any) -> Rollout:
    return Rollout(
        candidate=DemoCandidate(version="2", title="slow", **fields),
        stable="1",
        began=0.0,
        ended=5.0,
        phase="failed",
        step="1%",
        why="p90",
        steps=[(0.0, "1%")],
        sent=SENT,
    )


def test_whoever_met_a_bad_candidate_or_an_error_was_harmed() -> None:
    found = rollout()
    assert (found.requests, found.harmed) == (3, 3), "also after it was caught"
    assert rollout(is_good=True).harmed == 1, "an error"
    assert str(found) == "failed at 1% after 5.0 s and 3 requests, 3 of them harmed (100.00%)"


def test_the_record_is_read_back() -> None:
    assert msgspec.json.decode(msgspec.json.encode(rollout()), type=Rollout) == rollout()


@pytest.mark.parametrize("status", [200, 500])
def test_clients_ask_each_text_in_turn_and_tell_what_became_of_it(status: int) -> None:
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, so that none waits in the short queue of new ones

        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("x-model-version", "7")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Traffic(f"http://127.0.0.1:{server.server_address[1]}/models/m", ["a", "b"], rate=500) as traffic:
            wait(lambda: len(traffic.sent) >= 20, "20 answers", WAIT_SECONDS)
        server.shutdown()
        thread.join()
    assert {(each.status, each.version) for each in traffic.sent} == {(status, "7")}
    assert asked.count(b'{"inputs":"a"}') == pytest.approx(asked.count(b'{"inputs":"b"}'), abs=1)
