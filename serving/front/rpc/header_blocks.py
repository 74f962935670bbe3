"""Headers on the wire: read with `hpack`, and written without its tables, which a reader needs not have seen.

Source: RFC 7541.
"""

import re
from collections.abc import Iterable

import hpack

from serving.front.asgi import Header
from serving.front.rpc import frames
from serving.front.rpc.frames import BrokenRule, ErrorCode, Frame, without_padding

MAX_HEADERS_BYTES = 16 * 1024
"""Of a call's headers, as HTTP/2 counts them: names, values, and 32 bytes for each."""
MAX_BLOCK_BYTES = 2 * MAX_HEADERS_BYTES
"""Of a call's headers on the wire, and of those that are read only to be refused."""
MAX_KNOWN = 64
"""Blocks that are remembered. Untuned: most clients have one or two."""
LITERALS = bytes(range(128))
"""First bytes of what is not an entry of the table; also in the middle of large indices."""
ENTRY_BYTES = 32
"""What HTTP/2 adds for each header."""
THIRD_SIZE = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
"""Three changes of the table's size at the beginning of a block, which may have two (RFC 7541, 4.2)."""
NO_TABLE = b"\x20"
"""Begins a block: from now on the table has a size of 0."""
SHORT = 127
"""The length from which it takes more than one byte."""


class BlockReader:
    """Puts the blocks of one connection together, each of which may come in several frames."""

    def __init__(self) -> None:
        self._open: Frame | None = None

    def check(self, given: Frame) -> None:
        """Raise BrokenRule for a frame that comes within a block and is not of it, or that a client has none of."""
        if given.kind == frames.PUSH_PROMISE:
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        if self._open is not None and (given.kind, given.stream) != (frames.CONTINUATION, self._open.stream):
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "headers are interrupted")

    def take(self, given: Frame) -> Frame | None:
        """A frame with the whole block, None while more is to come. Raises BrokenRule."""
        if given.kind == frames.HEADERS:
            if given.stream % 2 == 0:
                raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "a stream has a number that is not a client's")
            whole = given._replace(content=without_padding(given))
        elif self._open is None:
            raise BrokenRule(ErrorCode.PROTOCOL_ERROR, "there is nothing to continue")
        else:
            whole = self._open._replace(content=self._open.content + given.content)
        if len(whole.content) > MAX_BLOCK_BYTES:
            raise BrokenRule(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large")
        is_whole = bool(given.flags & frames.END_HEADERS)
        self._open = None if is_whole else whole
        return whole if is_whole else None


class HeaderReader:
    """Reads the blocks of one connection. A block of entries of the table alone is read once for each of its states."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_BLOCK_BYTES)
        self._known: dict[bytes, list[Header]] = {}

    def read(self, block: bytes) -> list[Header]:
        """The headers of a block. Raises BrokenRule."""
        known = self._known.get(block)
        if known is not None:
            return known
        if THIRD_SIZE.match(block):
            raise BrokenRule(ErrorCode.COMPRESSION_ERROR, "the headers change the size of their table again and again")
        try:
            headers = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise BrokenRule(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large") from error
        except (hpack.HPACKError, IndexError) as error:
            raise BrokenRule(ErrorCode.COMPRESSION_ERROR, "the headers cannot be read") from error
        if len(block.translate(None, LITERALS)) < len(block) or len(self._known) >= MAX_KNOWN:
            self._known.clear()  # a literal may have changed the table
        else:
            self._known[block] = headers
        return headers


def size_of(headers: Iterable[Header]) -> int:
    """Bytes of headers, as HTTP/2 counts them (RFC 9113, 6.5.2)."""
    return sum(len(name) + len(value) + ENTRY_BYTES for name, value in headers)


def block_of(headers: Iterable[Header]) -> bytes:
    """A block with these headers, as literals."""
    return b"".join([b"\0" + _text(name) + _text(value) for name, value in headers])


def _text(content: bytes) -> bytes:
    """A length, and as many bytes (RFC 7541, 5.1 and 5.2)."""
    left = len(content) - SHORT
    if left < 0:
        return bytes((len(content),)) + content
    length = bytearray((SHORT,))
    while left >= 128:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + content
