"""A front's connection to one engine: rows out, arrays in, for the requests that wait (`waiter`).

Runs in the front's event loop. Rows of all requests that are handled in one turn of the loop leave in one message. The
link counts the tokens and bytes that it has sent and not got back, and admits requests by these counts, without asking
the engine.
"""

import asyncio
import logging
import os
from bisect import insort
from collections.abc import Sequence
from typing import assert_never

import msgspec
import numpy
import zmq

from serving.errors import NOT_FINITE, DeadlineExceeded, EngineLost, Failed, ServingError, Unprocessable
from serving.front.admission import QueueShare
from serving.front.waiter import Waiter
from serving.tasks.base.task import AnyTask
from serving.wire.heartbeat import heartbeat_path, read_rows
from serving.wire.messages import Cancel, EncodedRow, Failure, FromEngine, Outputs, Row, Submit, TokenDeltas, unpack

GATHER_SECONDS = 0.001
"""While the engine is busy, rows wait this long for others that share their message: less than a short forward pass."""
MAX_ENDED = 1024
"""Requests that ended, beyond as many as wait, whose deadlines may still be in the list."""

logger = logging.getLogger("headwaiter.front")


class EngineLink:
    """One engine, as a front sees it. share: of the engine's queue, this front's.

    pid: of the engine's process. Another process at the same address is another engine, which knows nothing of the rows
    that this one had.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        task: AnyTask,
        pid: int = 0,
    ) -> None:
        self.address = address
        self.pid = pid
        self.share = QueueShare()
        self._task = task
        self._rows: dict[int, tuple[Waiter, int, Row]] = {}
        self._waiters: dict[int, Waiter] = {}
        """The requests that wait, by the id of their last row."""
        self._deadlines: list[tuple[float, int]] = []
        """Deadlines and keys of `_waiters`, ascending. `abandon_late` drops the entries of requests that ended."""
        self.rows_sent = 0
        """Also the id of the latest row."""
        self._outbox: list[Row] = []
        self._in_flight = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._identity = b"f" + os.urandom(8)  # ZeroMQ's own begin with a zero byte
        self._socket.setsockopt(zmq.ROUTING_ID, self._identity)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._receive)

    @property
    def is_closed(self) -> bool:
        """Whether the engine is disconnected."""
        return bool(self._socket.closed)

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        """Send a request's rows for a forward pass; all of them or none. Raises TooLarge, QueueFull or EngineLost.

        waiter: made for as many rows; takes what comes back.
        """
        if self._socket.closed:
            raise EngineLost("the engine has stopped: try again", retry_seconds=1.0, had_begun=False)
        self.share.take(rows)
        for index, encoded in enumerate(rows):
            self.rows_sent += 1
            row = encoded.to_row(self.rows_sent, waiter.deadline)
            self._rows[row.id] = (waiter, index, row)
            waiter.ids.append(row.id)
            if not self._outbox:
                self._schedule_flush()
            self._outbox.append(row)
        waiter.rows_left = len(rows)
        self._waiters[self.rows_sent] = waiter
        if not self._deadlines or self._deadlines[-1][0] <= waiter.deadline:
            self._deadlines.append((waiter.deadline, self.rows_sent))
        else:  # another request, with a later deadline, was encoded in less time
            insort(self._deadlines, (waiter.deadline, self.rows_sent))

    def abandon(self, waiter: Waiter, error: ServingError) -> None:
        """End a request's wait with `error`, and tell the engine to drop the rows that it has not begun."""
        ids = [row_id for row_id in waiter.ids if self._forget(row_id) is not None]
        dropped, unsent = set(ids), len(self._outbox)
        self._outbox = [row for row in self._outbox if row.id not in dropped]
        self._in_flight -= len(ids) - (unsent - len(self._outbox))
        if ids:
            self._send(Cancel(ids))
        waiter.fail(error)

    def abandon_late(self, now: float) -> None:
        """Fail every request whose deadline has passed; `now` is in monotonic seconds."""
        waiters, passed, late = self._waiters, 0, []
        for deadline, key in self._deadlines:
            waiter = waiters.get(key)
            if waiter is not None:
                if deadline > now:
                    break
                late.append(waiter)
            passed += 1
        del self._deadlines[:passed]
        for waiter in late:
            if waiter.rows_left and waiter.deadline <= now:  # a stream may have begun, now too: `abandon` receives
                self.abandon(waiter, DeadlineExceeded("the answer did not come before the deadline: try again later"))
        if len(self._deadlines) > 2 * len(waiters) + MAX_ENDED:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in waiters]

    def close(self) -> None:
        """The engine is disconnected: fail what waits, and tell it whether the engine was computing it."""
        if self._socket.closed:  # its descriptor may be another's by now
            return
        self._loop.remove_reader(self._fd)
        self._socket.close()
        lost = list(self._waiters.values())
        self._rows.clear()
        self._waiters.clear()
        self._deadlines.clear()
        if not lost:
            return
        computed = read_rows(heartbeat_path(self.address, self.pid))
        begun = None if computed is None else set(computed.get(self._identity, ()))
        for waiter in lost:
            had_begun = begun is None or not begun.isdisjoint(waiter.ids)
            error = EngineLost(
                "the engine stopped before it answered: try again", retry_seconds=1.0, had_begun=had_begun
            )
            waiter.fail(error)

    def _schedule_flush(self) -> None:
        """Send at the end of this turn of the loop if the engine is idle, else after GATHER_SECONDS."""
        if self._in_flight:
            self._loop.call_later(GATHER_SECONDS, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._outbox:
            rows, self._outbox = self._outbox, []
            self._in_flight += len(rows)
            self._send(Submit(rows))

    def _send(self, message: Submit | Cancel) -> None:
        if self._socket.closed:
            return
        try:
            self._socket.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return  # not connected yet or gone; the deadline or `close` ends the wait
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._receive()

    def _receive(self) -> None:
        """Take every reply that is there: the descriptor signals changes only, so nothing may be left."""
        while not self._socket.closed:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(self._decoder.decode(frame))
            except (ValueError, TypeError, IndexError, msgspec.DecodeError) as error:
                logger.error("an engine at %s does not speak the protocol, it is left", self.address, exc_info=error)
                self.close()
                return
            self._flush()  # the engine is free again

    def _take(self, message: FromEngine) -> None:
        match message:
            case Outputs():
                self._deliver(message)
            case TokenDeltas():
                self._hand_on(message)
            case Failure():
                self._fail(message)
            case _:
                assert_never(message)

    def _deliver(self, message: Outputs) -> None:
        arrays, rows = [unpack(array) for array in message.arrays], len(message.ids)
        if len(message.lengths) != rows or any(array.shape[:1] != (rows,) for array in arrays):
            raise ValueError(f"{rows} rows with {len(message.lengths)} lengths and {[array.shape for array in arrays]}")
        finite = all(numpy.isfinite(array).all() for array in arrays)
        for index, (row_id, length) in enumerate(zip(message.ids, message.lengths, strict=True)):
            found = self._returned(row_id)
            if found is None:
                continue
            waiter, position, row = found
            has_tokens = self._task.has_tokens(row.batch_key)
            own = [array[index, :length] if has_tokens else array[index] for array in arrays]
            if not finite and not all(numpy.isfinite(array).all() for array in own):
                waiter.fail(Failed(NOT_FINITE))
            else:
                waiter.computed.add(message.compute, length)
                waiter.put(position, own, message.forward_seconds)

    def _hand_on(self, message: TokenDeltas) -> None:
        for part in message.deltas:
            found = self._returned(part.id) if part.finish else self._rows.get(part.id)
            if found is not None:
                found[0].take(found[1], part)

    def _fail(self, message: Failure) -> None:
        for row_id in message.ids:
            found = self._returned(row_id)
            if found is not None:
                found[0].fail(_error_of(message))

    def _forget(self, row_id: int) -> tuple[Waiter, int, Row] | None:
        found = self._rows.pop(row_id, None)
        if found is not None:
            waiter, _, row = found
            self.share.give_back(row.tokens_in_all, row.size_bytes)
            waiter.rows_left -= 1
            if not waiter.rows_left:
                del self._waiters[waiter.ids[-1]]
        return found

    def _returned(self, row_id: int) -> tuple[Waiter, int, Row] | None:
        found = self._forget(row_id)
        if found is not None:
            self._in_flight -= 1
        return found


def _error_of(failure: Failure) -> ServingError:
    error: ServingError
    match failure.reason:
        case "failed":
            error = Failed(failure.message)
        case "deadline":
            error = DeadlineExceeded(failure.message)
        case "refused":
            error = Unprocessable(failure.message)
        case _:
            assert_never(failure.reason)
    return error
