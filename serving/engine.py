"""The engine: one process for one version on one device. It owns the model, the device and the queue.

One loop: drain the socket, choose a batch, forward, reply. Nothing else touches the queue, so there are no locks. On a
GPU two batches are in flight: the next one is assembled while the current one runs. On a CPU the loop runs them itself,
or hands them to lanes. Replies go to the fronts.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from registry.imports import without_collector
from serving.learned import LearnedCost
from serving.queue import Cost, Entry, Queue
from serving.runtime.instruments import METRICS_FOLDER
from serving.runtime.logs import set_up_logging
from serving.runtime.priority import give_way, run_gently
from serving.runtime.server_process import Lifeline
from serving.wire.atomic_file import write_report
from serving.wire.engine_orders import STOP_SIGNAL, EngineOrder, EngineReport, order_path
from serving.wire.messages import Cancel, Failure, FromEngine, Outputs, ToEngine, pack

if TYPE_CHECKING:
    import numpy

    from serving.lanes import Running
    from serving.loading import Loaded
    from serving.metering import EngineMeter
    from serving.model import Model, Pending

logger = logging.getLogger("headwaiter.engine")

IDLE_MILLISECONDS = 500
LEASE_SECONDS = 0.5
LAST_SECONDS = 30.0
"""How long an engine without a server may take to finish what it has."""
LARGE_MODULES = ("serving.loading", "transformers.modeling_utils", "transformers.models.auto")
"""What every engine needs, and what takes seconds to import."""
ORDER_SECONDS = 0.01
"""How often an engine that was started in advance looks for its order."""
LINGER_SECONDS = 1.0
"""After the stop signal: how long nothing may have come in before the engine leaves."""


class Engine:
    """The loop around one model. `run` blocks until `stop` was called and all that was accepted is answered."""

    def __init__(self, model: "Model", cost: Cost, socket: "zmq.Socket[bytes]", meter: "EngineMeter") -> None:
        self._model = model
        self._cost = LearnedCost(cost, model.task.probe(model.contract, 1).kind)
        self._socket = socket
        self._meter = meter
        self._queue: Any = Queue(packs=cost.packs)
        self._in_flight: list[tuple[list[Entry], Pending | Running]] = []
        self._is_cuda = model.device.type == "cuda"
        self._depth = 2 if self._is_cuda else model.split.lanes
        self._free = 0.0
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._lanes = model.make_lanes()
        if self._lanes is not None:
            self._poller.register(self._lanes, zmq.POLLIN)
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._stopping = False
        self._last_heard = time.monotonic()

    def stop(self) -> None:
        """Leave once everything that was accepted is answered and nothing has come in for a moment."""
        self._stopping = True

    def run(self) -> None:
        """Serve. Returns after `stop`."""
        while True:
            self._drain(self._patience())
            if self._may_leave():
                break
            self._drop_expired()
            while len(self._in_flight) < self._depth and (batch := self._queue.choose(self._cost.now)):
                self._launch(batch)
            self._finish_some()
            self._meter.observe_queue(self._queue.tokens)
            self._meter.observe_memory()

        if self._lanes is not None:
            self._lanes.close()

    def _patience(self) -> int:
        """For how many milliseconds nothing needs to be done unless something comes in or a lane ends its batch."""
        if self._queue and len(self._in_flight) < self._depth:
            return 0
        if self._is_cuda and self._in_flight:
            return 0 if len(self._in_flight) == self._depth else 1
        return IDLE_MILLISECONDS

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

    def _may_leave(self) -> bool:
        quiet = time.monotonic() - self._last_heard > LINGER_SECONDS
        return self._stopping and quiet and not self._queue and not self._in_flight

    def _drain(self, milliseconds: int) -> None:
        if milliseconds and not self._poller.poll(milliseconds):
            return
        now = time.monotonic()
        while True:
            try:
                client, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._last_heard = now
            message = self._decoder.decode(frame)
            if isinstance(message, Cancel):
                self._queue.cancel(client, message.ids)
            else:
                for row in message.rows:
                    self._queue.add(client, row, now)

    def _drop_expired(self) -> None:
        for entry in self._queue.expire(time.monotonic()):
            self._reply(entry.client, Failure([entry.row.id], "deadline", "the deadline passed in the queue"))

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
            self._reply(batch[0].client, Failure([batch[0].row.id], "failed", "the model failed on this input"))
            return
        for entry in batch:
            try:
                pending = self._model.launch([entry.row])
                self._send([entry], pending.wait(), pending.seconds)
            except Exception as own:  # as above
                self._isolate([entry], own)

    def _send(self, batch: Sequence[Entry], arrays: "Sequence[numpy.ndarray[Any, Any]]", seconds: float) -> None:
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
            self._reply(client, outputs)

    def _reply(self, client: bytes, message: FromEngine) -> None:
        with suppress(zmq.ZMQError):  # the front is gone; its clients are too
            self._socket.send_multipart((client, self._encoder.encode(message)), zmq.NOBLOCK)


class Lease:
    """An engine may live as long as the server does and its order is there; a thread looks. Neither needs the manager.

    At the end: an engine that still loads is gone at once, one that serves is asked to stop, and made to later.
    """

    def __init__(self, order: EngineOrder) -> None:
        self._lifeline = Lifeline(order.server)
        self._order = Path(order_path(order.report))
        self._stop: Callable[[], None] | None = None
        threading.Thread(target=self._watch, name="headwaiter-lease", daemon=True).start()

    def on_end(self, stop: "Callable[[], None]") -> None:
        """From now on, call this at the end."""
        self._stop = stop

    def _watch(self) -> None:
        while not self._lifeline.is_cut() and self._order.exists():
            time.sleep(LEASE_SECONDS)
        if self._stop is not None:
            self._stop()
            time.sleep(LAST_SECONDS)
        os._exit(0)


def make_engine(model: "Model", cost: Cost, socket: "zmq.Socket[bytes]", meter: "EngineMeter") -> Engine:
    """The engine of the model's task."""
    if not model.task.generates:
        return Engine(model, cost, socket, meter)
    from serving.writing import WritingEngine

    return WritingEngine(model, cost, socket, meter)


def import_large_modules() -> None:
    """Import LARGE_MODULES; the collector need not look through them, now or later."""
    with without_collector():
        for module in LARGE_MODULES:
            import_module(module)
        gc.freeze()


def _load(order: EngineOrder) -> "Loaded":
    import_large_modules()
    from serving.loading import load_engine

    return load_engine(order)


def await_order(path: Path) -> None:
    """Import the large modules while the manager still finds out what to serve, and wait until it says so.

    A process whose parent or folder is gone meanwhile ends. Where the order is there, it tells how gently to import.
    """
    if path.exists():
        return
    parent = os.getppid()
    import_large_modules()
    while not path.exists():
        if os.getppid() != parent or not path.parent.is_dir():
            sys.exit(0)
        time.sleep(ORDER_SECONDS)


def main(path: str) -> None:
    """Entry point of the process: load what the order says, report, serve until told to stop."""
    set_up_logging()
    await_order(Path(path))
    order = msgspec.json.decode(Path(path).read_bytes(), type=EngineOrder)
    if order.metrics:  # BentoML names it to its own processes; this one may be older
        os.environ[METRICS_FOLDER] = order.metrics
    report = Path(order.report)
    write_report(report, EngineReport(pid=os.getpid(), state="loading"))
    lease = Lease(order)
    try:
        loaded = run_gently(lambda: _load(order)) if order.gently else _load(order)
    except Exception as error:  # whatever it is, the manager shows it
        message = f"{type(error).__name__}: {error}"
        write_report(report, EngineReport(pid=os.getpid(), state="failed", error=message))
        raise SystemExit(f"headwaiter engine {order.model}/{order.version}: {message}") from error
    context = zmq.Context(io_threads=1)
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.bind(order.address)
    engine = make_engine(loaded.model, loaded.cost, socket, loaded.meter)
    signal.signal(STOP_SIGNAL, lambda *_: engine.stop())
    lease.on_end(engine.stop)
    # A supervisor signals the whole tree at once; the fronts' accepted requests need the engine until the manager says.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if loaded.model.task.generates and loaded.model.device.type == "cpu":
        give_way()
    write_report(report, loaded.report)
    engine.run()
    context.destroy(linger=1000)


if __name__ == "__main__":
    main(sys.argv[1])
