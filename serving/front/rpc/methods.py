"""The methods that clients may call, and why what is no such call is refused before it is one."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from serving.front.asgi import Header
from serving.front.rpc.codes import CONTENT_TYPE, RESPONSE_HEAD, Code
from serving.front.rpc.header_blocks import MAX_HEADERS_BYTES, block_of, size_of
from serving.front.rpc.stream import Stream


class Method(NamedTuple):
    """How the calls of one method are answered. max_bytes: of a message. is_probe: also when the server is full."""

    answer: Callable[[Stream], Awaitable[None]]
    max_bytes: int
    is_probe: bool = False


def refusal(methods: Mapping[bytes, Method], fields: Mapping[bytes, bytes], headers: list[Header]) -> bytes | None:
    """The header block that refuses an invalid or unknown call, its whole answer; None for a valid one.

    methods: by path. fields: headers by name.
    """
    if fields.get(b":method") != b"POST":
        return block_of([(b":status", b"405"), (b"allow", b"POST")])
    if not fields.get(b"content-type", b"").startswith(CONTENT_TYPE[1]):
        return block_of([(b":status", b"415")])
    if size_of(headers) > MAX_HEADERS_BYTES:
        return RESPONSE_HEAD + Code.RESOURCE_EXHAUSTED.block("the metadata are too large")
    if fields.get(b":path", b"") not in methods:
        return RESPONSE_HEAD + Code.UNIMPLEMENTED.block("Method not found!")
    if fields.get(b"grpc-encoding", b"identity") != b"identity":
        return RESPONSE_HEAD + Code.UNIMPLEMENTED.block("compression is not supported: send messages as they are")
    return None
