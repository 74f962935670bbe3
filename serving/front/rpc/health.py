"""gRPC's own health protocol, for probes and load balancers, which show no key: whether the server is ready.

Source: health.proto of grpc/grpc-proto.
"""

import asyncio
from collections.abc import Mapping

import grpc
from grpc.aio import ServicerContext

from serving.errors import NotReady, ServingError, UnknownModel
from serving.front.front import Front
from serving.front.rpc.calls import CODES, Call, Calls, Told
from serving.front.rpc.inference import SERVICE as INFERENCE
from serving.front.rpc.inference import parse
from serving.front.rpc.messages import message_class

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

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """Method → handler."""
        return {
            "Check": self._calls.method(f"{SERVICE}/Check", self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }

    def _status(self, message: bytes) -> int:
        service = parse("HealthCheckRequest", message).service
        if service not in ("", INFERENCE):
            return SERVICE_UNKNOWN
        return SERVING if self._front.is_ready() and not self.is_closing else NOT_SERVING

    async def _check(self, message: bytes, call: Call) -> Told:
        status = self._status(message)
        if status == SERVICE_UNKNOWN:
            raise UnknownModel(f"the services here are {INFERENCE} and, for the whole server, one without a name")
        return Told(message_class("HealthCheckResponse")(status=status))

    async def _watch(self, _: object, context: ServicerContext) -> None:
        """Tell the status now, and whenever it changes."""
        self._watchers += 1
        try:
            message = await self._calls.message(context)
            if self._watchers > MAX_WATCHERS:
                raise NotReady(f"{MAX_WATCHERS} clients watch the health already: ask by Check")
            told = None
            while True:
                is_last, status = self.is_closing, self._status(message)
                if status != told:
                    told = status
                    await context.write(message_class("HealthCheckResponse")(status=status).SerializeToString())
                if is_last:
                    return
                await asyncio.sleep(LOOK_SECONDS)
        except ServingError as error:
            await context.abort(CODES[error.status], error.message)
        finally:
            self._watchers -= 1
