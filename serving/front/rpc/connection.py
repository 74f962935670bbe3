"""A connection of HTTP/2, as gRPC uses it: frames come in, calls begin and end, answers go out as far as windows allow.

`frames` cuts the bytes, `header_blocks` reads the headers, a `Stream` is one call. What a client may do is bounded as
on connections of HTTP/1.1: by the guard, whose sweep calls `look`. Source: RFC 9113.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import cast

from serving.errors import TooSlow
from serving.front.asgi import Header
from serving.front.connection_guard import ConnectionGuard, has_unread
from serving.front.rpc import frames
from serving.front.rpc.frames import BrokenRule, ErrorCode, Frame, FrameReader, frame, goaway_frame, read_number
from serving.front.rpc.graceful_close import GracefulClose
from serving.front.rpc.header_blocks import BlockReader, HeaderReader
from serving.front.rpc.methods import Method, refusal
from serving.front.rpc.outbox import Outbox, RpcLimits
from serving.front.rpc.spare_frames import (
    SPARE_BYTES,
    SPARE_OF_CALL,
    SPARE_OF_SWEEP,
    STREAMS_OF_FRAME,
    SpareFrames,
    is_spare,
)
from serving.front.rpc.stream import Stream

IDLE_SECONDS = 120
"""After which a connection without calls is closed; clients connect again. Untuned."""
AGE_SECONDS = 600
"""After which a client is asked to connect again. So clients spread over the fronts, and no call outlasts this and the
longest request, even if its client reads no answer. Untuned."""

logger = logging.getLogger("headwaiter.front")


class RpcConnection(asyncio.Protocol):
    """One connection. connections: those that are open, it included while it is."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        guard: ConnectionGuard,
        limits: RpcLimits,
        connections: "set[RpcConnection]",
    ) -> None:
        self._methods, self.guard, self._limits, self._connections = methods, guard, limits, connections
        self.loop = asyncio.get_running_loop()
        self._frames, self._blocks, self._headers = FrameReader(), BlockReader(), HeaderReader()
        self._spare = SpareFrames()
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the largest number of a stream
        self._is_greeted = self._is_broken = False
        self._began = self._idle_since = guard.now
        self._readers: Mapping[int, Callable[[Frame], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.CONTINUATION: self._on_headers,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PING: self._on_ping,
            frames.WINDOW_UPDATE: self._on_window,
        }

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._outbox = Outbox(self.transport, self.guard)
        self._closing = GracefulClose(self._outbox, self.guard)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.guard.join(self, self.loop)
        self._connections.add(self)
        self._outbox.greet(self._limits)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is closed, by either side."""
        self._outbox.lost()
        self.guard.leave(self)
        self._connections.discard(self)
        for stream in list(self._streams.values()):
            self._forget(stream)

    def data_received(self, data: bytes) -> None:
        """Take the frames that are complete."""
        if self._outbox.is_over:
            return
        try:
            for each in self._frames.read(data):
                self._take(each)
        except BrokenRule as broken:
            logger.debug("a client broke a rule of HTTP/2: %s", broken)
            self._end(broken.code, str(broken))

    def pause_writing(self) -> None:
        """More waits for the client than the transport may buffer."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        self._outbox.resume()
        self._send_waiting()

    # Frames

    def _take(self, given: Frame) -> None:
        if self._outbox.is_over:
            return
        if not self._is_greeted and given.kind != frames.SETTINGS:
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "the first frame has no settings")
        self._blocks.check(given)
        if is_spare(given):
            self._spare.spend()
        reader = self._readers.get(given.kind)
        if reader is not None:  # others may be ignored (RFC 9113, 5.5), and so may priorities
            reader(given)

    def _on_data(self, given: Frame) -> None:
        self._outbox.received(len(given.content))
        self._check_known(given)
        stream = self._streams.get(given.stream)
        if stream is None or stream.is_whole:  # it was answered already
            return
        stream.take(frames.without_padding(given))
        if given.flags & frames.END_STREAM:
            stream.end_message()

    def _on_headers(self, given: Frame) -> None:
        whole = self._blocks.take(given)
        if whole is not None:
            self._on_block(whole)

    def _on_block(self, given: Frame) -> None:
        headers = self._headers.read(given.content)
        if given.stream > self._last:
            self._last = given.stream
            self._begin(given, headers)
        else:
            self._spare.spend()
            stream = self._streams.get(given.stream)
            if stream is not None and given.flags & frames.END_STREAM:  # the client's trailers say nothing
                stream.end_message()

    def _on_reset(self, given: Frame) -> None:
        read_number(given.content)
        self._check_known(given)
        stream = self._streams.get(given.stream)
        if stream is not None:
            stream.is_whole = True
            self._forget(stream)

    def _on_settings(self, given: Frame) -> None:
        if given.flags & frames.ACK:
            return
        self._spare.spend(len(self._streams) // STREAMS_OF_FRAME)
        self._outbox.take_settings(given.content, list(self._streams.values()))
        self._is_greeted = True
        self._outbox.write(frame(frames.SETTINGS, frames.ACK, 0))
        self._send_waiting()

    def _on_ping(self, given: Frame) -> None:
        if len(given.content) != frames.PING_BYTES:
            raise BrokenRule(ErrorCode.FRAME_SIZE_ERROR, "a ping has another length")
        if not given.flags & frames.ACK:
            self._outbox.write(frame(frames.PING, frames.ACK, 0, given.content))
        else:
            self._closing.take_ping(given.content, self._last)
            self._close_if_done()

    def _on_window(self, given: Frame) -> None:
        more = read_number(given.content)
        if given.stream:
            self._check_known(given)
            if given.stream not in self._streams:
                return
        self._outbox.widen(self._streams.get(given.stream), more)
        self._send_waiting()

    def _check_known(self, given: Frame) -> None:
        if given.stream > self._last or given.stream == 0:
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "a frame is of a stream that has not begun")

    # Calls

    def _begin(self, given: Frame, headers: list[Header]) -> None:
        if len(self._streams) >= self._limits.max_streams or self._closing.is_acknowledged:
            self._spare.spend()
            self._outbox.reset(given.stream, ErrorCode.REFUSED_STREAM)
            return
        fields = dict(headers)
        method = self._methods.get(fields.get(b":path", b""))
        size = method.max_bytes if method else 0
        stream = Stream(self, given.stream, headers, size)
        self._outbox.begin(stream)
        self._streams[given.stream] = stream
        refused = refusal(self._methods, fields, headers)
        if given.flags & frames.END_STREAM:
            stream.end_message()
        if refused is not None or method is None:
            self._spare.spend()
            stream.trailers = refused
            self.flush(stream)
            return
        if b"grpc-timeout" in fields:
            stream.set_timeout(fields[b"grpc-timeout"])
        stream.is_probe = method.is_probe
        stream.task = self.loop.create_task(self._run(stream, method))

    async def _run(self, stream: Stream, method: Method) -> None:
        try:
            await method.answer(stream)
        except asyncio.CancelledError:  # the client has left, or the server stops
            self._give_up(stream, ErrorCode.CANCEL)
        except Exception:
            logger.exception("a call failed")
            self._give_up(stream, ErrorCode.INTERNAL_ERROR)

    def flush(self, stream: Stream) -> None:
        """Send of an answer what the client takes, and the rest later."""
        if stream.number in self._streams:
            waiting, is_sent = len(stream.unsent), self._outbox.send(stream)
            of_call = SPARE_OF_CALL if is_sent and stream.task is not None else 0
            self._spare.regain(of_call + (waiting - len(stream.unsent)) // SPARE_BYTES)
            if is_sent:
                self._forget(stream)

    def _send_waiting(self) -> None:
        for stream in self._outbox.take_waiting():
            self.flush(stream)

    def _give_up(self, stream: Stream, code: ErrorCode) -> None:
        """End a call without an answer."""
        if stream.number in self._streams:
            self._outbox.reset(stream.number, code)
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """A call is over."""
        if self._streams.pop(stream.number, None) is None:
            return
        self._outbox.forget(stream)
        stream.release()
        self._idle_since = self.guard.now
        self._close_if_done()

    # Its end

    def leave(self) -> None:
        """Ask the client to make its next calls on another connection, and close this one after those that are here."""
        self._closing.begin(is_greeted=self._is_greeted)

    def _close_if_done(self) -> None:
        if self._closing.is_acknowledged and not self._streams:
            self._outbox.close()

    def _end(self, code: ErrorCode, reason: str) -> None:
        """Tell the client which rule it broke, and end what is on the connection. The next sweep closes it."""
        self._is_broken = True
        self._outbox.end(goaway_frame(self._closing.bounded(self._last), code, reason))
        for stream in list(self._streams.values()):
            self._forget(stream)

    # The guard's side

    def waits_since(self) -> float | None:
        """Since when there is no call but probes; None while one is in progress."""
        return self._idle_since if all(each.is_probe for each in self._streams.values()) else None

    def has_unread(self) -> bool:
        """Whether its client has sent what was not read yet."""
        return has_unread(self.transport.get_extra_info("socket"))

    def drop(self) -> None:
        """Close it at once, with all that it has not sent."""
        self.transport.abort()

    def look(self, now: float) -> None:
        """End what is overdue. now: on the guard's clock."""
        client = self.guard.limits.client_seconds
        self._spare.regain(SPARE_OF_SWEEP)
        for stream in list(self._streams.values()):
            if stream.is_overdue(now):
                self.guard.count(TooSlow(""))
                self._give_up(stream, ErrorCode.CANCEL)
        is_late = self._closing.is_late(now, self._limits.drain_seconds) or (
            not self._is_greeted and now - self._began > client
        )
        if self._outbox.is_overdue(now):
            self.guard.count(TooSlow(""))
            self.drop()
        elif self._is_broken or is_late:
            self.drop()
        elif now - self._began > AGE_SECONDS or (not self._streams and now - self._idle_since > IDLE_SECONDS):
            self.leave()
