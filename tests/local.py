"""A version served inside the test's own process: the real engine in a thread, the real front in an event loop."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import zmq

from registry.artifact import read_contract
from registry.contract import Contract
from registry.settings import RegistrySettings
from serving.engine import socket_loop
from serving.engine.assembly import make_engine, optimize_model
from serving.engine.batching.cost import Cost
from serving.engine.generation.model import GenerationModel
from serving.engine.generation.replies import QueuedReply
from serving.engine.generation.scheduler import Scheduler
from serving.engine.meter import EngineMeter
from serving.engine.model import Model
from serving.engine.parallel import CpuPlan, make_pool
from serving.engine.process_state import prepare_process
from serving.errors import ServingError
from serving.front.front import Disconnected, Front
from serving.front.text_stream import TextStream
from serving.settings import ServingSettings
from serving.tasks import get_task
from serving.tasks.base.request import parse_body
from serving.wire.messages import Row
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, TableFile, VersionEntry
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

socket_loop.LINGER_SECONDS = 0.0  # these fronts and engines end together
socket_loop.IDLE_MILLISECONDS = 20
prepare_process()  # as an engine's entry point does
COST = Cost(fixed_seconds=1.0, token_seconds=1e-6, budget_tokens=2048)
"""Padding is nearly free here, so that rows of all lengths share batches."""


class Recorder(Model):
    """A model that remembers the sizes of its batches. may_begin: none begins until it is set."""

    def __init__(self, root: Path, contract: Contract) -> None:
        self.batches: list[int] = []
        self.may_begin = threading.Event()
        self.may_begin.set()
        super().__init__(root, contract)

    def launch(self, rows: Sequence[Row]) -> Any:
        """As the model does."""
        self.may_begin.wait()
        self.batches.append(len(rows))
        return super().launch(rows)


class GenerationRecorder(Recorder, GenerationModel):
    """A generating model that remembers how many rows each step decodes."""

    @cached_property
    def scheduler(self) -> Scheduler:
        """As the model's."""
        made = super().scheduler
        step = made.step

        def observed() -> list[QueuedReply]:
            self.may_begin.wait()
            replies = step()
            self.batches.append(made.running)
            return replies

        made.step = observed  # type: ignore[method-assign]  # the rows of each step are looked at
        return made


class Local:
    """One version of the model "m"; `answers` sends many requests at once. Use it as a context manager."""

    def __init__(self, root: Path, run: Path) -> None:
        self.root, self._run = root, run
        self.contract = read_contract(root)
        kind = GenerationRecorder if get_task(self.contract.task).generates else Recorder
        self.model = kind(root, self.contract)
        optimize_model(self.model)
        self.model.batches.clear()  # of the proof
        self.plan = CpuPlan()

    def answers(self, bodies: Sequence[Any]) -> list[Any]:
        """The answer of each body (bytes, or data for JSON), or the ServingError that it got; in order.

        No batch begins before the engine has been sent all of them.
        """
        return asyncio.run(self._ask(list(bodies)))

    async def _ask(self, bodies: list[Any]) -> list[Any]:
        async with self.running() as front:
            self.model.may_begin.clear()
            try:
                asked = [asyncio.create_task(self.ask(front, body)) for body in bodies]
                while sum(task.done() for task in asked) + waiting(front) < len(asked):
                    await asyncio.sleep(0.001)
            finally:
                self.model.may_begin.set()
            return await asyncio.gather(*asked)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Front]:
        """A front of a running engine."""
        with self._engine() as address:
            registry = RegistrySettings(self._run, "")
            front = Front(
                ServingSettings(registry, (), self._run, timeout_seconds=WAIT_SECONDS, grace_seconds=WAIT_SECONDS)
            )
            await front.start()
            self._publish(address)
            while not front.is_ready():
                await asyncio.sleep(0.01)
            try:
                yield front
            finally:
                await front.stop()

    async def ask(self, front: Front, body: Any) -> Any:
        """The answer of one body, or its ServingError."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        try:
            answer = await front.answer("m", None, partial(parse_body, data, max_rows=100), protocol="huggingface")
        except ServingError as error:
            return error
        return msgspec.json.decode(msgspec.json.encode(answer.value))

    async def stream(self, front: Front, body: Any, disconnected: Disconnected | None = None) -> TextStream:
        """The texts of a body, as they are written; raises ServingError."""
        read = partial(parse_body, msgspec.json.encode(body), max_rows=100)
        return await front.stream("m", None, read, protocol="huggingface", disconnected=disconnected)

    @contextmanager
    def _engine(self) -> Any:
        context = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        address = f"ipc://{self._run}/engine.sock"
        socket.bind(address)
        cost = replace(COST, is_packed=self.model.form.is_packed)
        meter = EngineMeter("m", "1", self.contract.task)
        engine = make_engine(self.model, cost, socket, meter, make_pool(self.model, self.plan))
        thread = threading.Thread(target=engine.run)
        thread.start()
        try:
            yield address
        finally:
            engine.stop()
            wait_until(lambda: not thread.is_alive(), "the engine has left")
            context.destroy(linger=0)

    def _publish(self, address: str) -> None:
        entry = EngineEntry(
            pid=os.getpid(),
            address=address,
            device="cpu",
            dtype="float32",
            dtype_note="",
            budget_tokens=2048,
            tokens_per_second=1e5,
            accepting=True,
        )
        version = VersionEntry(state="ready", root=str(self.root), contract=self.contract, engines=(entry,))
        model = ModelEntry(live="1", aliases={"champion": "1"}, versions={"1": version})
        TableFile(self._run).write(Table(models={"m": model}, has_started=True))


def waiting(front: Front) -> int:
    """Requests whose rows have all been sent to the engine and are not answered."""
    link = front.models.find("m", None).choose_link()
    return 0 if link._outbox else len({waiter for waiter, _, _ in link._rows.values()})
