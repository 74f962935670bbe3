"""A request's id, its place in the caller's trace, and the times at which it passed each stage."""

import itertools
import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_prefix = os.urandom(8).hex()
"""The first half of the request ids that this process makes."""
_numbers = itertools.count(int.from_bytes(os.urandom(4)))
STAGES = ("encode", "queue", "forward", "decode")
ProtocolName = Literal["huggingface", "openai", "kserve", "mlflow", "bentoml", "rerank", "tokenize", "grpc"]
"""The protocols by their name in metrics and logs."""


class RequestContext(msgspec.Struct, frozen=True):
    """request_id: the client's `X-Request-Id` if it is well formed, else a new one. traceparent: the W3C's, or "".

    key: the client's `X-Headwaiter-Key`, by which it stays on one side of a rollout, or empty.
    """

    request_id: str
    traceparent: str = ""
    key: bytes = b""

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]]) -> "RequestContext":
        """Read it from ASGI's headers. Values that are not well formed are ignored, as the W3C demands."""
        request_id, traceparent, key = b"", b"", b""
        for name, value in headers:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value
            elif name == b"traceparent" and _TRACEPARENT.fullmatch(value) and not value.startswith(b"ff"):
                traceparent = value
            elif name == b"x-headwaiter-key":
                key = value
        return cls(request_id.decode() or f"{_prefix}{next(_numbers):016x}", traceparent.decode(), key)

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The answer's header with the id."""
        return b"x-request-id", self.request_id.encode()

    @property
    def trace_id(self) -> str:
        """The id of the caller's trace, or ""."""
        return self.traceparent[3:35]


class StageTimes(msgspec.Struct):
    """When a request passed from stage to stage, in `time.perf_counter`'s seconds; 0 for stages not reached.

    forward_seconds: of the longest forward pass with a row of the request. tokens: of the inputs, special tokens
    included; of an input whose rows are texts to be generated, of the first row. items: the request's inputs, once it
    is parsed. side: of a rollout that the request takes part in, "stable" or "candidate", or "".
    """

    began: float = msgspec.field(default_factory=time.perf_counter)
    sent: float = 0.0
    received: float = 0.0
    ended: float = 0.0
    forward_seconds: float = 0.0
    tokens: int = 0
    items: Sequence[object] = ()
    side: str = ""

    def seconds(self) -> tuple[float, float, float, float]:
        """Seconds in encode, queue, forward and decode, which add up to the request; 0 for stages not reached.

        Of a request that failed while it waited, all of the wait counts as queue.
        """
        sent = self.sent or self.ended
        received = self.received or self.ended
        waited = received - sent
        forward = min(waited, self.forward_seconds)
        return sent - self.began, waited - forward, forward, self.ended - received
