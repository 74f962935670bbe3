"""A server answers to its own names only, on ASGI and on the fast path alike."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from registry.settings import InvalidSetting
from serving.errors import WrongHost
from serving.front.connection import Connection
from serving.front.fast_path import FastConnection
from serving.front.host_names import HostNames
from serving.setting_values import LOOPBACK_HOSTS
from serving.settings import ServingSettings
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.test_fast_path import BODY, Whole, answers
from tests.waiting import WAIT_SECONDS

OWN = [b"localhost", b"LocalHost:3000", b"localhost.", b"127.0.0.1:80", b"[::1]", b"[::1]:3000"]
OTHERS = [
    *(
        b"evil.example",
        b"localhost.evil.example",
        b"evil.example:3000",
        b"127.0.0.1.evil.example",
        b"",
        b"[::1",
        b"::1",
    ),
    *(b"localhost:", b"localhost:3000@evil", b"evil@localhost", b"localhost evil", b"[::1]evil", b"127.0.0.1:3:4"),
]


def scope(*hosts: bytes, server: str = "127.0.0.1") -> dict[str, Any]:
    return {"headers": [(b"host", host) for host in hosts], "server": (server, 3000)}


@pytest.mark.parametrize("value", OWN)
def test_its_own_names_are_known_with_any_port(value: bytes) -> None:
    HostNames(LOOPBACK_HOSTS).check(scope(value))


@pytest.mark.parametrize("value", OTHERS)
def test_other_names_are_not(value: bytes) -> None:
    with pytest.raises(WrongHost, match="HEADWAITER_ALLOWED_HOSTS"):
        HostNames(LOOPBACK_HOSTS).check(scope(value))


def test_no_host_and_a_second_one_are_refused() -> None:
    names = HostNames(LOOPBACK_HOSTS)
    for hosts in ((), (b"localhost", b"evil.example")):
        with pytest.raises(WrongHost):
            names.check(scope(*hosts))


@pytest.mark.parametrize(
    ("value", "server"),
    [
        (b"10.1.2.3:3000", "10.1.2.3"),
        (b"10.1.2.3", "::ffff:10.1.2.3"),
        (b"[2001:DB8::1]:3000", "2001:db8:0::1"),
        (b"[::ffff:10.1.2.3]", "10.1.2.3"),
    ],
)
def test_the_address_that_a_client_connected_to_is_known(value: bytes, server: str) -> None:
    """Kubernetes and Prometheus ask a pod by its address; a page can point no name at a server by it."""
    names = HostNames(["models.example"])
    names.check(scope(value, server=server))
    for other in (b"10.1.2.4", b"10.1.2.3.evil.example", b"[2001:db8::2]", b"evil.example", b"", b"10.1.2.3:3000@evil"):
        with pytest.raises(WrongHost):
            names.check(scope(other, server=server))
    with pytest.raises(WrongHost):
        names.check({**scope(value), "server": None})


def read(**environ: str) -> tuple[str, ...]:
    return ServingSettings.from_environment(
        {"HEADWAITER_HOME": "/tmp/h", **environ}, run=Path("/tmp/h/run/x")
    ).allowed_hosts


def test_by_default_the_names_of_this_machine_are_allowed_and_with_keys_all() -> None:
    assert read() == LOOPBACK_HOSTS
    assert read(HEADWAITER_KEYS_FILE="/k") == read(HEADWAITER_INSECURE="1") == ("*",)
    assert read(HEADWAITER_ALLOWED_HOSTS="Models.Example localhost 2001:db8::1") == (
        "models.example",
        "localhost",
        "2001:db8::1",
    )
    for wrong in ("a:80", "[::1]", "https://a", "a/b", "*.a"):
        with pytest.raises(InvalidSetting, match="is no host"):
            read(HEADWAITER_ALLOWED_HOSTS=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("http", [Connection, FastConnection])
def test_a_name_that_a_page_made_up_gets_no_answer(http: Any, make_front: MakeFront) -> None:
    def status(*hosts: str, path: str = "/models/m") -> int:
        async def work() -> bytes:
            front = make_front(task=Whole(), allowed_hosts=LOOPBACK_HOSTS)
            engines(front, "1", answer("an answer"))
            lines = [f"POST {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), f"Content-Length: {len(BODY)}"]
            return await answers(front, http, "\r\n".join([*lines, "Connection: close", "", ""]).encode() + BODY)

        found = re.match(rb"HTTP/1.1 (\d+)", asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS)))
        return int(found[1]) if found else 0

    assert status("localhost:3000") == 200
    for path in ("/models/m", "/v1/embeddings", "/v2/models/m/infer", "/invocations", "/predict", "/metrics", "/livez"):
        assert status("evil.example", path=path) == 421
    assert status("localhost", "evil.example") == 421
    assert status() == 421
