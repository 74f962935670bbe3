"""gRPC's health protocol, by its own client: no key, whatever the server's load, and no way to hold it up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import calls, health
from serving.runtime.key_file import KeyFile
from tests.serving.front.attacked import PATIENT
from tests.serving.front.local_front import MakeFront
from tests.serving.front.rpc.served import Port, on_port

pytestmark = pytest.mark.slow


SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
INFERENCE = "inference.GRPCInferenceService"


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_is_readiness_and_needs_no_key(tmp_path: Path, make_front: MakeFront) -> None:
    KeyFile(tmp_path / "keys.json").add("somebody")
    front = make_front(keys_file=tmp_path / "keys.json")

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            client = health_pb2_grpc.HealthStub(channel)
            for service in ("", INFERENCE):
                assert (await client.Check(asked(service))).status == SERVING
            front.routing._is_ready = False
            assert (await client.Check(asked())).status == NOT_SERVING
            unknown = client.Check(asked("other"))
            assert (await unknown.code()).name == "NOT_FOUND"
            large = client.Check(asked(2000 * "x"))
            assert (await large.code()).name == "INVALID_ARGUMENT"

    on_port(front, work, ConnectionGuard(msgspec.structs.replace(PATIENT, max_requests=0)))


def test_a_watcher_is_told_of_each_change_and_of_the_end(make_front: MakeFront) -> None:
    front = make_front()

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            client = health_pb2_grpc.HealthStub(channel)
            watch = client.Watch(asked())
            assert (await watch.read()).status == SERVING
            front.routing._is_ready = False
            assert (await watch.read()).status == NOT_SERVING
            front.routing._is_ready = True
            assert (await watch.read()).status == SERVING
            other = client.Watch(asked("other"))
            assert (await other.read()).status == UNKNOWN
            closing = asyncio.create_task(port.opened.close())
            assert (await watch.read()).status == NOT_SERVING
            await closing

    on_port(front, work)


def test_watchers_are_bounded(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            client = health_pb2_grpc.HealthStub(channel)
            watchers = []
            for _ in range(health.MAX_WATCHERS):  # one by one, as few messages may be under way at once
                watchers.append(client.Watch(asked()))
                assert (await watchers[-1].read()).status == SERVING
            assert (await client.Watch(asked()).code()).name == "UNAVAILABLE"
            assert (await client.Check(asked())).status == SERVING

    on_port(make_front(), work)


def test_calls_without_a_message_give_way_to_new_ones(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_WAITING", 2)

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def work(port: Port) -> None:
        async with grpc.aio.insecure_channel(port.address) as channel:
            silent = []
            for number in range(3):
                silent.append(channel.stream_unary(f"/{health.SERVICE}/Check")(nothing()))
                while len(port.opened._health._calls._waiting) < min(number + 1, 2):
                    await asyncio.sleep(0.002)
            assert (await silent[0].code()).name == "UNAVAILABLE"
            assert (await health_pb2_grpc.HealthStub(channel).Check(asked())).status == SERVING
            for each in silent:
                each.cancel()

    on_port(make_front(), work)
