"""The engine: one process for one version on one device. It owns the model, the device and the queue.

One loop: drain the socket, choose a batch, forward, reply. Nothing else touches the queue, so there are no locks. On a
GPU two batches are in flight: the next one is assembled while the current one runs. On a CPU the loop runs them itself,
or hands them to lanes. Replies go to the fronts.
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.engine.batching.cost import Cost
from serving.engine.batching.online_cost import LearnedCost
from serving.engine.batching.queue import Entry, Queue
from serving.engine.socket_loop import SocketLoop
from serving.wire.messages import Failure, Outputs, pack

if TYPE_CHECKING:
    import zmq

    from serving.engine.forward_pass import Array, Pending
    from serving.engine.meter import EngineMeter
    from serving.engine.model import Model
    from serving.engine.parallel import Lanes, Running

logger = logging.getLogger("headwaiter.engine")


class Engine:
    """The loop around one model. `run` blocks until `stop` was called and all that was accepted is answered."""

    def __init__(
        self,
        model: "Model",
        cost: Cost,
        socket: "zmq.Socket[bytes]",
        meter: "EngineMeter",
        lanes: "Lanes | None" = None,
    ) -> None:
        """lanes: run the model's batches side by side; they are closed when `run` returns."""
        self._model = model
        self._cost = LearnedCost(cost, model.task.probe(model.contract, 1).kind)
        self._meter = meter
        self._queue = Queue(packs=cost.packs)
        self._in_flight: list[tuple[list[Entry], Pending | Running]] = []
        self._is_cuda = model.device.type == "cuda"
        self._depth = 2 if self._is_cuda else 1 if lanes is None else lanes.count
        self._free = 0.0
        self._lanes = lanes
        self._loop = SocketLoop(socket, self._queue, meter, () if lanes is None else (lanes,))

    def stop(self) -> None:
        """Leave once everything that was accepted is answered and nothing has come in for a moment."""
        self._loop.stop()

    def run(self) -> None:
        """Serve. Returns after `stop`."""
        self._loop.run(self._step, self._patience, self._is_idle)
        if self._lanes is not None:
            self._lanes.close()

    def _step(self) -> None:
        self._drop_expired()
        while len(self._in_flight) < self._depth and (batch := self._queue.choose(self._cost.now)):
            self._launch(batch)
        self._finish_some()

    def _patience(self) -> int | None:
        """For how many milliseconds nothing needs to be done unless something comes in or a lane ends its batch."""
        if self._queue and len(self._in_flight) < self._depth:
            return 0
        if self._is_cuda and self._in_flight:
            return 0 if len(self._in_flight) == self._depth else 1
        return None

    def _finish_some(self) -> None:
        """Answer what is done. A GPU that has enough to do is waited for, as it wakes nobody."""
        if self._lanes is not None:
            self._lanes.clear()  # before looking, so that no end is overlooked
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
        try:
            if self._lanes is None:
                pending: Pending | Running = self._model.launch(rows)
            else:
                pending = self._lanes.launch(rows, is_alone=not self._in_flight)
            self._in_flight.append((batch, pending))
        except Exception as error:  # a model may raise anything; it must cost its own row only
            self._isolate(batch, error)

    def _finish(self, batch: list[Entry], pending: "Pending | Running") -> None:
        try:
            arrays = pending.wait()
        except Exception as error:  # as above
            self._isolate(batch, error)
            return
        if len(batch) > 1 and self._model.is_spoilt(arrays):
            self._isolate(batch, FloatingPointError("not finite"))
            return
        lengths = [entry.length for entry in batch]
        tokens, pairs = self._cost.now.work(lengths)
        self._cost.observe(batch[0].row.kind, tokens, pairs, self._device_seconds(pending))
        self._meter.observe_batch(lengths, tokens)
        self._send(batch, arrays, pending.seconds)

    def _device_seconds(self, pending: "Pending | Running") -> float:
        """How long a batch had its device; of batches in flight together each has a GPU after the last."""
        ended = pending.began + pending.seconds
        began = max(pending.began, self._free) if self._is_cuda else pending.began
        self._free = ended
        return ended - began

    def _isolate(self, batch: Sequence[Entry], error: Exception) -> None:
        """Run the rows of a failed batch one by one, so that only the one at fault fails."""
        if len(batch) == 1:
            logger.error("the model failed on a row: %s", type(error).__name__, extra={"fields": self._meter.fields})
            self._loop.reply(batch[0].client, Failure([batch[0].row.id], "failed", "the model failed on this input"))
            return
        for entry in batch:
            try:
                pending = self._model.launch([entry.row])
                self._send([entry], pending.wait(), pending.seconds)
            except Exception as own:  # as above
                self._isolate([entry], own)

    def _send(self, batch: Sequence[Entry], arrays: "Sequence[Array]", seconds: float) -> None:
        clients: dict[bytes, list[int]] = {}
        for index, entry in enumerate(batch):
            clients.setdefault(entry.client, []).append(index)
        for client, indexes in clients.items():
            outputs = Outputs(
                ids=[batch[index].row.id for index in indexes],
                lengths=[batch[index].length for index in indexes],
                arrays=[pack(array, indexes) for array in arrays],
                forward_seconds=seconds,
            )
            self._loop.reply(client, outputs)
