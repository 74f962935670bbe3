"""One attempt at a request: finds the version, encodes the request, sends its rows to an engine, decodes the answer.

`Front` counts the request, and makes another attempt where an engine was lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from serving.errors import ClientGone, EngineLost, NotReady, Unprocessable
from serving.front.access import Access
from serving.front.disconnects import Disconnected, Disconnects
from serving.front.engine_link import EngineLink
from serving.front.fair_pool import QueueKey, queue_key
from serving.front.loaded_version import EncodedRequest, LoadedVersion
from serving.front.request_context import StageTimes
from serving.front.request_tracker import TrackedRequest
from serving.front.rollout.rollouts import FrontRollouts
from serving.front.rollout.traffic import ModelTraffic
from serving.front.routing import Routing
from serving.front.text_stream import StreamSource
from serving.front.turns import ANSWERS, Turns
from serving.front.visible_models import VisibleModels
from serving.front.waiter import StreamWaiter, Waiter, deadline_in
from serving.settings import ServingSettings
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask

AnyWaiter = TypeVar("AnyWaiter", bound=Waiter)
Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class FrontAnswer(msgspec.Struct, Generic[Value_co], frozen=True):
    """The answer as `write` made it, the version that gave it, and when the request passed each stage."""

    value: Value_co
    version: str
    stages: StageTimes


Read = Callable[[AnyTask], Request | Callable[[Turns], Awaitable[Request]]]
"""Makes the request of a task. For a large body it returns a function that makes it and lets others run in between."""


class Call(msgspec.Struct, frozen=True):
    """What `Front.answer` and `stream` are asked: the model, how to read the request, the connection that waits."""

    name: str
    version: str | None
    read: Read
    disconnected: Disconnected | None
    tracked: TrackedRequest


class Submission(msgspec.Struct, Generic[AnyWaiter], frozen=True):
    """A request that was sent to one engine of a version. traffic: the rollout that it takes part in."""

    loaded: LoadedVersion
    request: Request
    encoded: EncodedRequest
    link: EngineLink
    waiter: AnyWaiter
    traffic: ModelTraffic | None = None


class Attempts:
    """Makes the attempts of one front, which owns the parts."""

    def __init__(
        self,
        settings: ServingSettings,
        access: Access,
        bounds: RequestBounds,
        routing: Routing,
        rollouts: FrontRollouts,
        disconnects: Disconnects,
        models: VisibleModels,
    ) -> None:
        self._settings = settings
        self._access = access
        self._bounds = bounds
        self._routing = routing
        self._rollouts = rollouts
        self._disconnects = disconnects
        self._models = models

    async def answer(self, call: Call, deadline: float, write: Callable[[object], Value]) -> FrontAnswer[Value]:
        """The answer in the form that `write` gives it. Raises ServingError; EngineLost where it may be asked again."""
        stages = call.tracked.stages
        sent = await self._submit(call, Waiter, deadline)
        waiter = sent.waiter
        try:
            arrays = await waiter.done
        except asyncio.CancelledError:
            sent.link.abandon(waiter, ClientGone("cancelled"))
            raise
        finally:
            self._disconnects.forget(waiter)
        stages.received = time.perf_counter()
        stages.forward_seconds = waiter.forward_seconds
        answer = await sent.loaded.decode(sent.request, sent.encoded, arrays, deadline, call.disconnected)
        if sent.encoded.is_large:
            with Turns(deadline, call.disconnected) as turns:
                value = await turns.hand_over(ANSWERS, write, answer)
        else:
            value = write(answer)
        if sent.traffic is not None:
            self._rollouts.answered(
                sent.traffic,
                call.tracked,
                self._routing,
                sent.loaded,
                sent.request,
                sent.encoded,
                answer,
                waiter.computed,
            )
        return FrontAnswer(value, sent.loaded.version, stages)

    async def open_source(self, call: Call) -> StreamSource:
        """A stream whose rows are in an engine's queue. Raises as `answer`."""
        deadline = deadline_in(self._settings.timeout_seconds)  # of each attempt: a collected stream may take long
        sent = await self._submit(call, StreamWaiter, deadline, streams=True)
        parameters, task, items = sent.request.parameters, sent.loaded.task, sent.encoded.items

        def close() -> None:
            self._disconnects.forget(sent.waiter)
            sent.link.abandon(sent.waiter, ClientGone("the stream was closed"))

        return StreamSource(
            version=sent.loaded.version,
            waiter=sent.waiter,
            encoder=sent.loaded.version_context.tokenizer,
            stops=parameters.stop or (),
            prompt_tokens=call.tracked.stages.tokens,
            before=[task.text_before(item.decode_context, parameters) for item in items for _ in item.rows],
            texts=len(items[0].rows),
            close=close,
        )

    async def _submit(
        self, call: Call, waiter_type: type[AnyWaiter], deadline: float, *, streams: bool = False
    ) -> Submission[AnyWaiter]:
        """One attempt, up to the engine's queue."""
        stages = call.tracked.stages
        loaded = await self._models.loaded(call.name, call.version, deadline, call.disconnected)
        caller = self._access.caller().name
        loaded, traffic = self._rollouts.choose(call.name, call.version, loaded, self._routing, call.tracked, caller)
        loaded.asked_at = time.monotonic()
        call.tracked.begin_attempt(loaded)
        loaded.check_room()
        queue_key.set(QueueKey(loaded.model, caller))
        request = call.read(loaded.task)
        if not isinstance(request, Request):
            with Turns(deadline, call.disconnected) as turns:
                request = await request(turns)
        if streams and not loaded.task.generates:
            raise only_text_streams(loaded.model, loaded.task)
        stages.items = request.items
        encoded = await loaded.encode(request, self._bounds, deadline, call.disconnected)
        rows = [row for item in encoded.items for row in item.rows]
        counted = [item.rows[0] for item in encoded.items] if loaded.task.generates else rows
        stages.tokens = sum([row.length for row in counted])
        stages.sent = time.perf_counter()
        is_suspect = call.tracked.is_suspect
        row_caller = caller if loaded.task.generates else ""
        if streams or is_suspect or row_caller:
            rows = [
                msgspec.structs.replace(row, streams=streams, is_suspect=is_suspect, caller=row_caller) for row in rows
            ]
        while loaded.is_replaced and not loaded.accepting:
            await loaded.held.wait(rows, deadline, call.disconnected)
        link, waiter = self._choose_link(call, loaded), waiter_type(len(rows), deadline)
        link.submit(rows, waiter)
        if call.disconnected is not None:
            self._disconnects.expect(waiter, link, call.disconnected)
        return Submission(loaded, request, encoded, link, waiter, traffic)

    def _choose_link(self, call: Call, loaded: LoadedVersion) -> EngineLink:
        """The engine for a request of `loaded`. Raises EngineLost where that has left and has a successor."""
        try:
            return loaded.choose_link()
        except NotReady as error:
            if not self._routing.answers(call.name, call.version):
                raise
            raise EngineLost(error.message, retry_seconds=error.retry_seconds, had_begun=False) from error


def only_text_streams(model: str, task: AnyTask) -> Unprocessable:
    """The error of a stream that a model's task cannot have."""
    return Unprocessable(f"{model} does {task.name}, and only tasks that write texts can stream: leave stream out")
