"""The loop around an engine's socket: rows and cancellations come in, replies leave, until the engine may stop.

Both engines use it: `engine.Engine` for forward passes, `generation.engine.GenerationEngine` for decode steps.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import zmq

from serving.wire.messages import Cancel, FromEngine, Row, ToEngine, TokenDeltas

if TYPE_CHECKING:
    from serving.engine.meter import EngineMeter

logger = logging.getLogger("headwaiter.engine")

NOTHING = TokenDeltas([])
"""A message that a front takes without effect."""
IDLE_MILLISECONDS = 500
PROBE_SECONDS = 1.0
"""How often an engine whose queue is not empty looks whether the fronts that have sent rows still live."""
MAX_DROPPED = 1024
"""Clients that are remembered because they do not speak the protocol."""
LINGER_SECONDS = 1.0
"""A stopped engine leaves once no message has arrived for this long."""


class RowQueue(Protocol):
    """The rows of an engine. tokens: of the waiting rows. `len()`: rows without a final reply."""

    @property
    def tokens(self) -> int:
        """Tokens of the waiting rows."""

    def __len__(self) -> int: ...

    def add(self, client: bytes, row: Row, now: float) -> object:
        """Queue a row. now: monotonic seconds."""

    def cancel(self, client: bytes, ids: list[int]) -> object:
        """Drop rows of a client."""

    def forget_client(self, client: bytes) -> int:
        """Drop all rows of a client, those that run included where they can be; how many there were."""


class Wakeable(Protocol):
    """A file descriptor that ends a wait."""

    def fileno(self) -> int:
        """The file descriptor to poll."""


class SocketLoop:
    """Feeds one queue from one ROUTER socket. `stop` may be called from a signal handler or another thread."""

    def __init__(
        self, socket: "zmq.Socket[bytes]", rows: RowQueue, meter: "EngineMeter", wakers: Sequence[Wakeable] = ()
    ) -> None:
        """wakers: what else ends a wait for messages."""
        self._socket = socket
        self._rows = rows
        self._meter = meter
        self._poller = zmq.Poller()
        for each in (socket, *wakers):
            self._poller.register(each, zmq.POLLIN)
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._clients: set[bytes] = set()
        self._lost_clients: set[bytes] = set()
        self._dropped_clients: set[bytes] = set()
        self._probe_at = time.monotonic() + PROBE_SECONDS
        self._is_stopping = False
        self._last_heard = time.monotonic()

    def stop(self) -> None:
        """Let `run` return once the engine is idle and no message has arrived for `LINGER_SECONDS`."""
        self._is_stopping = True

    def run(self, step: Callable[[], None], patience: Callable[[], int | None], is_idle: Callable[[], bool]) -> None:
        """Drain the socket, take a step, update the gauges; over and over until stopped. Blocks.

        patience: milliseconds to wait for a message before the next step; None where only a message or a waker makes
        work. is_idle: whether no accepted row is left.
        """
        while True:
            milliseconds = patience()
            self._drain(IDLE_MILLISECONDS if milliseconds is None else milliseconds)
            if self._may_stop() and is_idle():
                return
            step()
            self._forget_lost_clients(time.monotonic())
            self._meter.observe_queue(self._rows.tokens)
            self._meter.observe_memory()

    def reply(self, client: bytes, message: FromEngine) -> None:
        """Send without blocking; a message to a front that is gone is dropped, and so are its rows after the step."""
        try:
            self._socket.send_multipart((client, self._encoder.encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                self._lost_clients.add(client)

    def _forget_lost_clients(self, now: float) -> None:
        """Free the rows of fronts whose socket is closed, which shows when something is sent to them."""
        if not len(self._rows):
            self._probe_at = now + PROBE_SECONDS
        elif now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            for client in self._clients:
                self.reply(client, NOTHING)
        while self._lost_clients:
            client = self._lost_clients.pop()
            self._clients.discard(client)
            freed = self._rows.forget_client(client)
            if freed:
                logger.warning("a front has ended, its rows are freed: %d", freed, extra={"fields": self._meter.fields})

    def _drop_client(self, client: bytes, error: Exception) -> None:
        """Listen no more to a client that does not speak this protocol, and free its rows."""
        freed = self._rows.forget_client(client)
        self._clients.discard(client)
        if len(self._dropped_clients) >= MAX_DROPPED:
            self._dropped_clients.clear()
        self._dropped_clients.add(client)
        fields = self._meter.fields
        logger.error("a client is dropped, with %d rows: %s", freed, error, extra={"fields": fields})

    def _may_stop(self) -> bool:
        return self._is_stopping and time.monotonic() - self._last_heard > LINGER_SECONDS

    def _drain(self, milliseconds: int) -> None:
        if milliseconds and not self._poller.poll(milliseconds):
            return
        now = time.monotonic()
        while True:
            try:
                client, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if client in self._dropped_clients:
                continue
            try:
                (frame,) = frames
                message = self._decoder.decode(frame)
            except (ValueError, msgspec.DecodeError) as error:
                self._drop_client(client, error)
                continue
            self._last_heard = now
            self._clients.add(client)
            if isinstance(message, Cancel):
                self._rows.cancel(client, message.ids)
            else:
                for row in message.rows:
                    self._rows.add(client, row, now)
