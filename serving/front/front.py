"""The front: chooses the version, encodes, sends rows to an engine, decodes. No torch here.

A request goes through `answer`, from whatever protocol it came. Everything runs in one event loop; a clock tick looks
at deadlines and at clients that left.
"""

import asyncio
import fcntl
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.errors import ClientGone, EngineLost, ServingError, Unprocessable
from serving.front.engine_link import Link, Waiter, deadline_in
from serving.front.loaded_version import View
from serving.front.meter import FrontMeter
from serving.front.request_context import Stages, Trail
from serving.front.request_log import Recorder
from serving.front.routing import Routes
from serving.front.text_stream import TextStream
from serving.runtime.limits import read_limits
from serving.runtime.server_process import Lifeline
from serving.settings import ServingSettings
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask
from serving.wire.messages import Encoded, RowArrays
from serving.wire.routing_table import FRONTS_LOCK, TableFile

TICK_SECONDS = 0.05
WATCH_SECONDS = 0.2
"""A request that waits longer than this has its connection watched, so that a client that left frees its place."""
ATTEMPTS = 3
"""A request whose engine ends is tried so often; more than twice where a version's engines end one after another."""

Gone = Callable[[], Awaitable[Any]]
"""Returns when the client has left."""


@dataclass(frozen=True)
class Answer:
    """The answer as `write` made it; who gave it; and where the time went."""

    value: Any
    version: str
    stages: Stages


class Call(msgspec.Struct):
    """A request on its way: how to read it, how to write its answer, who waits for it, until when, where time went."""

    read: Callable[[AnyTask], Request]
    write: Callable[[Any], Any]
    gone: Gone | None
    deadline: float
    stages: Stages


class Front:
    """One front worker's state. Construct it anywhere; `start` and everything else in its event loop."""

    def __init__(self, settings: ServingSettings) -> None:
        self.settings = settings
        self._file = TableFile(settings.run)
        self.routes = Routes(settings, self._file)
        self._watched: dict[Waiter, tuple[Link, Gone, float]] = {}
        self._watchers: dict[Waiter, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._lifeline = Lifeline(settings.server)
        self._is_leaving = False
        self._started = time.monotonic()
        self._recorder = Recorder(settings.slow_seconds, settings.log_inputs)
        self._strangers: dict[str, FrontMeter] = {}

    async def start(self) -> None:
        """Follow the table from now on; holds the lock that tells the manager that fronts still live.

        A front that takes a dead one's place serves what its table says before it takes requests.
        """
        self.settings.run.mkdir(parents=True, exist_ok=True)
        self._lock = (self.settings.run / FRONTS_LOCK).open("a")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        # uvicorn formats a line for each request where this logger has a handler, and then drops it
        access = logging.getLogger("uvicorn.access")
        access.handlers, access.propagate = [], False
        gc.collect()
        gc.freeze()  # what was imported stays; the collector need not look through it while requests are served
        await self.routes.catch_up()
        self._tasks = [asyncio.create_task(self.routes.follow()), asyncio.create_task(self._tick())]

    async def stop(self) -> None:
        """Let go of everything; what still waits fails."""
        for task in self._tasks:
            task.cancel()
        self.routes.close()
        self._lock.close()
        await self._recorder.close()

    async def answer(
        self,
        name: str,
        version: str | None,
        read: Callable[[AnyTask], Request],
        *,
        protocol: str,
        write: Callable[[Any], Any] = lambda value: value,
        gone: Gone | None = None,
        trail: Trail | None = None,
    ) -> Answer:
        """The answer of `name` (or `name@alias`), at a version or the live one, counted under `protocol`.

        read: parses the request; its time counts as encoding. write: gives the answer its final form; counts as
        decoding. gone: returns when the client has left; then its rows leave the queue. trail: names the request in
        logs and traces. Raises ServingError, which knows the version once one was chosen.
        """
        stages, status, reason, view = Stages(), 500, "failed", None
        call, left = Call(read, write, gone, deadline_in(self.settings.timeout_seconds), stages), ATTEMPTS
        try:
            while True:
                view = self.routes.find(name, version)
                try:
                    value = await self._attempt(view, call)
                    break
                except EngineLost:  # again on another engine; without a version named, on what is live now
                    left -= 1
                    if not left:
                        raise
            status, reason = 200, ""
            return Answer(value, view.version, stages)
        except ServingError as error:
            status, reason = error.status, error.reason
            if view is not None:
                error.version = view.version
            raise
        finally:
            stages.ended = time.perf_counter()
            meter = view.meter if view is not None else self._stranger(name)
            meter.end(protocol, status, stages, reason)
            self._recorder.record(trail, meter, protocol, status, reason, stages)

    async def stream(
        self,
        name: str,
        version: str | None,
        read: Callable[[AnyTask], Request],
        *,
        protocol: str,
        gone: Gone | None = None,
        trail: Trail | None = None,
    ) -> TextStream:
        """The texts of `name` (or `name@alias`) as they are written; the arguments are those of `answer`.

        Returns once the rows are in the queue, and raises ServingError before. What happens later is raised by the
        stream. It counts as a request until it is closed.
        """
        stages = Stages()
        view: View | None = None
        try:
            view = self.routes.find(name, version)
            request = read(view.task)
            if not view.task.generates:
                raise Unprocessable(f"{view.model} does {view.task.name}: only tasks that write texts can stream")
            stages.items = request.items
            encoded = await view.encode(request)
            stages.sent = time.perf_counter()
            return self._open_stream(view, request, encoded, stages, protocol, gone, trail)
        except ServingError as error:
            if view is not None:
                error.version = view.version
            stages.ended = time.perf_counter()
            meter = view.meter if view is not None else self._stranger(name)
            meter.end(protocol, error.status, stages, error.reason)
            self._recorder.record(trail, meter, protocol, error.status, error.reason, stages)
            raise

    def _open_stream(
        self,
        view: View,
        request: Request,
        encoded: list[Encoded[object]],
        stages: Stages,
        protocol: str,
        gone: Gone | None,
        trail: Trail | None,
    ) -> TextStream:
        rows = [msgspec.structs.replace(row, streams=True) for item in encoded for row in item.rows]
        stream = TextStream(
            version=view.version,
            stages=stages,
            encoder=view.served.tokenizer,
            stops=request.parameters.stop or (),
            rows=len(rows),
            prompt_tokens=sum(item.rows[0].length for item in encoded),
            wait_seconds=self.settings.timeout_seconds,
            before=[
                view.task.text_before(item.decode_context, request.parameters) for item in encoded for _ in item.rows
            ],
        )
        link = view.choose_link()
        waiter = link.submit(rows, deadline_in(self.settings.timeout_seconds), stream)
        watcher = asyncio.create_task(self._watch(waiter, link, gone)) if gone is not None else None

        def end(error: ServingError | None) -> None:
            if watcher is not None:
                watcher.cancel()
            link.abandon(waiter, error or ClientGone("the stream was closed"))
            stages.received = stages.ended = time.perf_counter()
            status, reason = (200, "") if error is None else (error.status, error.reason)
            view.meter.leave()
            view.meter.end(protocol, status, stages, reason)
            self._recorder.record(trail, view.meter, protocol, status, reason, stages)

        stream.on_close = end
        view.meter.begin()
        return stream

    def manager_silence_seconds(self) -> float:
        """Seconds since the manager's last sign of life; infinite before the first."""
        return self._file.silence_seconds()

    def nudge(self) -> None:
        """Let the manager look at the registry at once."""
        self._file.nudge()

    def is_ready(self) -> bool:
        """Whether the live version of every model answers here; while nothing is deployed, who deploys must get in."""
        return self.routes.is_ready()

    def describe(self) -> dict[str, Any]:
        """What `GET /models` shows beside the models.

        named: what the server was started with. deployments: whether it serves what the registry marks as deployed.
        machine: the cores and the memory that the server may use, see `Limits`.
        """
        return {
            "registry_error": self.routes.table.registry_error or None,
            "named": [str(reference) for reference in self.settings.models],
            "deployments": self.settings.deployments,
            "machine": msgspec.to_builtins(read_limits()),
        }

    def is_alive(self) -> bool:
        """False when the manager, or every engine of a live model, has been gone for longer than the grace period."""
        grace, now = self.settings.grace_seconds, time.monotonic()
        if now - self._started < grace:
            return True
        return self._file.silence_seconds() <= grace and self.routes.unserved_seconds(now) <= grace

    async def _attempt(self, view: View, call: Call) -> Any:
        view.meter.begin()
        try:
            request = call.read(view.task)
            call.stages.items = request.items
            encoded = await view.encode(request)
            call.stages.tokens = sum(item.rows[0].length for item in encoded)
            call.stages.sent = time.perf_counter()
            link = view.choose_link()
            waiter = link.submit([row for item in encoded for row in item.rows], call.deadline)
            arrays = await self._wait(waiter, link, call.gone)
            call.stages.received = time.perf_counter()
            call.stages.forward_seconds = waiter.forward_seconds
            return call.write(await view.decode(request, encoded, arrays))
        finally:
            view.meter.leave()

    async def _wait(self, waiter: Waiter, link: Link, gone: Gone | None) -> list[RowArrays]:
        if gone is not None:
            self._watched[waiter] = (link, gone, time.monotonic())
        try:
            return await waiter.done
        except asyncio.CancelledError:
            link.abandon(waiter, ClientGone("cancelled"))
            raise
        finally:
            self._watched.pop(waiter, None)
            if watcher := self._watchers.pop(waiter, None):
                watcher.cancel()

    def _stranger(self, name: str) -> FrontMeter:
        """Counts what no version is charged with: of a model that is served here, or of none."""
        model = name.partition("@")[0]
        model = model if model in self.routes.table.models else ""
        meter = self._strangers.get(model)
        if meter is None:
            meter = self._strangers[model] = FrontMeter(model, "", "")
        return meter

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if self._lifeline.is_cut() and not self._is_leaving:
                self._is_leaving = True
                os.kill(os.getpid(), signal.SIGTERM)  # the server is gone: finish what is here and leave
            for link in self.routes.links():
                link.abandon_late(now)
            for waiter, (link, gone, since) in self._watched.items():
                if now - since > WATCH_SECONDS and waiter not in self._watchers:
                    self._watchers[waiter] = asyncio.create_task(self._watch(waiter, link, gone))
            self.routes.note_unserved(now)

    async def _watch(self, waiter: Waiter, link: Link, gone: Gone) -> None:
        await gone()
        link.abandon(waiter, ClientGone("the client left"))
