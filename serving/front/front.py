"""The front: one worker's state.

`answer`, `stream` and `prepare` track a request. The first two hand each attempt to `attempts`, and make another where
an engine was lost; `prepare` needs no engine. Everything runs in one event loop. No torch here.
"""

import asyncio
import fcntl
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from serving.errors import EngineLost, NotLoaded, NotReady, QueueFull, UnknownModel
from serving.front.access import Access
from serving.front.asgi import JsonObject
from serving.front.attempts import Attempts, Call, FrontAnswer, Read
from serving.front.certificate import Certificate
from serving.front.disconnects import Disconnected, Disconnects
from serving.front.fair_pool import QueueKey, queue_key
from serving.front.health import FrontHealth
from serving.front.host_names import HostNames
from serving.front.loaded_version import LoadedVersion
from serving.front.model_description import describe_server
from serving.front.request_context import ProtocolName, RequestContext
from serving.front.request_log import RequestLog
from serving.front.request_tracker import RequestTracker
from serving.front.rollout.rollouts import FrontRollouts
from serving.front.routing import Routing
from serving.front.text_stream import TextStream
from serving.front.turns import Turns
from serving.front.visible_models import VisibleModels
from serving.front.waiter import deadline_in
from serving.runtime.workers import WorkerBeat, WorkerWatchdog
from serving.settings import ServingSettings
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask
from serving.wire.routing_table import FRONTS_LOCK, TableFile

TICK_SECONDS = 0.05
RETRY_SECONDS = 1.0
"""Pause after a tick that failed, so that the log is not flooded."""

Value = TypeVar("Value")

logger = logging.getLogger("headwaiter.front")


class Companion(Protocol):
    """What opens and closes with a front."""

    async def open(self) -> None:
        """Called once requests may be answered. Raises OSError."""

    def leave(self) -> None:
        """Called once the server is to end, while it still answers what it has accepted. Calling it twice is safe."""

    async def close(self) -> None:
        """Called once none will be answered any more."""


class Front:
    """One front worker's state. Construct it anywhere; `start` and everything else in its event loop."""

    def __init__(self, settings: ServingSettings, place: int = 0) -> None:
        """place: among the fronts of the server, from 0."""
        self.settings = settings
        self._place = place
        self.access = Access(settings.keys_file, settings.audit_file)
        self.hosts = HostNames(settings.allowed_hosts)
        self.certificate: Certificate | None = None
        self.companions: list[Companion] = []
        self._file = TableFile(settings.run)
        self.bounds = RequestBounds.of(settings)
        self._rollouts = FrontRollouts(settings, self.bounds)
        self.routing = Routing(settings, self._file, self._rollouts.follow)
        self.health = FrontHealth(settings, self._file, self.routing)
        self.models = VisibleModels(settings, self.access, self.routing)
        self._disconnects = Disconnects()
        self._attempts = Attempts(
            settings, self.access, self.bounds, self.routing, self._rollouts, self._disconnects, self.models
        )
        self._beat: WorkerBeat | None = None
        self._managers = WorkerWatchdog(settings.run, "manager", settings.worker_hang_seconds)
        self._request_log = RequestLog(settings.slow_seconds, settings.log_inputs)
        self._tracker = RequestTracker(self._request_log, self.routing.knows)

    async def start(self) -> None:
        """Follow the table from now on; holds the lock that tells the manager that fronts still live.

        A front that replaces a crashed one applies the table before it takes requests. Raises OSError where the run
        folder is gone, and the server with it.
        """
        self._lock = (self.settings.run / FRONTS_LOCK).open("a")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        with suppress(OSError):  # nobody watches it then
            self._beat = WorkerBeat(self.settings.run, "front")
        self.access.start(self.settings.run, self.settings.workers, self._place)
        await self.routing.catch_up()
        self.health.supervise("follow the routing table", self.routing.follow)
        self.health.supervise("tick", self._tick)
        if not self.access.is_open:
            self.health.supervise("follow the keys", self.access.follow)
        if self.certificate is not None:
            self.health.supervise("follow the certificate", self.certificate.follow)
        for companion in self.companions:
            await companion.open()

    def leave(self) -> None:
        """Begin to drain: accepted requests are still answered, and gRPC clients are asked to connect elsewhere."""
        for companion in self.companions:
            companion.leave()

    async def stop(self) -> None:
        """Let go of everything; what still waits fails."""
        for companion in self.companions:
            await companion.close()
        self.health.close()
        await self._rollouts.close()
        self.routing.close()
        self.access.close()
        self._lock.close()
        if self._beat is not None:
            self._beat.close()
        await self._request_log.close()

    async def answer(
        self,
        name: str,
        version: str | None,
        read: Callable[[AnyTask], Request],
        *,
        protocol: ProtocolName,
        write: Callable[[Any], Value] = lambda value: value,
        disconnected: Disconnected | None = None,
        context: RequestContext | None = None,
        timeout_seconds: float | None = None,
    ) -> FrontAnswer[Value]:
        """The answer of `name` (or `name@alias`), at a version or the live one, counted under `protocol`.

        read: parses the request; its time counts as encoding. write: gives the answer its final form; counts as
        decoding. disconnected: returns when the client has left; then its rows leave the queue. context: names the
        request in logs and traces. timeout_seconds: the client's own deadline, where it is before the server's.
        Raises ServingError, which knows the version once one was chosen. If the engine is lost, or has left before the
        request was sent to it, another one is asked: of what is live by then, unless a version is named.
        """
        with self._tracker.track(name, protocol, context) as tracked:
            limit = self.settings.timeout_seconds
            deadline = deadline_in(limit if timeout_seconds is None else min(limit, timeout_seconds))
            call = Call(name, version, read, disconnected, tracked)
            while True:
                try:
                    return await self._attempts.answer(call, deadline, write)
                except EngineLost as error:
                    tracked.allow_retry(error)

    def refuse_unread(
        self, name: str, version: str | None, protocol: ProtocolName, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[QueueFull, RequestContext] | None:
        """The error of a request whose queue is full, which is counted; None for one that `answer` is to decide about.

        `answer` would refuse it, too, in a task of its own. Under overload nearly every request is refused, and what
        that costs is taken from those that are answered.
        """
        if self.access.is_watched or not self._rollouts.is_idle:  # a key and a side are a task's
            return None
        with suppress(NotLoaded, NotReady, UnknownModel):
            loaded = self.routing.find(name, version)
            try:
                loaded.check_room()
            except QueueFull as error:
                context = RequestContext.read(headers)
                tracked = self._tracker.track(name, protocol, context)
                tracked.begin_attempt(loaded)
                tracked.end(error)
                return error, context
        return None

    async def stream(
        self,
        name: str,
        version: str | None,
        read: Read,
        *,
        protocol: ProtocolName,
        disconnected: Disconnected | None = None,
        context: RequestContext | None = None,
    ) -> TextStream:
        """The texts of `name` (or `name@alias`) as they are written; the arguments are those of `answer`.

        read: may return what reads in turns; it begins in the turn of the event loop that found the version.
        Returns once the rows are in the queue, and raises ServingError before. What happens later is raised by the
        stream. It counts as a request until it is closed.
        """
        with self._tracker.track(name, protocol, context) as tracked:
            call = Call(name, version, read, disconnected, tracked)
            stream = TextStream(tracked, partial(self._attempts.open_source, call), self.settings.timeout_seconds)
            await stream.open()
            tracked.stay_open()
            return stream

    async def prepare(
        self,
        name: str,
        version: str | None,
        work: Callable[[LoadedVersion, Turns], Awaitable[Value]],
        *,
        protocol: ProtocolName,
        disconnected: Disconnected | None = None,
        context: RequestContext | None = None,
    ) -> FrontAnswer[Value]:
        """What `work` makes of a version here, without its engine; the other arguments are those of `answer`.

        It counts as a request, all of whose time is encoding. Raises ServingError.
        """
        with self._tracker.track(name, protocol, context) as tracked:
            deadline = deadline_in(self.settings.timeout_seconds)
            loaded = await self.models.loaded(name, version, deadline, disconnected)
            loaded.asked_at = time.monotonic()
            tracked.begin_attempt(loaded)
            queue_key.set(QueueKey(loaded.model, self.access.caller().name))
            with Turns(deadline, disconnected) as turns:
                value = await work(loaded, turns)
            tracked.stages.sent = tracked.stages.received = time.perf_counter()
            return FrontAnswer(value, loaded.version, tracked.stages)

    def may_stream(self, name: str) -> bool:
        """Whether a request for `name` (or `name@alias`) may ask for a stream."""
        return self.routing.may_stream(name)

    def is_alive(self) -> bool:
        """Whether the front works; see `FrontHealth.is_alive`."""
        return self.health.is_alive()

    def is_ready(self) -> bool:
        """Whether the server has started, see `Routing.is_ready`, and works."""
        return self.routing.is_ready() and self.health.is_alive()

    def describe(self) -> JsonObject:
        """The fields of `GET /models` beside the models."""
        return describe_server(self.settings, self.routing.table)

    def manager_silence_seconds(self) -> float:
        """Seconds since the manager's last heartbeat; infinite before the first."""
        return self._file.silence_seconds()

    def nudge(self) -> None:
        """Let the manager look at the registry at once. Raises OSError where no manager is."""
        self._file.nudge()

    async def _tick(self) -> None:
        """Run the periodic work. A tick that fails is logged, and the next one comes later."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._look(time.monotonic())
            except Exception:
                logger.exception("deadlines and disconnects could not be looked at; it is tried again")
                await asyncio.sleep(RETRY_SECONDS)

    def _look(self, now: float) -> None:
        if self._beat is not None:
            self._beat.beat(now)
        self._managers.look(now)
        for link in self.routing.links():
            link.abandon_late(now)
        self._disconnects.tick(now)
        self._rollouts.write(now)
        self.routing.note_unserved(now)
        self.routing.tell_demand(now)
