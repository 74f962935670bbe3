"""An engine in a thread of the caller's process, for many inputs at once: inputs in, answers out, in their order.

It is the server's engine, asked by the server's messages over an `inproc://` socket: rows of one call, and of calls in
other threads, share its batches. MLflow's `python_function` answers with it.
"""

import threading
import uuid
import weakref
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import numpy
import torch
import zmq

from serving.engine.assembly import make_engine
from serving.engine.loading import Loaded, load_engine
from serving.engine.process_state import prepare_process
from serving.errors import NOT_FINITE, EngineError, Failed, ServingError, Unprocessable
from serving.tasks.base.generated_text import to_arrays
from serving.tasks.base.request import convert_request
from serving.wire.engine_orders import EngineOrder
from serving.wire.messages import Encoded, Failure, FromEngine, Outputs, RowArrays, Submit, unpack

WAITING_BATCHES = 16
"""Rows that a call has sent and not got back, in batches of the engine's budget: enough to choose full ones from.
Untuned."""
LOOK_MILLISECONDS = 1000
"""How often a call that waits looks whether the engine still runs."""


class LocalEngine:
    """The artifact at `root`, loaded as a server loads it. May be used from several threads.

    loaded: the model and how the engine runs it. The engine ends once this object is no longer referenced.
    """

    def __init__(self, root: Path, *, device: str = "auto", dtype: str = "auto") -> None:
        """device, dtype: as in the server's settings. Blocks for seconds. Raises as `loading.load_engine`."""
        prepare_process()
        threads = torch.get_num_threads()
        self._thread = _EngineThread(root, device, dtype, threads)
        self._thread.start()
        self.loaded = self._thread.wait_until_loaded()
        torch.set_num_threads(threads)  # loading sets those of threads to come
        weakref.finalize(self, self._thread.stop)
        passes = self.loaded.pool.count if self.loaded.pool is not None else 1
        self._bound_tokens = WAITING_BATCHES * passes * self.loaded.cost.budget_tokens

    def answer(self, inputs: Sequence[object], parameters: dict[str, Any] | None = None) -> list[Any]:
        """The answer to each input, in order; parameters: of all of them. Blocks.

        Raises ServingError where one of the inputs is refused or fails, with a note that says which; EngineError where
        the engine has ended.
        """
        if not inputs:
            return []
        request = convert_request(list(inputs), parameters, self.loaded.model.task, max_rows=len(inputs))
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(self._thread.address)
            return _Call(self.loaded, self._thread, socket, request.parameters).run(request.items, self._bound_tokens)


class _EngineThread(threading.Thread):
    """Loads the artifact, says so, and serves until it is told to stop."""

    def __init__(self, root: Path, device: str, dtype: str, threads: int) -> None:
        super().__init__(name="headwaiter-engine", daemon=True)
        self.address = f"inproc://headwaiter-{uuid.uuid4().hex}"
        self.error: Exception | None = None
        self._order = EngineOrder(
            model=root.name, version="", root=str(root), device=device, dtype=dtype, address=self.address, report="",
            threads=threads, run="",
        )  # fmt: skip
        self._has_loaded = threading.Event()
        self._loaded: Loaded | None = None
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = context.socket(zmq.ROUTER)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            self._socket.setsockopt(option, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(self.address)

    def run(self) -> None:
        """Load and serve. An exception is kept in `error`."""
        try:
            self._loaded = loaded = load_engine(self._order, holds=False)
            self._engine = make_engine(loaded.model, loaded.cost, self._socket, loaded.meter, loaded.pool)
            self._has_loaded.set()
            self._engine.run()
        except Exception as error:  # whatever it is, the caller raises it
            self.error = error
        finally:
            self._has_loaded.set()
            self._socket.close()

    def wait_until_loaded(self) -> Loaded:
        """What was loaded. Raises what loading raised."""
        self._has_loaded.wait()
        if self._loaded is None:
            raise self.error or EngineError("the engine has ended")
        return self._loaded

    def stop(self) -> None:
        """Let the engine end; does not wait for it."""
        self._engine.stop()


class _Call:
    """The rows of one call: which of them wait, and what came back."""

    def __init__(self, loaded: Loaded, thread: _EngineThread, socket: "zmq.Socket[bytes]", parameters: object) -> None:
        self._task, self._version_context = loaded.model.task, loaded.model.version_context
        self._thread, self._socket, self._parameters = thread, socket, parameters
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._waiting: dict[int, tuple[int, int, int, str]] = {}
        """Row id → number of the item, number of the row in it, tokens, batch key."""
        self._items: dict[int, tuple[Encoded[object], dict[int, RowArrays]]] = {}
        """Number of the item → its rows, and the arrays of those that came back."""
        self._tokens = self._rows_sent = 0

    def run(self, items: Sequence[object], bound_tokens: int) -> list[object]:
        """The answers in order. bound_tokens: of the rows that wait at a time, except for those of one item."""
        self._answers: list[object] = [None] * len(items)
        for number, item in enumerate(items):
            try:
                self._send(number, self._task.encode(item, self._parameters, self._version_context))
            except Exception as error:
                error.add_note(f"of the input at index {number}")
                raise
            while self._tokens > bound_tokens:
                self._receive()
        while self._waiting:
            self._receive()
        return self._answers

    def _send(self, number: int, encoded: Encoded[object]) -> None:
        rows = []
        for index, row in enumerate(encoded.rows):
            self._rows_sent += 1
            rows.append(row.to_row(self._rows_sent, inf))
            self._waiting[self._rows_sent] = (number, index, rows[-1].tokens_in_all, row.batch_key)
            self._tokens += rows[-1].tokens_in_all
        self._items[number] = (encoded, {})
        self._socket.send(self._encoder.encode(Submit(rows)))

    def _receive(self) -> None:
        """Take the next reply. Blocks. Raises Failed, Unprocessable or EngineError."""
        while not self._socket.poll(LOOK_MILLISECONDS):
            if not self._thread.is_alive():
                raise EngineError(f"the engine has ended: {self._thread.error}") from self._thread.error
        message = self._decoder.decode(self._socket.recv())
        if isinstance(message, Outputs):
            arrays = [unpack(array) for array in message.arrays]
            for at, (row_id, length) in enumerate(zip(message.ids, message.lengths, strict=True)):
                has_tokens = self._task.has_tokens(self._waiting[row_id][3])
                own = [array[at, :length] if has_tokens else array[at] for array in arrays]
                if not all(numpy.isfinite(array).all() for array in own):
                    raise self._failed(row_id, NOT_FINITE)
                self._take(row_id, own)
        elif isinstance(message, Failure):
            raise self._failed(message.ids[0], message.message, is_refused=message.reason == "refused")
        else:
            for delta in message.deltas:
                if delta.finish:
                    self._take(delta.id, to_arrays(delta))

    def _take(self, row_id: int, arrays: RowArrays) -> None:
        """Take a row's arrays, and answer its item with the last of them."""
        number, index, tokens, _ = self._waiting.pop(row_id)
        self._tokens -= tokens
        encoded, found = self._items[number]
        found[index] = arrays
        if len(found) == len(encoded.rows):
            del self._items[number]
            ordered = [found[each] for each in range(len(found))]
            self._answers[number] = self._task.decode(
                ordered, encoded.decode_context, self._parameters, self._version_context
            )

    def _failed(self, row_id: int, message: str, *, is_refused: bool = False) -> ServingError:
        error = Unprocessable(message) if is_refused else Failed(message)
        error.add_note(f"of the input at index {self._waiting[row_id][0]}")
        return error
