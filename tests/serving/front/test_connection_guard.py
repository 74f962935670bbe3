"""Clients that are too many, or that do not read: requests, connections, bytes and descriptors have their bounds."""

import asyncio
import gc
import logging
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from serving.front.connection_guard import (
    MAX_HEADERS,
    MAX_PIPELINED,
    RESERVED,
    SPARE_DESCRIPTORS,
    ConnectionGuard,
    raise_descriptor_limit,
)
from tests.serving.front.attacked import (
    BODY,
    LARGE,
    LIMITS,
    PATIENT,
    ROUTES,
    Attacked,
    Serve,
    error_type,
    head,
    sized,
)

pytestmark = pytest.mark.slow


# --- many requests


def test_requests_that_are_sent_ahead_are_bounded(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/livez", method="GET") * (2 * MAX_PIPELINED))
        answers = [await client.answer() for _ in range(MAX_PIPELINED + 1)]
        assert {status for status, _, _ in answers} == {200}
        assert [headers.get(b"connection") for _, headers, _ in answers] == [None] * MAX_PIPELINED + [b"close"]
        assert await client.end() == b""

    serve(work)


def test_a_refusal_waits_for_the_answers_before_it(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(2 * head("/livez", method="GET") + head("/livez", *["a: b"] * MAX_HEADERS))
        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
        assert await client.end() == b""

    serve(work)


def test_probes_are_answered_when_there_is_no_room_for_requests(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        holders = [await server.client() for _ in range(LIMITS.max_requests)]
        for holder in holders:
            holder.send(sized("/models/m", len(BODY)))
        await server.until(lambda server: server.guard.requests == LIMITS.max_requests)
        silent = [await server.client() for _ in range(3 * RESERVED)]
        for probe in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/ping?now"):
            status, _, _ = await server.ask(head(probe, method="GET"))
            assert (status, probe) in ((200, probe), (503, "/readyz"), (400, "/ping?now"), (503, "/ping?now"))
        for path in ROUTES:
            status, headers, body = await server.ask(sized(path, len(BODY)) + BODY)
            assert (status, headers[b"retry-after"], error_type(body)) == (503, b"1", "overloaded")
        assert await silent[0].end() == b""
        assert server.open <= LIMITS.max_requests + RESERVED
        for holder in holders:
            holder.send(BODY)
            assert (await holder.answer())[0] == 200
        assert (await server.ask(sized("/models/m", len(BODY)) + BODY))[0] == 200

    serve(work, PATIENT)


# --- answers


@pytest.mark.parametrize("line", ["Accept: */*", "Connection: close"])
@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_an_answer_that_nobody_reads_is_dropped(path: str, line: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(head(path, line, method="GET"))
        await server.until(lambda server: server.guard.buffered_bytes > 0)
        if path == "/large":  # it counts in the budget
            assert (await server.ask(sized("/models/m", len(BODY)) + BODY))[0] == 503
        await server.until(lambda server: server.open == 0)
        assert (await server.ask(sized("/models/m", len(BODY)) + BODY))[0] == 200

    serve(work)


@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_a_client_that_reads_slowly_gets_all(path: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head(path, "Connection: close", method="GET"))
        size = 0
        while data := await client.reader.read(2**20):
            size += len(data)
            await asyncio.sleep(0.005)
        assert size > LARGE

    serve(work)


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """As many may be open meanwhile."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_connections_are_bounded_by_the_descriptors_that_there_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)
    with warnings.catch_warnings(action="ignore"):  # of what other tests have left open
        gc.collect()  # not between the two looks at descriptors, some of which it may close
    used = len(list(Path("/dev/fd").iterdir()))
    with descriptors(used + SPARE_DESCRIPTORS + 20):
        guard = ConnectionGuard(msgspec.structs.replace(LIMITS, max_requests=1000))
    assert guard.max_requests == 15  # a quarter of 20 is kept for probes
    assert "file descriptors allow 15 connections" in caplog.text


@pytest.mark.parametrize(("wanted", "needs"), [(400, 400), (10**9, 10**4)])
def test_a_soft_limit_of_descriptors_is_raised_as_far_as_may_be(wanted: int, needs: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptors(256):
        raise_descriptor_limit(msgspec.structs.replace(LIMITS, max_requests=wanted))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > min(needs, most - 1)
    assert hard == most
