"""One gRPC call: it is admitted as a request of HTTP is, its message is read, and its answer or error is told.

The key comes first and the message after it. Unlike over HTTP, the host name is not checked, as a browser cannot send
gRPC's headers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus

import msgspec
from google.protobuf.message import Message

from serving.errors import ClientGone, Overloaded, TooSlow
from serving.front.access import Access, current_visit
from serving.front.asgi import JSON, Header, refusal
from serving.front.connection_guard import ConnectionGuard
from serving.front.protocols.base import as_error
from serving.front.request_context import RequestContext
from serving.front.rpc.codes import CODES, Code
from serving.front.rpc.methods import Method
from serving.front.rpc.stream import RETRY_SECONDS, Stream


class RpcCall(msgspec.Struct, frozen=True):
    """What is known of a call beside its message. timeout_seconds: until the client's deadline, None for none."""

    context: RequestContext
    timeout_seconds: float | None


class RpcAnswer(msgspec.Struct, frozen=True):
    """An answer: a message of Protocol Buffers, and headers, which are sent behind it."""

    message: Message
    headers: Sequence[Header] = ()


RpcWork = Callable[[bytes, RpcCall], Awaitable[RpcAnswer]]

MAX_WAITING = 64
"""Calls without a key whose message has not come, in one front: anybody may begin one, and each holds its headers."""


class Calls:
    """The calls of one front to some of its methods. Everything runs in its event loop."""

    def __init__(self, access: Access | None, guard: ConnectionGuard, max_bytes: int) -> None:
        """access: None for methods that need no key, and are answered when the front has no room for requests.

        max_bytes: of a message.
        """
        self._access, self._guard, self._max_bytes = access, guard, max_bytes
        self._waiting: dict[Stream, None] = {}  # without a key, in their order

    def method(self, name: str, work: RpcWork) -> Method:
        """A method that is answered with one message. name: as it stands in the audit log."""

        async def answer(stream: Stream) -> None:
            await self._answer(name, work, stream)

        return Method(answer, self._max_bytes, is_probe=self._access is None)

    async def _answer(self, name: str, work: RpcWork, stream: Stream) -> None:
        headers = as_http(stream.headers)
        request = RequestContext.read(headers)
        try:
            with self._admitted(stream, headers):
                told = await work(await self.message(stream), RpcCall(request, stream.time_remaining()))
            body: bytes = told.message.SerializeToString()
        except asyncio.CancelledError:
            self._record(name, ClientGone.status, (request.header,), stream)
            raise
        except Exception as raised:  # at the edge: after a bug, too, the client gets an answer
            error = as_error(raised, request)
        else:
            answered = (*told.headers, request.header)
            self._record(name, HTTPStatus.OK, answered, stream)
            stream.finish(Code.OK.block(metadata=answered), body)
            return
        if isinstance(error, Overloaded | TooSlow):
            self._guard.count(error)
        status, _, refused = refusal(error, request, b"")
        self._record(name, status, refused, stream)
        stream.finish(CODES.get(status, Code.INTERNAL).block(error.message, to_metadata(refused)))

    async def message(self, stream: Stream) -> bytes:
        """The message of a call. Without keys, a new call takes the place of the one that has waited longest.

        Raises what `Stream.message` does.
        """
        if self._access is not None:
            return await stream.message()
        self._waiting[stream] = None
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.refuse(Overloaded("too many calls wait for their message: send it at once"))
        try:
            return await stream.message()
        finally:
            self._waiting.pop(stream, None)

    @contextmanager
    def _admitted(self, stream: Stream, headers: Iterable[Header]) -> Iterator[None]:
        """Context manager of a call's time in the front. The guard counts it until its answer is sent.

        Raises Unauthorized, KeyLimitReached, Overloaded.
        """
        if self._access is None:
            yield
            return
        guard = self._guard
        if guard.requests >= guard.max_requests:
            raise Overloaded("the server has as many requests as it may: try again", retry_seconds=RETRY_SECONDS)
        visit = self._access.admit(headers)
        visit.begin()
        stream.count()
        try:
            yield
        finally:
            visit.leave()

    def _record(self, name: str, status: int, headers: Iterable[Header], stream: Stream) -> None:
        """Write the line of this call into the audit log. headers: of the answer."""
        if self._access is None or self._access.audit is None:
            return
        visit, answered = current_visit(), dict(headers)
        self._access.audit.write(
            "" if visit is None else visit.key.name or "anybody",
            f"gRPC {name}",
            status=status,
            model="" if visit is None else visit.model,
            version=answered.get(b"x-model-version", b"").decode(),
            address=stream.connection.address,
            request_id=answered[b"x-request-id"].decode(),
        )


def as_http(headers: Sequence[Header]) -> Sequence[Header]:
    """A call's headers as HTTP would have them: a key may also come as `x-api-key`."""
    if all(name != b"x-api-key" for name, _ in headers):
        return headers
    return [(b"authorization", b"Bearer " + each[1]) if each[0] == b"x-api-key" else each for each in headers]


def to_metadata(headers: Iterable[Header]) -> list[Header]:
    """Headers of an error as metadata. A Retry-After also tells gRPC's own retries when to try again (gRFC A6)."""
    told = [each for each in headers if each[0] != JSON[0]]
    return told + [(b"grpc-retry-pushback-ms", value + b"000") for name, value in told if name == b"retry-after"]
