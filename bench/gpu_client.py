"""Feeds an engine over its socket, as a front does: rows of token ids go out, answers come in.

`python -m bench.gpu_client FEED` takes a `Feed` in a JSON file and is told on standard input what to do: "phase" begins
another phase, "move ADDRESS" sends new rows to another engine, "stop" waits for what is under way. It prints a line at
its first answer, and a `Fed` at its end. It knows its rows in advance and loads neither torch nor transformers, so one
process feeds many rows a second.
"""

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy
import zmq

from bench.models import SPECIAL, VOCABULARY
from bench.processes import ROOT, BenchError
from serving.wire.messages import Failure, FromEngine, Row, Submit, TokenDeltas

KIND = "softmax"
"""Of the rows, as text-classification has it for one label of several."""
COMMANDS = 0
"""The file descriptor of standard input."""
LAST_SECONDS = 30.0
"""Rows that are not answered so long after the stop are lost."""
ARRIVAL_MILLISECONDS = 1
"""How often rows that have arrived are looked for."""
CLIENTS, IN_MESSAGE = 4, 16
"""Feeding processes; rows of a message."""


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """The rows to send and their address. lengths: of the rows in tokens, again and again. seed: of their token ids.

    under_way: rows that are not answered yet, at most. pause: seconds after answers before more rows are sent. rate:
    rows/s that arrive at random (a Poisson process), however many are under way; 0: a row follows each answer.
    """

    address: str
    lengths: list[int]
    seed: int
    under_way: int
    pause: float = 0.0
    rate: float = 0.0


class Phase(msgspec.Struct):
    """The answers from `began` to `ended`. latencies: seconds from sending, or arriving, to answer."""

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


def make_ids(lengths: Sequence[int], seed: int) -> list[numpy.ndarray[Any, Any]]:
    """Rows of random ordinary tokens, int32."""
    draw = numpy.random.default_rng(seed)
    return [draw.integers(len(SPECIAL), VOCABULARY, length, dtype=numpy.int32) for length in lengths]


class Client:
    """Feeds one socket, or two while it moves."""

    def __init__(self, feed: Feed) -> None:
        self._under_way, self._pause, self._rate = feed.under_way, feed.pause, feed.rate
        self._random = random.Random(feed.seed)
        self._next_arrival = time.monotonic()
        ids = make_ids(feed.lengths, feed.seed)
        self._rows = itertools.cycle([Row(0, each.size, each.tobytes(), b"", KIND, float("inf")) for each in ids])
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._poller.register(COMMANDS, zmq.POLLIN)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
        self._open: dict[int, tuple[float, int]] = {}
        self._give_up = float("inf")
        self._is_answered = False
        self._fed = Fed(phases=[Phase(time.monotonic())])
        self._connect(feed.address)

    def run(self) -> Fed:
        """Until the stop, and until the last answer then."""
        while (self._open or self._give_up == float("inf")) and time.monotonic() < self._give_up:
            self._send_arrived() if self._rate else self._fill()
            for source, _ in self._poller.poll(ARRIVAL_MILLISECONDS if self._rate else 1000):
                if source == COMMANDS:
                    self._obey(os.read(COMMANDS, 4096))
                else:
                    self._take(source)
                    time.sleep(self._pause)
        self._fed.lost = len(self._open)
        self._fed.phases[-1].ended = time.monotonic()
        self._context.destroy(linger=0)
        return self._fed

    def _connect(self, address: str) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(address)
        self._poller.register(self._socket, zmq.POLLIN)

    def _obey(self, received: bytes) -> None:
        """The end of standard input, too, is a stop: no process reads the rest."""
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
        while self._give_up == float("inf") and len(self._open) + IN_MESSAGE <= self._under_way:
            self._send([time.monotonic()] * IN_MESSAGE)

    def _send_arrived(self) -> None:
        """Send the rows that have arrived by now in one message, as a front does with those of one turn of its loop."""
        arrivals, now = [], time.monotonic()
        while self._give_up == float("inf") and self._next_arrival <= now:
            arrivals.append(self._next_arrival)
            self._next_arrival += self._random.expovariate(self._rate)
        if arrivals:
            self._send(arrivals)

    def _send(self, since: Sequence[float]) -> None:
        """Send a message of as many rows as there are moments from which their latencies count."""
        rows = list(itertools.islice(self._rows, len(since)))
        for number, (row, moment) in enumerate(zip(rows, since, strict=True), self._fed.sent):
            row.id = number
            self._open[number] = moment, row.length
        self._fed.sent += len(rows)
        self._socket.send(self._encoder.encode(Submit(rows)))

    def _take(self, source: "zmq.Socket[bytes]") -> None:
        """All answers that are there."""
        phase = self._fed.phases[-1]
        while source.poll(0):
            message = self._decoder.decode(source.recv())
            if isinstance(message, TokenDeltas):  # empty: the engine looks whether its fronts live
                continue
            if not self._is_answered:
                print("answered", flush=True)
            self._is_answered = True
            now = time.monotonic()
            for number in message.ids:
                sent, length = self._open.pop(number)
                if isinstance(message, Failure):
                    self._fed.failed += 1
                else:
                    phase.tokens += length
                    phase.latencies.append(now - sent)


class Clients:
    """The feeding processes of one run. Blocks until each of them has had an answer."""

    def __init__(
        self, run: Path, address: str, lengths: Sequence[int], under_way: int, pause: float, rate: float = 0.0
    ) -> None:
        """under_way: of each. rate: of all together; see `Feed`."""
        self._processes = []
        for seed in range(CLIENTS):
            turned = [*lengths[seed * 97 :], *lengths[: seed * 97]]  # not all of them in step
            feed = Feed(
                address=address, lengths=turned, seed=seed, under_way=under_way, pause=pause, rate=rate / CLIENTS
            )
            file = run / f"feed{seed}.json"
            file.write_bytes(msgspec.json.encode(feed))
            command = [sys.executable, "-m", "bench.gpu_client", str(file)]
            pipe = subprocess.PIPE
            self._processes.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, bufsize=0))
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def tell(self, command: str) -> None:
        """Send all of them a command."""
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it is gone, and `stop` says so
                process.stdin.write(f"{command}\n".encode())

    def stop(self) -> list[Fed]:
        """Blocks until all is answered; raises BenchError where a client failed."""
        self.tell("stop")
        found = [
            msgspec.json.decode(process.communicate()[0] or b"null", type=Fed | None) for process in self._processes
        ]
        if None in found:
            raise BenchError("a feeding process failed; what it wrote stands above")
        return [each for each in found if each is not None]


if __name__ == "__main__":
    found = Client(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Feed)).run()
    sys.stdout.buffer.write(msgspec.json.encode(found))
