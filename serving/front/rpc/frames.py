"""Frames of HTTP/2: what the bytes of a connection are cut into, and put together from.

Source: RFC 9113, 4 to 7.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with."""
MAX_FRAME_BYTES = 2**14
"""Of a frame's content, in either direction: what every peer takes."""
MAX_WINDOW = MAX_STREAM = 2**31 - 1
"""The largest window, and the highest number of a stream: of 31 bits."""
DEFAULT_WINDOW = 2**16 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6
"""Settings."""
PRIORITY_BYTES = 5
PING_BYTES = 8

_HEAD = struct.Struct(">HBBBI")
"""Length in 24 bits, kind, flags, stream."""
_NUMBER = struct.Struct(">I")
_SETTING = struct.Struct(">HI")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class BrokenRule(Exception):
    """The client broke a rule of the protocol, which ends its connection."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    """One frame. stream: 0 for those of the connection."""

    kind: int
    flags: int
    stream: int
    content: bytes


class FrameReader:
    """Cuts what a client sends into frames, after its preface."""

    def __init__(self) -> None:
        self._rest = b""
        self._has_begun = False

    def read(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete by now. Raises BrokenRule."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._has_begun:
            begin = data[: len(PREFACE)]
            if not PREFACE.startswith(begin):
                raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "the connection does not begin as one of HTTP/2")
            self._has_begun = len(begin) == len(PREFACE)
            at = len(PREFACE) if self._has_begun else end
        while end - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > MAX_FRAME_BYTES:
                raise BrokenRule(ErrorCode.FRAME_SIZE_ERROR, f"a frame has more than {MAX_FRAME_BYTES} bytes")
            content = at + _HEAD.size
            if end - content < size:
                break
            at = content + size
            yield Frame(kind, flags, stream & MAX_STREAM, data[content:at])
        self._rest = data[at:] if self._has_begun else data


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """A frame as it is sent."""
    size = len(content)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + content


def settings_frame(settings: dict[int, int]) -> bytes:
    """A frame with these settings."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in settings.items()))


def goaway_frame(last: int, code: ErrorCode, reason: str = "") -> bytes:
    """A GOAWAY: the connection is to close. last: the highest stream that is answered."""
    return frame(GOAWAY, 0, 0, number(last) + number(code) + reason.encode())


def read_settings(content: bytes) -> Iterator[tuple[int, int]]:
    """The settings that a frame has, and their values. Raises BrokenRule."""
    if len(content) % _SETTING.size:
        raise BrokenRule(ErrorCode.FRAME_SIZE_ERROR, "a frame of settings has another length")
    return _SETTING.iter_unpack(content)


def number(value: int) -> bytes:
    """A number of 32 bits as it is sent."""
    return _NUMBER.pack(value)


def read_number(content: bytes) -> int:
    """A number of 31 bits. Raises BrokenRule for a frame of another length."""
    if len(content) != _NUMBER.size:
        raise BrokenRule(ErrorCode.FRAME_SIZE_ERROR, "a frame that holds one number has another length")
    found: int = _NUMBER.unpack(content)[0]
    return found & MAX_WINDOW


def without_padding(given: Frame) -> bytes:
    """The content of a frame of data or headers, without padding and priority. Raises BrokenRule."""
    content, end = given.content, len(given.content)
    at = 0
    if given.flags & PADDED:
        at, end = 1, end - (content[0] if content else 0)
    if given.kind == HEADERS and given.flags & HAS_PRIORITY:
        at += PRIORITY_BYTES
    if at > end:
        raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than content")
    return content[at:end]
