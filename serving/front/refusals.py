"""What a connection refuses by itself, before a protocol sees it. The errors have Hugging Face's form."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.errors import HeadTooLarge, Overloaded, ServingError, UnknownCoding
from serving.front.asgi import Header, encode_json
from serving.front.connection_guard import MAX_HEAD_BYTES, MAX_HEADERS

RETRY_SECONDS = 1


def head_too_large() -> HeadTooLarge:
    """For a head, a trailer or an extension of a chunk over the bounds."""
    return HeadTooLarge(
        f"a request has at most {MAX_HEADERS} headers, of {MAX_HEAD_BYTES:,} bytes in all: send fewer or shorter ones"
    )


def no_room_for_request() -> Overloaded:
    """For a request at the bound of all connections."""
    return Overloaded("the server has as many requests as it may: try again", retry_seconds=RETRY_SECONDS)


def no_room_for_body() -> Overloaded:
    """For a body at the bound of all connections."""
    return Overloaded("the server buffers as much as it may: try again", retry_seconds=RETRY_SECONDS)


def unknown_coding(coding: bytes) -> UnknownCoding:
    """For a body that is not only chunked."""
    return UnknownCoding(f"transfer coding {coding.decode('latin-1')!r} is not supported: send the body as it is")


def encode(error: ServingError, headers: Iterable[Header]) -> bytes:
    """The answer after which the connection is closed. headers: of every answer."""
    body = encode_json({"error": error.message, "error_type": error.reason})
    lines = [STATUS_LINE[error.status]]
    lines += [b"%b: %b\r\n" % header for header in headers]
    if error.retry_seconds is not None:
        lines.append(b"retry-after: %d\r\n" % error.retry_seconds)
    lines.append(b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
    return b"".join((*lines, body))
