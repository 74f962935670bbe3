"""Feeds an engine over its socket, as a front does: rows of token ids go out, answers come in.

`python -m bench.gpu_client FEED` takes a `Feed` in a JSON file and is told on standard input what to do: "phase" begins
another phase, "move ADDRESS" sends new rows to another engine, "stop" waits for what is under way. Then it prints a
`Fed`. It knows its rows in advance and loads neither torch nor transformers; so one process feeds many rows a second.
"""

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy
import zmq

from serving.messages import Failure, FromEngine, Row, Submit

COMMANDS = 0
"""The file descriptor of standard input."""
LAST_SECONDS = 30.0
"""Rows that are not answered so long after the stop are lost."""
FIRST_ORDINARY = 5
"""The ids below are special tokens."""


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. kind: of the rows. lengths: theirs, in tokens, again and again. under_way, in_message: rows."""

    address: str
    kind: str
    lengths: list[int]
    vocabulary: int
    seed: int
    under_way: int
    in_message: int


class Phase(msgspec.Struct):
    """What was answered from `began` to `ended`. latencies: seconds from sending to answer, one a row."""

    began: float
    ended: float = 0.0
    tokens: int = 0
    latencies: list[float] = []


class Fed(msgspec.Struct):
    """All of a client's life. lost: rows that were never answered. failed: rows that were refused or failed."""

    sent: int = 0
    failed: int = 0
    lost: int = 0
    phases: list[Phase] = []


def make_ids(lengths: list[int], vocabulary: int, seed: int) -> list[numpy.ndarray[Any, Any]]:
    """Rows of random ordinary tokens, int32."""
    random = numpy.random.default_rng(seed)
    return [random.integers(FIRST_ORDINARY, vocabulary, length, dtype=numpy.int32) for length in lengths]


class Client:
    """A closed loop around one socket, or two while it moves."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        ids = make_ids(feed.lengths, feed.vocabulary, feed.seed)
        self._rows = itertools.cycle([Row(0, each.size, each.tobytes(), b"", feed.kind, float("inf")) for each in ids])
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._poller.register(COMMANDS, zmq.POLLIN)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._open: dict[int, tuple[float, int]] = {}
        self._give_up = float("inf")
        self._fed = Fed(phases=[Phase(time.monotonic())])
        self._connect(feed.address)

    def run(self) -> Fed:
        """Until the stop, and until the last answer then."""
        while (self._open or self._give_up == float("inf")) and time.monotonic() < self._give_up:
            self._fill()
            for source, _ in self._poller.poll(1000):
                if source == COMMANDS:
                    self._obey(os.read(COMMANDS, 4096))
                else:
                    self._take(source)
        self._fed.lost = len(self._open)
        self._fed.phases[-1].ended = time.monotonic()
        self._context.destroy(linger=0)
        return self._fed

    def _connect(self, address: str) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(address)
        self._poller.register(self._socket, zmq.POLLIN)

    def _obey(self, received: bytes) -> None:
        """The end of standard input, too, is a stop: nobody waits for the rest."""
        for command in received.decode().splitlines() or ["stop"]:
            word, _, address = command.partition(" ")
            if word == "move":
                self._connect(address)
            elif word == "phase":
                self._fed.phases[-1].ended = now = time.monotonic()
                self._fed.phases.append(Phase(now))
            else:
                self._poller.unregister(COMMANDS)
                self._give_up = time.monotonic() + LAST_SECONDS

    def _fill(self) -> None:
        """Send messages while there is room for a whole one."""
        while self._give_up == float("inf") and len(self._open) + self._feed.in_message <= self._feed.under_way:
            rows = list(itertools.islice(self._rows, self._feed.in_message))
            now = time.monotonic()
            for number, row in enumerate(rows, self._fed.sent):
                row.id = number
                self._open[number] = now, row.length
            self._fed.sent += len(rows)
            self._socket.send(self._encoder.encode(Submit(rows)))

    def _take(self, source: "zmq.Socket[bytes]") -> None:
        """All answers that are there."""
        phase = self._fed.phases[-1]
        while source.poll(0):
            message = self._decoder.decode(source.recv())
            assert not hasattr(message, "parts"), "nothing is written here"
            now = time.monotonic()
            for number in message.ids:
                sent, length = self._open.pop(number)
                if isinstance(message, Failure):
                    self._fed.failed += 1
                else:
                    phase.tokens += length
                    phase.latencies.append(now - sent)


if __name__ == "__main__":
    found = Client(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Feed)).run()
    sys.stdout.buffer.write(msgspec.json.encode(found))
