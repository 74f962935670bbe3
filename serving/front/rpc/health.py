"""gRPC's own health protocol, for probes and load balancers, which show no key: whether the server is ready.

Source: health.proto of grpc/grpc-proto.
"""

import asyncio
from collections.abc import Mapping

from serving.errors import NotReady, ServingError, UnknownModel
from serving.front.front import Front
from serving.front.rpc.calls import Calls, RpcAnswer, RpcCall
from serving.front.rpc.codes import CODES, Code
from serving.front.rpc.inference import SERVICE as INFERENCE
from serving.front.rpc.inference import parse
from serving.front.rpc.messages import message_class
from serving.front.rpc.methods import Method
from serving.front.rpc.stream import Stream

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
"""The statuses."""
LOOK_SECONDS = 0.5
MAX_WATCHERS = 64
"""Calls of Watch in one front at once. Untuned: a load balancer has one."""


class HealthService:
    """The methods of one front. is_closing: whether it takes no more calls soon, which ends those of Watch."""

    def __init__(self, front: Front, calls: Calls) -> None:
        self._front, self._calls = front, calls
        self._watchers = 0
        self.is_closing = False

    def methods(self) -> Mapping[str, Method]:
        """The methods by name."""
        check = self._calls.method(f"{SERVICE}/Check", self._check)
        return {"Check": check, "Watch": Method(self._watch, check.max_bytes, is_probe=True)}

    def _status(self, message: bytes) -> int:
        service = parse("HealthCheckRequest", message).service
        if service not in ("", INFERENCE):
            return SERVICE_UNKNOWN
        return SERVING if self._front.is_ready() and not self.is_closing else NOT_SERVING

    async def _check(self, message: bytes, call: RpcCall) -> RpcAnswer:
        status = self._status(message)
        if status == SERVICE_UNKNOWN:
            raise UnknownModel(f"the services here are {INFERENCE} and, for the whole server, one without a name")
        return RpcAnswer(message_class("HealthCheckResponse")(status=status))

    async def _watch(self, stream: Stream) -> None:
        """Tell the status now, and whenever it changes."""
        self._watchers += 1
        try:
            message = await self._calls.message(stream)
            if self._watchers > MAX_WATCHERS:
                raise NotReady(f"{MAX_WATCHERS} clients watch the health already: ask by Check")
            told = None
            while True:
                is_last, status = self.is_closing, self._status(message)
                if status != told:
                    told = status
                    stream.send(message_class("HealthCheckResponse")(status=status).SerializeToString())
                if is_last:
                    stream.finish(Code.OK.block())
                    return
                await asyncio.sleep(LOOK_SECONDS)
        except ServingError as error:
            stream.finish(CODES[error.status].block(error.message))
        finally:
            self._watchers -= 1
