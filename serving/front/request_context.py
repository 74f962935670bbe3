"""What follows a request: the id that names it, its place in a caller's trace, and when it passed each stage."""

import itertools
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ours = os.urandom(8).hex()
"""The first half of the ids that this process gives."""
_numbers = itertools.count(int.from_bytes(os.urandom(4)))
STAGES = ("encode", "queue", "forward", "decode")
ProtocolName = Literal["huggingface", "openai", "kserve", "mlflow", "bentoml"]
"""The protocols by their name in metrics and logs."""


class RequestContext(msgspec.Struct, frozen=True):
    """request_id: the client's `X-Request-Id` if it is fit for a log, else one of our own. traceparent: W3C, or ""."""

    request_id: str
    traceparent: str = ""

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]]) -> "RequestContext":
        """From ASGI's headers; what is not well formed is left aside, as the W3C asks for."""
        request_id, traceparent = b"", b""
        for name, value in headers:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value
            elif name == b"traceparent" and _TRACEPARENT.fullmatch(value) and not value.startswith(b"ff"):
                traceparent = value
        return cls(request_id.decode() or f"{_ours}{next(_numbers):016x}", traceparent.decode())

    @property
    def header(self) -> tuple[bytes, bytes]:
        """What the answer carries."""
        return b"x-request-id", self.request_id.encode()

    @property
    def trace_id(self) -> str:
        """The caller's trace, or ""."""
        return self.traceparent[3:35]


@dataclass(slots=True)
class StageTimes:
    """When a request passed from stage to stage, on `time.perf_counter`'s clock; 0 for what was not reached.

    forward_seconds: of the forward passes that its rows were in. tokens: of the inputs, special ones included; of one
    that became several rows, of the first. items: the request's inputs, once it is parsed.
    """

    began: float = field(default_factory=time.perf_counter)
    sent: float = 0.0
    received: float = 0.0
    ended: float = 0.0
    forward_seconds: float = 0.0
    tokens: int = 0
    items: Sequence[object] = ()

    def seconds(self) -> tuple[float, float, float, float]:
        """Time in encode, queue, forward, decode; they add up to the request. 0 for a stage that it did not reach.

        A request that failed while it waited counts all of that as queue.
        """
        sent = self.sent or self.ended
        received = self.received or self.ended
        waited = received - sent
        forward = min(waited, self.forward_seconds)
        return sent - self.began, waited - forward, forward, self.ended - received
