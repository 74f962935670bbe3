"""A front's connection to one engine: rows out, arrays in, and who waits for them. Runs in the front's event loop.

Rows of all requests that are handled in one turn of the loop leave in one message. The link counts the tokens that it
has sent and not got back; admission is decided from that, at once and without asking anyone.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import assert_never

import msgspec
import numpy
import zmq

from serving.errors import DeadlineExceeded, EngineLost, Failed, QueueFull, ServingError, TooLarge
from serving.front.text_stream import TextStream
from serving.tasks.base.generated_text import to_arrays
from serving.tasks.base.task import AnyTask
from serving.wire.messages import (
    Cancel,
    EncodedRow,
    Failure,
    FailureReason,
    FromEngine,
    Outputs,
    Row,
    RowArrays,
    Submit,
    TokenDelta,
    TokenDeltas,
    unpack,
)

GATHER_SECONDS = 0.001
"""How long rows may wait for company while the engine is busy with earlier ones; ours."""


class Waiter:
    """A request that waits for its rows. `done` resolves to each row's arrays in order, or raises ServingError."""

    def __init__(self, rows: int, deadline: float) -> None:
        self.done: asyncio.Future[list[RowArrays]] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.forward_seconds = 0.0
        self.ids: list[int] = []
        self._arrays: list[RowArrays] = [()] * rows
        self._missing = rows

    def put(self, index: int, arrays: RowArrays, forward_seconds: float) -> None:
        """A row came back."""
        self._arrays[index] = arrays
        self.forward_seconds = max(self.forward_seconds, forward_seconds)
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._arrays)

    def take(self, index: int, part: TokenDelta) -> None:
        """A row's text came, whole."""
        self.put(index, to_arrays(part), part.forward_seconds)

    def fail(self, error: ServingError) -> None:
        """Nothing more comes."""
        if not self.done.done():
            self.done.set_exception(error)


class StreamWaiter(Waiter):
    """A request whose texts are handed on as they come. Its deadline is that of its first tokens."""

    def __init__(self, stream: TextStream, deadline: float) -> None:
        super().__init__(stream.rows, deadline)
        self._stream = stream

    def take(self, index: int, part: TokenDelta) -> None:
        """Tokens of a row came."""
        self.deadline = float("inf")
        self._stream.put(index, part)

    def fail(self, error: ServingError) -> None:
        """Nothing more comes."""
        self._stream.fail(error)


class Link:
    """One engine, as a front sees it. bound_tokens: the most that this front may have in the engine's queue."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, task: AnyTask, bound_tokens: int
    ) -> None:
        self.address = address
        self.bound_tokens = bound_tokens
        self.tokens_per_second = 1.0
        self.outstanding_tokens = 0
        self._task = task
        self._rows: dict[int, tuple[Waiter, int, Row]] = {}
        self._next_id = 0
        self._outbox: list[Row] = []
        self._in_flight = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._receive)

    def submit(self, rows: Sequence[EncodedRow], deadline: float, stream: TextStream | None = None) -> Waiter:
        """Send rows for a forward pass; all of them or none. Raises TooLarge or QueueFull.

        stream: takes the rows' tokens as they are written.
        """
        tokens = sum(row.length + row.new_tokens for row in rows)
        if tokens > self.bound_tokens:
            raise TooLarge(
                f"the request has {tokens:,} tokens, the queue takes {self.bound_tokens:,}: send it in several requests"
            )
        if self.outstanding_tokens + tokens > self.bound_tokens:
            seconds = self.outstanding_tokens / self.tokens_per_second
            raise QueueFull(
                f"the queue is full ({self.outstanding_tokens:,} of {self.bound_tokens:,} tokens): try again later",
                retry_seconds=seconds,
            )
        waiter = Waiter(len(rows), deadline) if stream is None else StreamWaiter(stream, deadline)
        for index, encoded in enumerate(rows):
            self._next_id += 1
            row = encoded.to_row(self._next_id, deadline)
            self._rows[row.id] = (waiter, index, row)
            waiter.ids.append(row.id)
            if not self._outbox:
                self._schedule_flush()
            self._outbox.append(row)
        self.outstanding_tokens += tokens
        return waiter

    def abandon(self, waiter: Waiter, error: ServingError) -> None:
        """Nobody waits any more: tell the engine to drop what it has not begun."""
        ids = [row_id for row_id in waiter.ids if self._forget(row_id) is not None]
        gone, waiting = set(ids), len(self._outbox)
        self._outbox = [row for row in self._outbox if row.id not in gone]
        self._in_flight -= len(ids) - (waiting - len(self._outbox))
        if ids:
            self._send(Cancel(ids))
        waiter.fail(error)

    def abandon_late(self, now: float) -> None:
        """Fail every request whose deadline has passed; `now` is in monotonic seconds."""
        late = {waiter for waiter, _, _ in self._rows.values() if waiter.deadline <= now}
        for waiter in late:
            self.abandon(waiter, DeadlineExceeded("the answer did not come before the deadline: try again later"))

    def close(self) -> None:
        """The engine is gone: fail what waits."""
        self._loop.remove_reader(self._fd)
        self._socket.close()
        lost = {waiter for waiter, _, _ in self._rows.values()}
        self._rows.clear()
        for waiter in lost:
            waiter.fail(EngineLost("the engine stopped before it answered: try again", retry_seconds=1.0))

    def _schedule_flush(self) -> None:
        """At the end of this turn where the engine is idle; while it is busy rows gather for a moment."""
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
        """Take every reply that is there. The descriptor only signals changes, so this goes on until none is left."""
        while not self._socket.closed:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = self._decoder.decode(frame)
            if isinstance(message, Outputs):
                self._deliver(message)
            elif isinstance(message, TokenDeltas):
                self._hand_on(message)
            else:
                self._fail(message)
            self._flush()  # the engine is free again

    def _deliver(self, message: Outputs) -> None:
        arrays = [unpack(array) for array in message.arrays]
        finite = all(numpy.isfinite(array).all() for array in arrays)
        for index, (row_id, length) in enumerate(zip(message.ids, message.lengths, strict=True)):
            found = self._returned(row_id)
            if found is None:
                continue
            waiter, position, row = found
            has_tokens = self._task.has_tokens(row.batch_key)
            own = [array[index, :length] if has_tokens else array[index] for array in arrays]
            if not finite and not all(numpy.isfinite(array).all() for array in own):
                waiter.fail(Failed("the model answered with a number that is not finite"))
            else:
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
                found[0].fail(_error(message.reason, message.message))

    def _forget(self, row_id: int) -> tuple[Waiter, int, Row] | None:
        found = self._rows.pop(row_id, None)
        if found is not None:
            self.outstanding_tokens -= found[2].tokens_in_all
        return found

    def _returned(self, row_id: int) -> tuple[Waiter, int, Row] | None:
        found = self._forget(row_id)
        if found is not None:
            self._in_flight -= 1
        return found


def deadline_in(seconds: float) -> float:
    """A deadline in seconds of the machine's monotonic clock, which all its processes share."""
    return time.monotonic() + seconds


def _error(reason: FailureReason, message: str) -> ServingError:
    match reason:
        case "deadline":
            return DeadlineExceeded(message)
        case "failed":
            return Failed(message)
        case other:
            assert_never(other)
