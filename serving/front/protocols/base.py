"""The base class of protocols: routes below one first path segment, and the shape of errors."""

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from serving.errors import ClientGone, Failed, ServingError, UnknownModel, WrongMethod
from serving.front.asgi import (
    JSON,
    Events,
    Header,
    JsonObject,
    Receive,
    Scope,
    Send,
    client_left,
    encode_json,
    read_body,
    refuse,
    respond,
)
from serving.front.attempts import FrontAnswer
from serving.front.disconnects import Disconnected
from serving.front.front import Front
from serving.front.request_context import ProtocolName, RequestContext, StageTimes

logger = logging.getLogger("headwaiter.front")


@dataclass(slots=True)
class Exchange:
    """One HTTP request and its answer. events: the answer as server-sent events, once they have begun."""

    scope: Scope
    receive: Receive
    send: Send
    context: RequestContext
    events: Events | None = None

    @property
    def disconnected(self) -> Disconnected:
        """Returns when the client has left."""
        return partial(client_left, self.receive)

    def expect(self, *methods: str) -> None:
        """Raise WrongMethod for any other method. HEAD is answered as GET; the connection leaves the body out."""
        given = self.scope["method"]
        if given not in methods and not (given == "HEAD" and "GET" in methods):
            raise WrongMethod(given, *methods)

    def header(self, name: bytes) -> str:
        """The value of a header, or ""."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def body(self, limit: int) -> bytes:
        """Read the whole body. Raises TooLarge, Malformed, ClientGone."""
        return await read_body(self.scope, self.receive, limit)

    async def respond(self, body: bytes, *headers: Header, status: int = 200) -> None:
        """Send the complete answer."""
        await respond(self.send, status, body, [*headers, self.context.header])

    async def respond_json(self, value: object, *headers: Header, status: int = 200) -> None:
        """Send the complete answer as JSON."""
        await self.respond(encode_json(value), JSON, *headers, status=status)

    async def begin_events(self, limit_seconds: float, *headers: Header) -> Events:
        """Begin the answer as server-sent events. limit_seconds: how long one event may take to be sent."""
        events = Events(self.send, limit_seconds)
        await events.begin([*headers, self.context.header])
        self.events = events
        return events


class Protocol(ABC):
    """One protocol's routes over one front. Subclasses are ASGI apps for a first path segment."""

    name: ClassVar[ProtocolName]
    """The value of the metrics' label `protocol`."""

    def __init__(self, front: Front) -> None:
        self.front = front

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. parts: the segments of its path, the first one included."""
        exchange = Exchange(scope, receive, send, RequestContext.read(scope["headers"]))
        try:
            await self.route(parts, exchange)
        except Exception as raised:  # at the edge: after a bug, too, the client gets an answer
            await self._refuse(exchange, as_error(raised, exchange.context))

    @abstractmethod
    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Answer, or raise ServingError before the answer has begun or while events are sent."""

    @abstractmethod
    def describe(self, error: ServingError) -> JsonObject:
        """The body of an error, as plain data for JSON."""

    def only_model(self, how: str) -> str:
        """The name of the only model that is served. how: to name one of several. Raises UnknownModel."""
        models = list(self.front.models.served())
        if len(models) != 1:
            raise UnknownModel(f"{how}; served: {', '.join(models) or 'none yet'}")
        return models[0]

    async def _refuse(self, exchange: Exchange, error: ServingError) -> None:
        body = encode_json(self.describe(error))
        if exchange.events is None:
            await refuse(exchange.send, error, exchange.context, body)
        elif not isinstance(error, ClientGone):  # the status was sent, so the error is the last event
            with suppress(ClientGone):
                await exchange.events.tell(body)
                await exchange.events.end()


def as_error(raised: Exception, context: RequestContext) -> ServingError:
    """The error that the client is told. A bug's traceback is logged and not sent."""
    if isinstance(raised, ServingError):
        return raised
    logger.error("a request failed", exc_info=raised, extra={"fields": {"request_id": context.request_id}})
    return Failed(f"the server failed on this request; its log says why, under request_id {context.request_id}")


def no_route(choices: str) -> UnknownModel:
    """The error of an unknown path. choices: the routes that exist."""
    return UnknownModel(f"there is no such route; {choices}")


def headers_of(answer: FrontAnswer[object]) -> list[Header]:
    """The headers of every answer: `X-Model-Version` and `Server-Timing`."""
    return [version_header(answer.version), timing_header(answer.stages)]


def version_header(version: str) -> Header:
    """`X-Model-Version`: the version that answered."""
    return b"x-model-version", version.encode()


def timing_header(stages: StageTimes) -> Header:
    """`Server-Timing`: the milliseconds in each stage."""
    encode, queue, forward, decode = stages.seconds()
    timing = (
        f"tokenize;dur={encode * 1e3:.3f}, queue;dur={queue * 1e3:.3f}, "
        f"forward;dur={forward * 1e3:.3f}, decode;dur={decode * 1e3:.3f}"
    )
    return b"server-timing", timing.encode()
