"""The front: follows the routing table, chooses the version, encodes, sends rows to an engine, decodes. No torch here.

A request goes through `answer`, from whatever protocol it came. Everything runs in one event loop; a clock tick looks
at the table, at deadlines and at clients that left.
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
from pathlib import Path
from typing import Any

import msgspec
import zmq

from serving.errors import ClientGone, EngineLost, NotReady, ServingError, UnknownModel, Unprocessable
from serving.lifeline import Lifeline
from serving.link import Link, Waiter, deadline_in
from serving.metering import FrontMeter, forget
from serving.recorder import Recorder
from serving.request import assemble
from serving.settings import ServingSettings
from serving.stream import TextStream
from serving.table import FRONTS_LOCK, ModelEntry, Table, TableFile
from serving.tasks.base import Encoded, Request, RowArrays, Task
from serving.trail import Stages, Trail
from serving.view import View

TICK_SECONDS = 0.05
FOLLOW_SECONDS = 0.01
"""How often the table is looked at: one `stat`."""
YIELD_SECONDS = 0.002
"""How long a request may encode or decode before others get their turn."""
WATCH_SECONDS = 0.2
"""A request that waits longer than this has its connection watched, so that a client that left frees its place."""
ATTEMPTS = 3
"""A request whose engine ends is tried so often; more than twice where a version's engines end one after another."""
MIN_QUEUE_ROWS = 64
"""The queue takes at least this many of the model's longest rows."""

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

    read: Callable[[Task], Request]
    write: Callable[[Any], Any]
    gone: Gone | None
    deadline: float
    stages: Stages


class Front:
    """One front worker's state. Construct it anywhere; `start` and everything else in its event loop."""

    def __init__(self, settings: ServingSettings) -> None:
        self.settings = settings
        self.table = Table()
        self._file = TableFile(settings.run)
        self._views: dict[tuple[str, str], View] = {}
        self._writers: set[str] = set()
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        self._watched: dict[Waiter, tuple[Link, Gone, float]] = {}
        self._watchers: dict[Waiter, asyncio.Task[None]] = {}
        self._unserved_since: dict[str, float] = {}
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
        if (table := self._file.read_if_changed()) is not None:
            await self._apply(table)
        self._tasks = [asyncio.create_task(self._follow_table()), asyncio.create_task(self._tick())]

    async def stop(self) -> None:
        """Let go of everything; what still waits fails."""
        for task in self._tasks:
            task.cancel()
        for view in self._views.values():
            for link in view.links.values():
                link.close()
        self._context.destroy(linger=0)
        self._lock.close()
        await self._recorder.close()

    def find(self, name: str, version: str | None) -> View:
        """The view of `name` or `name@alias`, at a version or the live one. Raises UnknownModel, NotReady."""
        name, _, alias = name.partition("@")
        entry = self.table.models.get(name)
        if entry is None or entry.is_leaving:
            if not self.table.models and not self.table.is_known:
                raise NotReady("the server is starting and serves nothing yet: try again", retry_seconds=1.0)
            served = ", ".join(key for key, found in self.table.models.items() if not found.is_leaving) or "none"
            raise UnknownModel(f"there is no model {name!r} here; served: {served}")
        if version is None:
            version = self._live(name, entry, alias)
        view = self._views.get((name, version))
        if view is None:
            known = entry.versions.get(version)
            if known is None:
                raise UnknownModel(
                    f"{name} has no version {version!r} here; loaded: {', '.join(entry.versions) or 'none'}"
                )
            if known.state == "failed":
                raise NotReady(f"{name}/{version} could not be loaded: see GET /models/{name}", retry_seconds=10.0)
            raise NotReady(f"{name}/{version} is {known.state}: try again", retry_seconds=1.0)
        return view

    async def answer(
        self,
        name: str,
        version: str | None,
        read: Callable[[Task], Request],
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
                view = self.find(name, version)
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
        read: Callable[[Task], Request],
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
            view = self.find(name, version)
            request = read(view.task)
            if not view.task.generates:
                raise Unprocessable(f"{view.model} does {view.task.name}: only tasks that write texts can stream")
            stages.items = request.items
            encoded = await self._encode(view, request)
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
        encoded: list[Encoded],
        stages: Stages,
        protocol: str,
        gone: Gone | None,
        trail: Trail | None,
    ) -> TextStream:
        rows = [msgspec.structs.replace(row, streams=True) for item in encoded for row in item.rows]
        stream = TextStream(
            version=view.version,
            stages=stages,
            encoder=view.served.encoder,
            stops=request.parameters.stop or (),
            rows=len(rows),
            prompt_tokens=sum(item.rows[0].length for item in encoded),
            wait_seconds=self.settings.timeout_seconds,
            before=[view.task.text_before(item.plan, request.parameters) for item in encoded for _ in item.rows],
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

    def may_stream(self, name: str) -> bool:
        """Whether `name` or `name@alias` writes texts, so that a request may ask for them piece by piece."""
        return name.partition("@")[0] in self._writers

    def manager_silence_seconds(self) -> float:
        """Seconds since the manager's last sign of life; infinite before the first."""
        return self._file.silence_seconds()

    def nudge(self) -> None:
        """Let the manager look at the registry at once."""
        self._file.nudge()

    def is_ready(self) -> bool:
        """Whether the live version of every model answers here; while nothing is deployed, who deploys must get in."""
        served = {name: entry for name, entry in self.table.models.items() if not entry.is_leaving}
        if not served:
            return self.settings.deployments and self.table.is_known
        return all(
            entry.live is not None and (view := self._views.get((name, entry.live))) is not None and view.accepting
            for name, entry in served.items()
        )

    def describe(self) -> dict[str, Any]:
        """What `GET /models` shows beside the models.

        named: what the server was started with. deployments: whether it serves what the registry marks as deployed.
        """
        return {
            "registry_error": self.table.registry_error or None,
            "named": [str(reference) for reference in self.settings.models],
            "deployments": self.settings.deployments,
        }

    def is_alive(self) -> bool:
        """False when the manager, or every engine of a live model, has been gone for longer than the grace period."""
        grace, now = self.settings.grace_seconds, time.monotonic()
        if now - self._started < grace:
            return True
        return self._file.silence_seconds() <= grace and all(
            now - since <= grace for since in self._unserved_since.values()
        )

    async def _attempt(self, view: View, call: Call) -> Any:
        view.meter.begin()
        try:
            request = call.read(view.task)
            call.stages.items = request.items
            encoded = await self._encode(view, request)
            call.stages.tokens = sum(item.rows[0].length for item in encoded)
            call.stages.sent = time.perf_counter()
            link = view.choose_link()
            waiter = link.submit([row for item in encoded for row in item.rows], call.deadline)
            arrays = await self._wait(waiter, link, call.gone)
            call.stages.received = time.perf_counter()
            call.stages.forward_seconds = waiter.forward_seconds
            return call.write(await self._decode(view, request, encoded, arrays))
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
        model = model if model in self.table.models else ""
        meter = self._strangers.get(model)
        if meter is None:
            meter = self._strangers[model] = FrontMeter(model, "", "")
        return meter

    def _live(self, name: str, entry: ModelEntry, alias: str) -> str:
        if alias and alias not in entry.aliases:
            raise UnknownModel(f"{name} is not served at alias {alias!r}; served: {', '.join(entry.aliases) or 'none'}")
        live = entry.aliases[alias] if alias else entry.live
        if live is None:
            raise NotReady(f"no version of {name} is loaded yet: {entry.error or 'try again'}", retry_seconds=1.0)
        return live

    async def _encode(self, view: View, request: Request) -> list[Encoded]:
        encoded, turn = [], time.perf_counter()
        for index, item in enumerate(request.items):
            try:
                if view.contract.processor.image is not None:  # decoding a large image takes milliseconds
                    encoded.append(await asyncio.to_thread(view.task.encode, item, request.parameters, view.served))
                else:
                    encoded.append(view.task.encode(item, request.parameters, view.served))
            except ServingError as error:
                if request.many:
                    error.message = error.message.replace("inputs", f"inputs[{index}]", 1)
                raise
            if time.perf_counter() - turn > YIELD_SECONDS:
                await asyncio.sleep(0)
                turn = time.perf_counter()
        return encoded

    async def _decode(self, view: View, request: Request, encoded: list[Encoded], arrays: list[RowArrays]) -> Any:
        answers, turn, first = [], time.perf_counter(), 0
        for item in encoded:
            rows = arrays[first : first + len(item.rows)]
            first += len(item.rows)
            answers.append(view.task.decode(rows, item.plan, request.parameters, view.served))
            if time.perf_counter() - turn > YIELD_SECONDS:
                await asyncio.sleep(0)
                turn = time.perf_counter()
        for answer in answers:
            view.meter.observe_predictions(view.task.predictions(answer))
        return assemble(answers, request, view.task)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if self._lifeline.is_cut() and not self._is_leaving:
                self._is_leaving = True
                os.kill(os.getpid(), signal.SIGTERM)  # the server is gone: finish what is here and leave
            for view in self._views.values():
                for link in view.links.values():
                    link.abandon_late(now)
            for waiter, (link, gone, since) in self._watched.items():
                if now - since > WATCH_SECONDS and waiter not in self._watchers:
                    self._watchers[waiter] = asyncio.create_task(self._watch(waiter, link, gone))
            for name, entry in self.table.models.items():
                live = self._views.get((name, entry.live)) if entry.live is not None else None
                if entry.live is None or (live is not None and live.accepting):
                    self._unserved_since.pop(name, None)
                else:
                    self._unserved_since.setdefault(name, now)

    async def _watch(self, waiter: Waiter, link: Link, gone: Gone) -> None:
        await gone()
        link.abandon(waiter, ClientGone("the client left"))

    async def _follow_table(self) -> None:
        while True:
            table = self._file.read_if_changed()
            if table is not None:
                await self._apply(table)
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _apply(self, table: Table) -> None:
        """Load what is new beside what serves, switch in one step, then close what is gone."""
        wanted = {
            (name, version): entry for name, model in table.models.items() for version, entry in model.versions.items()
        }
        for (name, version), entry in wanted.items():
            known = self._views.get((name, version))
            stale = known is not None and entry.contract is not None and known.contract != entry.contract
            if entry.engines and entry.contract is not None and (known is None or stale):
                view = await asyncio.to_thread(View.load, name, version, Path(entry.root), entry.contract)
                if stale and known is not None:
                    self._close_links(known, keep=set())
                self._views[name, version] = view
        for key, view in list(self._views.items()):
            engines = wanted[key].engines if key in wanted else ()
            for engine in engines:
                if engine.address not in view.links:
                    view.links[engine.address] = Link(self._context, engine.address, view.task, 0)
                link = view.links[engine.address]
                link.tokens_per_second = max(1.0, engine.tokens_per_second)
                link.bound_tokens = self._bound(link.tokens_per_second, view.contract.max_tokens)
            view.accepting = [view.links[engine.address] for engine in engines if engine.accepting]
        for key in _versions(self.table) - wanted.keys():
            forget(*key)
        self.table = table
        for key, view in list(self._views.items()):
            engines = wanted[key].engines if key in wanted else ()
            self._close_links(view, keep={engine.address for engine in engines})
            if not view.links:
                del self._views[key]
        self._writers = {name for (name, _), view in self._views.items() if view.task.generates}

    def queue_limit(self, tokens_per_second: float, longest: int) -> int:
        """What an engine's queue takes in all, in tokens. longest: the longest row that its model takes."""
        by_time = int(tokens_per_second * self.settings.queue_seconds)
        return self.settings.queue_tokens or max(by_time, MIN_QUEUE_ROWS * longest)

    def _bound(self, tokens_per_second: float, longest: int) -> int:
        """This front's share of an engine's queue, in tokens."""
        return max(1, self.queue_limit(tokens_per_second, longest) // self.settings.workers)

    @staticmethod
    def _close_links(view: View, keep: set[str]) -> None:
        for address in [address for address in view.links if address not in keep]:
            view.links.pop(address).close()


def _versions(table: Table) -> set[tuple[str, str]]:
    return {(name, version) for name, model in table.models.items() for version in model.versions}
