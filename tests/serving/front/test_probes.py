"""Probes and metrics when there is no room for requests: they have a bound of their own, and wait for no body."""

import asyncio
from typing import Any

import pytest

from serving.errors import Overloaded
from serving.front.connection_guard import RESERVED, ConnectionGuard
from serving.front.metrics_page import MAX_SCRAPES, MetricsPage
from tests.serving.front import attacked
from tests.serving.front.attacked import BODY, LIMITS, PATIENT, Attacked, Serve, error_type, head, sized
from tests.serving.front.local_front import MakeFront


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_probe_is_answered_without_its_body(serve: Serve, method: str) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/livez", "Content-Length: 100", method=method))
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200")
        await server.until(lambda server: server.guard.requests == 0)

    serve(work, PATIENT)


def test_probes_with_unfinished_bodies_leave_room_for_others(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        for _ in range(2 * (PATIENT.max_requests + RESERVED)):
            (await server.client()).send(head("/livez", "Content-Length: 100", method="GET"))
        assert (await server.ask(head("/livez", method="GET")))[0] == 200
        assert (await server.ask(sized("/models/m", len(BODY)) + BODY))[0] == 200

    serve(work, PATIENT)


@pytest.mark.parametrize("line", ["GET", "POST"])
def test_probes_in_progress_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await attacked.other_app(scope, receive, send)

    async def work(server: Attacked) -> None:
        holders = [await server.client() for _ in range(LIMITS.max_requests)]
        for holder in holders:
            holder.send(head("/livez", method="GET"))
        await server.until(lambda server: server.guard.requests == LIMITS.max_requests)
        if line == "GET":
            for _ in range(RESERVED):
                (await server.client()).send(head("/livez", method="GET"))
            await server.until(
                lambda server: server.guard.requests == LIMITS.max_requests + server.guard._reserved() // 2
            )
        status, headers, body = await server.ask(head("/livez", "Content-Length: 0", method=line))
        assert (status, headers[b"retry-after"], error_type(body)) == (503, b"1", "overloaded")
        release.set()
        assert (await holders[0].answer())[0] == 200
        assert (await server.ask(head("/livez", method="GET")))[0] == 200

    with monkeypatch.context() as patch:
        patch.setattr(attacked, "DataPlane", lambda front, _, make=attacked.DataPlane: make(front, slow))
        serve(work, PATIENT)


def test_scrapes_in_progress_are_bounded(make_front: MakeFront) -> None:
    async def work() -> None:
        page = MetricsPage(make_front())
        async with page._turn:
            waiting = [asyncio.create_task(page.render([])) for _ in range(MAX_SCRAPES)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await page.render([])
        for each in waiting:
            await each
        await page.render([])

    asyncio.run(work())


class Busy:
    """A connection with a request in progress."""

    is_dropped = False

    def look(self, now: float) -> None:
        """Is never overdue."""

    def waits_since(self) -> None:
        return None

    def has_unread(self) -> bool:
        return False

    def drop(self) -> None:
        self.is_dropped = True


def test_a_new_connection_is_dropped_where_all_others_are_busy() -> None:
    async def work() -> None:
        guard, loop = ConnectionGuard(LIMITS), asyncio.get_running_loop()
        room = LIMITS.max_requests + RESERVED
        connections = [Busy() for _ in range(room + 1)]
        for each in connections:
            guard.join(each, loop)
        assert [each.is_dropped for each in connections] == [False] * room + [True]
        guard.leave(connections[-1])
        guard.leave(connections[0])
        late = Busy()
        guard.join(late, loop)
        assert not late.is_dropped

    asyncio.run(work())
