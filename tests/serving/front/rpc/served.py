"""A front of every task at a port of gRPC in this process, and Triton's client of it, which runs in a thread."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy
import tritonclient.grpc as triton

from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.front import Front
from serving.front.rpc.port import GrpcPort
from tests.waiting import WAIT_SECONDS

TEXT, VECTORS = "text-classification", "feature-extraction"
Use = Callable[["Port"], Awaitable[None]]


class Port:
    """A port that is open. address: for clients. guard: of the front's connections."""

    def __init__(self, opened: GrpcPort, guard: ConnectionGuard) -> None:
        self.opened, self.guard = opened, guard
        self.address = f"127.0.0.1:{opened.port}"

    async def until_idle(self) -> None:
        """Wait until no call is in progress, and nothing of one is held."""
        while self.guard.requests or self.guard.buffered_bytes:
            await asyncio.sleep(0.002)

    async def ask(self, use: Callable[[triton.InferenceServerClient], Any], **client: Any) -> Any:
        """What a client of its own gives, used in a thread."""

        def run() -> Any:
            with triton.InferenceServerClient(self.address, **client) as made:
                return use(made)

        return await asyncio.to_thread(run)

    async def refused(self, use: Callable[[triton.InferenceServerClient], Any], **client: Any) -> tuple[str, str]:
        """The code and the text of an error."""
        try:
            await self.ask(use, **client)
        except triton.InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode."), error.message()
        raise AssertionError("nothing was refused")

    async def call(self, method: str, message: bytes, *metadata: tuple[str, str], **options: Any) -> tuple[Any, bytes]:
        """The code and the answer, or the text of the error, to any bytes. method: with its service."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            call = channel.unary_unary(f"/{method}")(message, metadata=metadata, **options)
            try:
                answer = await call
            except grpc.aio.AioRpcError as error:
                return error.code(), (error.details() or "").encode()
            return await call.code(), answer


def on_port(front: Front, work: Use, guard: ConnectionGuard | None = None) -> None:
    """Run `work` with a port of the front's. It is closed afterwards."""

    async def run() -> None:
        own = guard or ConnectionGuard(ConnectionLimits.of(front.settings))
        opened = GrpcPort(front, "127.0.0.1", own)
        opened.port = 0
        await opened.open()
        try:
            await work(Port(opened, own))
        finally:
            await opened.close()

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))


def tensor(name: str, values: Any) -> triton.InferInput:
    """A tensor of texts."""
    array = numpy.asarray(values, dtype=numpy.object_)
    found = triton.InferInput(name, list(array.shape), "BYTES")
    found.set_data_from_numpy(array)
    return found


def infer(model: str = TEXT, texts: Any = ("a text",), **given: Any) -> Callable[[triton.InferenceServerClient], Any]:
    """An inference, for `Port.ask`."""
    return lambda client: client.infer(model, [tensor("text", list(texts))], **given)


def answers(result: triton.InferResult) -> list[Any]:
    """The answers that are JSON."""
    return [json.loads(text) for text in result.as_numpy("output")]
