"""What a protocol is: routes below one first part of the path, and the shape of its errors."""

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
from serving.front.disconnects import Disconnected
from serving.front.front import Answer, Front
from serving.front.request_context import ProtocolName, RequestContext, StageTimes

logger = logging.getLogger("headwaiter.front")


@dataclass(slots=True)
class Exchange:
    """One HTTP request and the way back. events: the answer, once it has begun and is a stream of them."""

    scope: Scope
    receive: Receive
    send: Send
    context: RequestContext
    events: Events | None = None

    @property
    def disconnected(self) -> Disconnected:
        """Returns when the client has left."""
        return partial(client_left, self.receive)

    def expect(self, method: str) -> None:
        """Raise WrongMethod for any other."""
        if self.scope["method"] != method:
            raise WrongMethod(f"this route takes {method}, not {self.scope['method']}")

    def header(self, name: bytes) -> str:
        """A header's value, or ""."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def body(self, limit: int) -> bytes:
        """The whole body; raises TooLarge, Malformed, ClientGone."""
        return await read_body(self.scope, self.receive, limit)

    async def respond(self, body: bytes, *headers: Header, status: int = 200) -> None:
        """The whole answer."""
        await respond(self.send, status, body, [*headers, self.context.header])

    async def respond_json(self, value: object, *headers: Header, status: int = 200) -> None:
        """The whole answer, as JSON."""
        await self.respond(encode_json(value), JSON, *headers, status=status)

    async def begin_events(self, limit_seconds: float, *headers: Header) -> Events:
        """The answer as server-sent events; limit_seconds: how long the client may read nothing."""
        events = Events(self.send, limit_seconds)
        await events.begin([*headers, self.context.header])
        self.events = events
        return events


class Protocol(ABC):
    """One protocol's routes over one front. Subclasses are the ASGI apps of the first part of a path."""

    name: ClassVar[ProtocolName]
    """Of the metrics' label."""

    def __init__(self, front: Front) -> None:
        self.front = front

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; parts: of its path, the first one included."""
        exchange = Exchange(scope, receive, send, RequestContext.read(scope["headers"]))
        try:
            await self.route(parts, exchange)
        except Exception as raised:  # the edge: our bug must not leave the client without an answer
            await self._refuse(exchange, as_error(raised, exchange.context))

    @abstractmethod
    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Answer, or raise ServingError: before the answer has begun, or while it is a stream of events."""

    @abstractmethod
    def describe(self, error: ServingError) -> JsonObject:
        """The body that tells of an error, plain data for JSON."""

    async def _refuse(self, exchange: Exchange, error: ServingError) -> None:
        body = encode_json(self.describe(error))
        if exchange.events is None:
            await refuse(exchange.send, error, exchange.context, body)
        elif not isinstance(error, ClientGone):  # too late for a status: the last event tells
            with suppress(ClientGone):
                await exchange.events.tell(body)
                await exchange.events.end()


def as_error(raised: Exception, context: RequestContext) -> ServingError:
    """What a client is told; of a bug of ours it does not see the insides, which the log keeps."""
    if isinstance(raised, ServingError):
        return raised
    logger.error("a request failed", exc_info=raised, extra={"fields": {"request_id": context.request_id}})
    return Failed("the server failed on this request; its log says why")


def no_route(choices: str) -> UnknownModel:
    """The error of a path that leads nowhere; choices: those that do."""
    return UnknownModel(f"there is no such route; {choices}")


def headers_of(answer: Answer[object]) -> list[Header]:
    """What every answer carries: who gave it, and where the time went."""
    return [version_header(answer.version), timing_header(answer.stages)]


def version_header(version: str) -> Header:
    """Who gave the answer."""
    return b"x-model-version", version.encode()


def timing_header(stages: StageTimes) -> Header:
    """Where the time went."""
    encode, queue, forward, decode = stages.seconds()
    timing = (
        f"tokenize;dur={encode * 1e3:.3f}, queue;dur={queue * 1e3:.3f}, "
        f"forward;dur={forward * 1e3:.3f}, decode;dur={decode * 1e3:.3f}"
    )
    return b"server-timing", timing.encode()
