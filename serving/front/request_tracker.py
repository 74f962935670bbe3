"""The life of a request in a front: it is counted, logged and traced once, when it ends, whichever way it ends.

`Front.answer` and `Front.stream` track their requests here. The retry policy for lost engines is here as well.
"""

import asyncio
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from serving.errors import ClientGone, EngineLost, Failed, ServingError
from serving.front.loaded_version import LoadedVersion
from serving.front.meter import FrontMeter
from serving.front.request_context import ProtocolName, RequestContext, StageTimes
from serving.front.request_log import RequestLog
from serving.front.rollout.traffic import RolloutSide

MAX_CRASHES = 2
"""A request fails once this many engines have ended while they computed it: it may be what ends them."""
MAX_ATTEMPTS = 20
"""The most engines that a request is sent to. Only a bug lets a request reach this bound."""


class RequestTracker:
    """Tracks the requests of one front. is_served: whether this server has a model of that name."""

    def __init__(self, log: RequestLog, is_served: Callable[[str], bool]) -> None:
        self.log = log
        self._is_served = is_served
        self._unattributed: dict[str, FrontMeter] = {}

    def track(self, name: str, protocol: ProtocolName, context: RequestContext | None) -> "TrackedRequest":
        """A request that arrives now, for `name` or `name@alias`."""
        return TrackedRequest(self, name, protocol, context)

    def unattributed_meter(self, name: str) -> FrontMeter:
        """Counts requests that reached no version. Names that are not served share one meter, so labels stay few."""
        model = name.partition("@")[0]
        model = model if self._is_served(model) else ""
        meter = self._unattributed.get(model)
        if meter is None:
            meter = self._unattributed[model] = FrontMeter(model, "", "")
        return meter


class TrackedRequest(msgspec.Struct, eq=False):
    """One request. As a context manager it ends with the block, unless `stay_open` was called in it.

    stages: when the request passed each stage. loaded: the version of the latest attempt, None before the first. side:
    of the rollout that it takes part in, or None.
    """

    _tracker: RequestTracker
    _name: str
    _protocol: ProtocolName
    _context: RequestContext | None
    _attempts_left: int = MAX_ATTEMPTS
    _crashes: int = 0
    _is_open: bool = True
    _stays_open: bool = False
    stages: StageTimes = msgspec.field(default_factory=StageTimes)
    loaded: LoadedVersion | None = None
    side: RolloutSide | None = None
    key: bytes = b""

    def rollout_key(self, caller: str) -> bytes:
        """What decides the side of a rollout: the client's header, else its API key's name, else a random number.

        It stays the same in all attempts.
        """
        if not self.key:
            given = self._context.key if self._context is not None else b""
            self.key = given or caller.encode() or os.urandom(8)
        return self.key

    def begin_attempt(self, loaded: LoadedVersion) -> None:
        """The request is in progress at this version from now on, and no longer at the one before."""
        if self.loaded is not None:
            self.loaded.meter.leave()
        self.loaded = loaded
        self.stages.forward_seconds = 0.0
        loaded.meter.begin()

    def allow_retry(self, error: EngineLost) -> None:
        """Return if the request may be sent to another engine. Raises Failed where it may be what ends engines."""
        self._crashes += error.had_begun
        if self.side is not None and error.had_begun:
            self.side.end(error.status, error.reason, 0.0)  # of the version whose engine ended, whoever answers now
        if self._crashes >= MAX_CRASHES:
            message = f"{self._crashes} engines ended while they computed this request: it is not tried again"
            raise Failed(message) from error
        self._attempts_left -= 1
        if not self._attempts_left:
            raise error

    @property
    def is_suspect(self) -> bool:
        """Whether an engine ended while it computed the request, so that it is now computed alone."""
        return self._crashes > 0

    def stay_open(self) -> None:
        """Leave `end` to the caller: a stream outlives the call that opened it."""
        self._stays_open = True

    def end(self, error: BaseException | None = None) -> None:
        """Count, log and trace the request; later calls do nothing. A ServingError gets the version that raised it."""
        if not self._is_open:
            return
        self._is_open = False
        status, reason = (200, "") if error is None else outcome(error)
        tracker, loaded, stages, protocol = self._tracker, self.loaded, self.stages, self._protocol
        if loaded is None:
            meter = tracker.unattributed_meter(self._name)
        else:
            meter = loaded.meter
            meter.leave()
            if isinstance(error, ServingError):
                error.version = loaded.version
        stages.ended = time.perf_counter()
        meter.end(protocol, status, stages, reason)
        if self.side is not None:
            self.side.end(status, reason, stages.ended - stages.began)
        tracker.log.record(self._context, meter, protocol, status, reason, stages)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None or not self._stays_open:
            self.end(error)


def outcome(error: BaseException) -> tuple[int, str]:
    """The status and the metrics' reason of a request that ended with this error.

    A request is cancelled when its connection closes. Any other error than a ServingError is a bug.
    """
    if isinstance(error, ServingError):
        return error.status, error.reason
    kind = ClientGone if isinstance(error, asyncio.CancelledError) else Failed
    return kind.status, kind.reason
