"""What goes to one client: answers as far as its windows, and the network, take them; the rest waits.

`connection` owns it. Source: RFC 9113, 5.2 and 6.9.
"""

import asyncio
from collections.abc import Iterator

import msgspec

from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import frames
from serving.front.rpc.codes import RESPONSE_HEAD
from serving.front.rpc.frames import BrokenRule, ErrorCode, frame, number, read_settings, settings_frame
from serving.front.rpc.header_blocks import MAX_HEADERS_BYTES, NO_TABLE
from serving.front.rpc.stream import PREFIX_BYTES, Stream
from serving.front.unread_answers import UnreadAnswers

RECEIVE_WINDOW = 2**20
"""Bytes of messages that a client may send ahead on one connection. Each is counted as buffered when it comes."""
WRITE_BYTES = 2**16
"""Of an answer that are written at once, so that it is seen whether the network takes them."""


class RpcLimits(msgspec.Struct, frozen=True):
    """What one connection may take. max_streams: calls at once. max_bytes: of a message. drain_seconds: to leave in."""

    max_streams: int
    max_bytes: int
    drain_seconds: float


class Outbox:
    """The answers of one connection. is_over: whether nothing is sent any more."""

    def __init__(self, transport: asyncio.Transport, guard: ConnectionGuard) -> None:
        self._transport = transport
        self._window = self._initial_window = frames.DEFAULT_WINDOW
        self._blocked: dict[int, Stream] = {}
        self._begin_block = NO_TABLE
        self._is_paused = self.is_over = False
        self._unread = UnreadAnswers(transport, guard)
        self._received = 0  # bytes that the client's window was not given back

    def write(self, data: bytes) -> None:
        """Send frames that need no window."""
        if not self.is_over:
            self._transport.write(data)

    def greet(self, limits: RpcLimits) -> None:
        """Tell the client what it may send."""
        settings = {
            frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
            frames.INITIAL_WINDOW_SIZE: min(limits.max_bytes + PREFIX_BYTES, frames.MAX_WINDOW),
            frames.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
        }
        self.write(settings_frame(settings))
        self._give(RECEIVE_WINDOW - frames.DEFAULT_WINDOW)

    def received(self, count: int) -> None:
        """So many bytes of the client's window were used, which it gets back in large pieces."""
        self._received += count
        if self._received > RECEIVE_WINDOW // 2:
            self._give(self._received)
            self._received = 0

    def _give(self, window: int) -> None:
        self.write(frame(frames.WINDOW_UPDATE, 0, 0, number(window)))

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream without an answer."""
        self.write(frame(frames.RST_STREAM, 0, stream, number(code)))

    def end(self, goaway: bytes) -> None:
        """Send these last frames."""
        self.write(goaway)
        if not self.is_over and self._transport.can_write_eof():
            self._transport.write_eof()
        self.is_over = True

    def send(self, stream: Stream) -> bool:
        """Send what the client takes of an answer, and the rest later. Returns whether all of the answer is sent."""
        if self.is_over:
            return False
        parts, size = [], 0
        if not stream.has_begun and (stream.unsent or stream.trailers is None):
            parts.append(self._headers(stream, frames.END_HEADERS, RESPONSE_HEAD))
        stream.has_begun = True
        while stream.unsent and not self._is_paused:
            room = min(self._window, stream.window, frames.MAX_FRAME_BYTES, len(stream.unsent))
            if room <= 0:
                break
            parts.append(frame(frames.DATA, 0, stream.number, bytes(stream.unsent[:room])))
            self._window -= room
            stream.sent(room)
            size += room
            if size >= WRITE_BYTES:
                self._transport.write(b"".join(parts))
                parts, size = [], 0
        is_sent = not stream.unsent and stream.trailers is not None
        if stream.unsent:
            self._blocked[stream.number] = stream
        elif stream.trailers is not None:
            flags = frames.END_HEADERS | frames.END_STREAM
            parts.append(self._headers(stream, flags, stream.trailers))
            if not stream.is_whole:  # the client need not send the rest
                parts.append(frame(frames.RST_STREAM, 0, stream.number, number(ErrorCode.NO_ERROR)))
        self._transport.write(b"".join(parts))
        return is_sent

    def _headers(self, stream: Stream, flags: int, block: bytes) -> bytes:
        """A frame with a block. The first one says that no table is used, as clients that allow none ask for."""
        begin, self._begin_block = self._begin_block, b""
        return frame(frames.HEADERS, flags, stream.number, begin + block)

    def forget(self, stream: Stream) -> None:
        """Nothing more of it is to be sent."""
        self._blocked.pop(stream.number, None)

    # Windows

    def begin(self, stream: Stream) -> None:
        """A stream begins, with the window that the client gives each."""
        stream.window = self._initial_window

    def take_settings(self, content: bytes, streams: list[Stream]) -> None:
        """The client changes the window of all streams, if anything. streams: that there are. Raises BrokenRule."""
        value = dict(read_settings(content)).get(frames.INITIAL_WINDOW_SIZE)  # the last one that the frame has
        if value is None:
            return
        if value > frames.MAX_WINDOW:
            raise _too_large()
        for stream in streams:
            self._widen(stream, value - self._initial_window)
        self._initial_window = value

    def widen(self, stream: Stream | None, more: int) -> None:
        """The client takes more, of one stream or of the whole connection. Raises BrokenRule."""
        if not more:
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "a window is opened by nothing")
        if stream is not None:
            self._widen(stream, more)
            return
        self._window += more
        if self._window > frames.MAX_WINDOW:
            raise _too_large()

    def _widen(self, stream: Stream, more: int) -> None:
        stream.window += more
        if stream.window > frames.MAX_WINDOW:
            raise _too_large()

    def take_waiting(self) -> Iterator[Stream]:
        """The streams with unsent data that the client's flow control now lets through; each is to be sent at once.

        Others are not looked at: a client may open windows one byte at a time while thousands of answers wait.
        """
        if self._window <= 0 or self._is_paused:
            return
        for stream in [stream for stream in self._blocked.values() if stream.window > 0]:
            if self._window <= 0 or self._is_paused:
                return
            if self._blocked.pop(stream.number, None) is not None:
                yield stream

    # The network

    def pause(self) -> None:
        """More waits for the client than the transport may buffer. Until it reads, nothing of it is read."""
        self._is_paused = True
        self._unread.pause()
        self._transport.pause_reading()

    def resume(self) -> None:
        """The client has read most of it."""
        self._is_paused = False
        self._unread.release()
        self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection once the network has taken what was sent."""
        if not self.is_over:
            self.is_over = True
            self._transport.close()

    def lost(self) -> None:
        """The connection is closed."""
        self.is_over = True
        self._unread.release()

    def is_overdue(self, now: float) -> bool:
        """Whether the client reads too slowly. now: on the guard's clock."""
        return self._is_paused and self._unread.is_overdue(now)


def _too_large() -> BrokenRule:
    return BrokenRule(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
