"""Metrics and probes at a port of their own: open there, and nothing else is."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.settings import InvalidSetting
from serving.front.admin_port import AdminPort
from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.health import Ends
from serving.runtime.address import check_further_ports
from serving.runtime.key_file import KeyFile
from serving.setting_values import LOOPBACK_HOSTS
from tests.e2e.server import free_port
from tests.serving.front.closed_front import ask, bearer
from tests.serving.front.local_front import MakeFront
from tests.waiting import WAIT_SECONDS

PORT = 9999
"""Stands for the port where only settings are compared: the kernel chooses the one that is listened at."""


def on_port(front: Front, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        admin = AdminPort(front, "127.0.0.1", is_bounded=True)
        admin._address = "127.0.0.1", 0
        await admin.open()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{admin.port}", timeout=WAIT_SECONDS) as client:
            await work(client)
        await admin.close()

    asyncio.run(asyncio.wait_for(run(), WAIT_SECONDS))


@pytest.fixture
def closed(tmp_path: Path, make_front: MakeFront) -> Front:
    KeyFile(tmp_path / "keys.json").add("somebody")
    made = make_front(keys_file=tmp_path / "keys.json", admin_port=PORT)
    made.routing._is_ready = False
    return made


def test_metrics_and_probes_need_no_key_there(closed: Front) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        metrics = await client.get("/metrics")
        assert metrics.status_code == 200
        assert metrics.headers["content-type"].startswith("text/plain")
        assert 'model="m"' in metrics.text
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["error_type"]) == (503, "not_ready")
        closed.routing._is_ready = True
        assert (await client.get("/readyz")).status_code == (await client.get("/livez")).status_code == 200
        closed.health._ends["a task"] = Ends(-1e9, time.monotonic())
        assert (await client.get("/livez")).status_code == 503

    on_port(closed, work)


def test_nothing_else_is_there(closed: Front) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for path in (
            "/",
            "/models",
            "/models/m",
            "/v1/models",
            "/predict",
            "/docs.json",
            "/metrics/x",
            "/hooks/mlflow",
        ):
            for method in ("GET", "POST"):
                assert (await client.request(method, path)).status_code == 404, path
        assert (await client.post("/metrics")).status_code == 405

    on_port(closed, work)


def test_a_page_of_another_site_gets_no_metrics_of_a_server_without_keys(make_front: MakeFront) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/metrics", headers={"Host": "evil.example"})).status_code == 421

    on_port(make_front(admin_port=PORT, allowed_hosts=LOOPBACK_HOSTS), work)


def test_metrics_leave_the_other_port(tmp_path: Path, make_front: MakeFront) -> None:
    file = KeyFile(tmp_path / "keys.json")
    operator = bearer(file.add("operator", admin=True))

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope)

    moved = DataPlane(make_front(admin_port=PORT), inner)
    assert ask(moved, "GET", "/metrics").json == {"error": f"/metrics is at port {PORT} (HEADWAITER_ADMIN_PORT)"}
    moved = DataPlane(make_front(admin_port=PORT, keys_file=tmp_path / "keys.json"), inner)
    assert ask(moved, "GET", "/metrics").status == 401
    assert ask(moved, "GET", "/metrics", operator).status == 404


def test_a_port_that_cannot_be_is_refused_at_the_start() -> None:
    variable = "HEADWAITER_ADMIN_PORT"
    with pytest.raises(InvalidSetting, match=f"{variable}=3000 is the server's own port"):
        check_further_ports("127.0.0.1", 3000, {variable: 3000})
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(InvalidSetting, match=f"{variable}={port} cannot be used"),
    ):
        check_further_ports("127.0.0.1", 3000, {variable: port})
    with pytest.raises(InvalidSetting, match=f"HEADWAITER_GRPC_PORT={port} is the port of {variable}"):
        check_further_ports("127.0.0.1", 3000, {variable: port, "HEADWAITER_GRPC_PORT": port})
    check_further_ports("127.0.0.1", 3000, {variable: 0, "HEADWAITER_GRPC_PORT": 0})
