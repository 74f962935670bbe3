"""The engine of tasks with one forward pass a row: one version on one device, with its queue.

One loop drains the socket, chooses a batch, runs it and replies. Nothing else touches the queue, so there are no locks.
On a GPU two batches are in flight: the next one is assembled while the current one runs. On a CPU the loop runs batches
itself or hands them to a `ForwardPool`.
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from serving.engine.batching.cost import Cost
from serving.engine.batching.online_cost import OnlineCost
from serving.engine.batching.queue import Entry, Queue
from serving.engine.heart import Heart
from serving.engine.model import cut
from serving.engine.recheck import Recheck
from serving.engine.socket_loop import SocketLoop
from serving.errors import FAILED_ON_INPUT, EngineError
from serving.wire.messages import NOT_TOLD, Compute, Failure, Outputs, pack

if TYPE_CHECKING:
    import zmq

    from serving.engine.forward_pass import ForwardPass, GenericArray
    from serving.engine.meter import EngineMeter
    from serving.engine.model import Model
    from serving.engine.parallel import ForwardPool, PooledPass

logger = logging.getLogger("headwaiter.engine")

CANARY_TOKENS = 8
"""Length of the row that tells whether the model still works; the warm-up has run it."""


class Engine:
    """The loop around one model. `run` blocks until `stop` was called and every accepted row is answered."""

    def __init__(
        self,
        model: "Model",
        cost: Cost,
        socket: "zmq.Socket[bytes]",
        meter: "EngineMeter",
        pool: "ForwardPool | None" = None,
        heart: Heart | None = None,
    ) -> None:
        """pool: runs the model's batches side by side; it is closed when `run` returns. heart: tells others that the
        loop gets on.
        """
        self._model = model
        self._canary = model.probe(min(CANARY_TOKENS, model.contract.max_tokens))
        self._has_finite_canary = _are_finite(model.run([self._canary])[0])
        self._recheck = Recheck()
        self._heart = heart or Heart()
        self._oldest: object = None
        self._cost = OnlineCost(cost, model.task.probe(model.contract, 1).batch_key)
        self._meter = meter
        self._queue = Queue(is_packed=cost.is_packed, batching=model.form.batching)
        self._in_flight: list[tuple[list[Entry], ForwardPass | PooledPass]] = []
        self._is_cuda = model.device.type == "cuda"
        self._depth = 2 if self._is_cuda else 1 if pool is None else pool.count
        self._free = 0.0
        self._pool = pool
        self._loop = SocketLoop(socket, self._queue, meter, () if pool is None else (pool,))

    def stop(self) -> None:
        """Leave once every accepted row is answered and no message has arrived for a moment."""
        self._loop.stop()

    def run(self) -> None:
        """Serve. Returns after `stop`. Raises EngineError where the model no longer works: what waits gets no reply."""
        self._loop.run(self._step, self._patience, self._is_idle)
        if self._pool is not None:
            self._pool.close()

    def _step(self) -> None:
        self._drop_expired()
        while self._may_launch() and (batch := self._queue.choose(self._cost.now)):
            self._launch(batch)
        self._finish_some()
        oldest = self._in_flight[0] if self._in_flight else None
        if oldest is None or oldest is not self._oldest:
            self._heart.turn(is_idle=oldest is None)
        self._oldest = oldest

    def _may_launch(self) -> bool:
        """Whether the next batch may start beside those in flight. A row that must be alone shares no time either."""
        if len(self._in_flight) >= self._depth:
            return False
        is_suspect = any(batch[0].row.is_suspect for batch, _ in self._in_flight)
        return not self._in_flight or not (is_suspect or self._queue.is_next_suspect())

    def _patience(self) -> int | None:
        """Milliseconds until the next step has work; None where only a message or the pool makes work."""
        if self._queue and self._may_launch():
            return 0
        if self._is_cuda and self._in_flight:
            return 0 if len(self._in_flight) == self._depth else 1
        return None

    def _finish_some(self) -> None:
        """Reply to the batches that are done. With both GPU slots in flight, block on the oldest batch: a CUDA event
        cannot wake a poll.
        """
        if self._pool is not None:
            self._pool.clear()  # before looking, so that a pass that ends meanwhile wakes the next poll
        done = [each for each in self._in_flight if each[1].is_done()]
        if not done and self._is_cuda and len(self._in_flight) == self._depth:
            done = self._in_flight[:1]
        for each in done:
            self._in_flight.remove(each)
            self._finish(*each)

    def _is_idle(self) -> bool:
        return not self._queue and not self._in_flight

    def _drop_expired(self) -> None:
        for entry in self._queue.expire(time.monotonic()):
            self._loop.reply(entry.client, Failure([entry.row.id], "deadline", "the deadline passed in the queue"))

    def _launch(self, batch: list[Entry]) -> None:
        rows = [entry.row for entry in batch]
        self._begin(batch)
        try:
            if self._pool is None:
                forward_pass: ForwardPass | PooledPass = self._model.launch(rows)
            else:
                forward_pass = self._pool.launch(rows, is_idle=not self._in_flight)
            self._in_flight.append((batch, forward_pass))
        except Exception as error:  # a model may raise anything; it must cost its own row only
            self._isolate(batch, error)

    def _finish(self, batch: list[Entry], forward_pass: "ForwardPass | PooledPass") -> None:
        try:
            arrays = forward_pass.wait()
        except Exception as error:  # as above
            self._isolate(batch, error)
            return
        if not _are_finite(arrays):
            if len(batch) > 1 and self._model.form.has_block_attention:  # one row that is not finite can make others so
                self._isolate(batch, FloatingPointError("not finite"))
                return
            self._look_at_rows(batch, arrays)
        lengths = [entry.length for entry in batch]
        tokens, pairs = self._cost.now.work(lengths)
        self._cost.observe(batch[0].row.batch_key, tokens, pairs, self._device_seconds(forward_pass))
        self._meter.observe_batch(lengths, tokens)
        self._send(batch, arrays, forward_pass.seconds, Compute(forward_pass.processor_seconds, tokens, pairs))

    def _begin(self, batch: Sequence[Entry]) -> None:
        """Tell that a forward pass over these rows begins, beside those in flight."""
        batches = [*(each for each, _ in self._in_flight), batch]
        expected = sum(self._cost.now.seconds(len(each), max(entry.length for entry in each)) for each in batches)
        self._heart.begin((entry for each in batches for entry in each), expected)

    def _device_seconds(self, forward_pass: "ForwardPass | PooledPass") -> float:
        """How long a batch occupied its device. Of two batches in flight on a GPU, the second starts when the first
        ends; in a pool each has its own core.
        """
        ended = forward_pass.began + forward_pass.seconds
        began = max(forward_pass.began, self._free) if self._is_cuda else forward_pass.began
        self._free = ended
        return ended - began

    def _isolate(self, batch: Sequence[Entry], error: Exception) -> None:
        """Try the rows of a failed batch once more, one by one, so that only a row at fault fails.

        Raises EngineError where the model fails on a row that it has answered before, too.
        """
        self._check_model(error)
        for entry in batch:
            self._begin([entry])
            try:
                forward_pass = self._model.launch([entry.row])
                arrays = forward_pass.wait()
            except Exception as own:  # as above
                self._check_model(own)
                logger.error("the model failed on a row: %s", type(own).__name__, extra={"fields": self._meter.fields})
                self._loop.reply(entry.client, Failure([entry.row.id], "failed", FAILED_ON_INPUT))
            else:
                self._look_at_rows([entry], arrays)
                self._send([entry], arrays, forward_pass.seconds)

    def _look_at_rows(self, batch: Sequence[Entry], arrays: "Sequence[GenericArray]") -> None:
        """Check the model if a row's answer is not finite, which may be the device's fault, and not the row's."""
        if _are_finite(arrays) or not self._recheck.is_due():
            return
        task = self._model.task
        answers = (cut(arrays, index, each.length, task, each.row.batch_key) for index, each in enumerate(batch))
        if not all(map(_are_finite, answers)):
            self._check_model(FloatingPointError("not finite"))

    def _check_model(self, error: Exception) -> None:
        """Run a row that a working model answers: a device that failed once may go on to fail (CUDA).

        A device may also fail by numbers that are not finite, where this row's have been.
        """
        began = time.monotonic()
        try:
            answer = self._model.run([self._canary])[0]
            if self._has_finite_canary and not _are_finite(answer):
                raise FloatingPointError("not finite")
            self._recheck.note(began)
        except Exception as own:  # as above
            raise EngineError(
                f"the model does not work any more: after {type(error).__name__} it failed on a plain row "
                f"({type(own).__name__})"
            ) from error

    def _send(
        self, batch: Sequence[Entry], arrays: "Sequence[GenericArray]", seconds: float, compute: Compute = NOT_TOLD
    ) -> None:
        """Reply to the rows of a batch, one message for each client."""
        clients: dict[bytes, list[int]] = {}
        for index, entry in enumerate(batch):
            clients.setdefault(entry.client, []).append(index)
        for client, indexes in clients.items():
            outputs = Outputs(
                ids=[batch[index].row.id for index in indexes],
                lengths=[batch[index].length for index in indexes],
                arrays=[pack(array, indexes) for array in arrays],
                forward_seconds=seconds,
                compute=compute,
            )
            self._loop.reply(client, outputs)


def _are_finite(arrays: "Sequence[GenericArray]") -> bool:
    return all(bool(numpy.isfinite(array).all()) for array in arrays)
