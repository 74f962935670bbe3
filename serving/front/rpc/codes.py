"""How a call ended, in gRPC's codes, and how that is told.

Source: "gRPC over HTTP2" and "Statuscodes" of the gRPC documentation.
"""

import string
from collections.abc import Mapping, Sequence
from enum import IntEnum
from urllib.parse import quote

from serving.front.asgi import Header
from serving.front.rpc.header_blocks import block_of

MAX_DETAILS = 4096
"""Bytes of an error's text as it is sent: clients take 8 KiB of metadata by default."""
PLAIN = string.ascii_letters + string.digits + string.punctuation.replace("%", "") + " "
"""Characters that are sent as one byte; of others each byte takes three ("gRPC over HTTP2", Percent-Encoded)."""

CONTENT_TYPE = (b"content-type", b"application/grpc")
RESPONSE_HEAD = block_of([(b":status", b"200"), CONTENT_TYPE])
"""The headers that begin every answer, errors included."""


class Code(IntEnum):
    """The codes that are used here."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    def block(self, message: str = "", metadata: Sequence[Header] = ()) -> bytes:
        """The block of headers that ends an answer with this code. message: of an error."""
        told = [(b"grpc-status", b"%d" % self)]
        if message:
            told.append((b"grpc-message", _percent_encoded(details(message)).encode()))
        return block_of((*told, *metadata))


CODES: Mapping[int, Code] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
"""HTTP status → gRPC's code; INTERNAL for the others."""


def details(message: str) -> str:
    """An error's message, without its middle if it would be too long on the wire."""
    if len(message) > MAX_DETAILS:  # before it is encoded: a name in it may be as long as a body
        message = f"{message[: MAX_DETAILS // 2]} … {message[-MAX_DETAILS // 2 :]}"
    kept = message
    while len(_percent_encoded(kept)) > MAX_DETAILS:
        half = 3 * len(kept) // 8
        kept = f"{message[:half]} … {message[-half:]}"
    return kept


def _percent_encoded(message: str) -> str:
    return quote(message, safe=PLAIN)
