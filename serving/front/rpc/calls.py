"""One gRPC call: it is admitted as a request of HTTP is, its message is read, and its answer or error is told.

The key comes first and the message after it, so every method is declared as one that reads its message itself; on the
wire there is no difference. Unlike over HTTP, the host name is not checked, as a browser
cannot send gRPC's headers.
"""

import asyncio
import string
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote, unquote

import grpc
import msgspec
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from serving.errors import ClientGone, Malformed, Overloaded, TooLarge, TooSlow
from serving.front.access import Access, current_visit
from serving.front.asgi import JSON, Header, refusal
from serving.front.connection_guard import ConnectionGuard
from serving.front.protocols.base import as_error
from serving.front.request_context import RequestContext
from serving.front.rpc.reads import Reads

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP status → gRPC's code; INTERNAL for the others."""
MAX_DETAILS = 4096
"""Bytes of an error's text as it is sent: clients take 8 KiB of metadata by default."""
PLAIN = string.ascii_letters + string.digits + string.punctuation.replace("%", "") + " "
"""Characters that are sent as one byte; of others each byte takes three ("gRPC over HTTP2", Percent-Encoded)."""
RETRY_SECONDS = 1.0

Metadata = tuple[tuple[str, str], ...]


class Call(msgspec.Struct, frozen=True):
    """What is known of a call beside its message. timeout_seconds: until the client's deadline, None for none."""

    context: RequestContext
    timeout_seconds: float | None


class Told(msgspec.Struct, frozen=True):
    """An answer: a message of Protocol Buffers, and headers, which are sent behind it."""

    message: Message
    headers: Sequence[Header] = ()


Work = Callable[[bytes, Call], Awaitable[Told]]


class Calls:
    """The calls of one front to some of its methods. Everything runs in its event loop."""

    def __init__(self, access: Access | None, guard: ConnectionGuard, reads: Reads, max_bytes: int) -> None:
        """access: None for methods that need no key, and are answered when the front has no room for requests.

        max_bytes: of a message.
        """
        self._access, self._guard, self._reads, self._max_bytes = access, guard, reads, max_bytes

    def method(self, name: str, work: Work) -> grpc.RpcMethodHandler:
        """The handler of a method. name: as it stands in the audit log."""

        async def answer(_: object, context: ServicerContext) -> bytes:
            return await self._answer(name, work, context)

        return grpc.stream_unary_rpc_method_handler(answer)

    async def message(self, context: ServicerContext) -> bytes:
        """The message of a call. Raises TooSlow, TooLarge, Malformed."""
        message = await self._reads.read(context.read)
        if not isinstance(message, bytes):
            raise Malformed("the call has no message")
        if len(message) > self._max_bytes:
            raise TooLarge(f"the message has more than {self._max_bytes:,} bytes: send less at a time")
        return message

    async def _answer(self, name: str, work: Work, context: ServicerContext) -> bytes:
        headers = to_headers(context.invocation_metadata())
        request = RequestContext.read(headers)
        try:
            with self._admitted(headers):
                told = await self._work(work, context, request)
                body: bytes = told.message.SerializeToString()
        except asyncio.CancelledError:
            self._record(name, ClientGone.status, (request.header,), context)
            raise
        except Exception as raised:  # at the edge: after a bug, too, the client gets an answer
            error = as_error(raised, request)
        else:
            answered = (*told.headers, request.header)
            self._record(name, HTTPStatus.OK, answered, context)
            context.set_trailing_metadata(to_metadata(answered))
            self._hold(body, context)
            return body
        if isinstance(error, Overloaded | TooSlow):
            self._guard.count(error)
        status, _, refused = refusal(error, request, b"")
        self._record(name, status, refused, context)
        await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), details(error.message), to_metadata(refused))
        raise error  # never reached

    @contextmanager
    def _admitted(self, headers: Iterable[Header]) -> Iterator[None]:
        """Context manager of a call's time in the front. Raises Unauthorized, KeyLimitReached, Overloaded."""
        if self._access is None:
            yield
            return
        guard = self._guard
        if guard.requests >= guard.max_requests:
            raise Overloaded("the server has as many requests as it may: try again", retry_seconds=RETRY_SECONDS)
        visit = self._access.admit(headers)
        visit.begin()
        guard.requests += 1
        try:
            yield
        finally:
            guard.requests -= 1
            visit.leave()

    async def _work(self, work: Work, context: ServicerContext, request: RequestContext) -> Told:
        guard, message = self._guard, await self.message(context)
        if guard.buffered_bytes + len(message) > guard.max_buffered_bytes:
            raise Overloaded("the server buffers as much as it may: try again", retry_seconds=RETRY_SECONDS)
        guard.buffered_bytes += len(message)
        try:
            return await work(message, Call(request, context.time_remaining()))
        finally:
            guard.buffered_bytes -= len(message)

    def _hold(self, body: bytes, context: ServicerContext) -> None:
        """Count an answer as buffered until its client has taken it."""
        self._guard.buffered_bytes += len(body)

        def release(_: object) -> None:
            self._guard.buffered_bytes -= len(body)

        context.add_done_callback(release)

    def _record(self, name: str, status: int, headers: Iterable[Header], context: ServicerContext) -> None:
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
            address=address_of(context.peer()),
            request_id=answered[b"x-request-id"].decode(),
        )


def to_headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[Header]:
    """Metadata as the headers that HTTP would have; a key may also come as `x-api-key`."""
    headers = []
    for name, value in metadata:
        content = value if isinstance(value, bytes) else value.encode()
        if name == "x-api-key":
            headers.append((b"authorization", b"Bearer " + content))
        else:
            headers.append((name.encode(), content))
    return headers


def to_metadata(headers: Iterable[Header]) -> Metadata:
    """Headers of an answer as metadata. A Retry-After also tells gRPC's own retries when to try again (gRFC A6)."""
    told = [(name.decode(), value.decode()) for name, value in headers if name != JSON[0]]
    told += [("grpc-retry-pushback-ms", f"{value}000") for name, value in told if name == "retry-after"]
    return tuple(told)


def details(message: str) -> str:
    """An error's message, without its middle if it would be too long on the wire."""
    kept = message
    while len(quote(kept, safe=PLAIN)) > MAX_DETAILS:
        half = 3 * len(kept) // 8
        kept = f"{message[:half]} … {message[-half:]}"
    return kept


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, such as `ipv4:127.0.0.1:50000`; "" for one without."""
    scheme, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if scheme in ("ipv4", "ipv6") else ""
