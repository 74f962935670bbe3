"""A link to one engine: deadlines cost what is late, not what waits; and a link that is closed takes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from serving.errors import DeadlineExceeded, EngineLost, Malformed, QueueFull, TooLarge
from serving.front.engine_link import MAX_ENDED, EngineLink
from serving.front.waiter import StreamWaiter, Waiter
from serving.tasks import get_task
from serving.tasks.base.request import Request
from serving.wire.messages import ROW_BYTES, Array, EncodedRow, Outputs, TokenDelta
from tests.serving.front.local_front import MakeFront
from tests.waiting import WAIT_SECONDS

ROW = EncodedRow(1, b"")


class Counted(float):
    """A deadline that counts how often it is looked at."""

    looks = 0

    def __le__(self, other: float) -> bool:
        Counted.looks += 1
        return float(self) <= other


def with_link(work: Callable[[EngineLink], Awaitable[Any]], run: Path) -> None:
    async def within() -> None:
        context: zmq.Context[Any] = zmq.Context()
        link = EngineLink(context, f"ipc://{run}/nobody.sock", get_task("text-classification"))
        link.share.bound(10**6)
        try:
            await work(link)
        finally:
            link.close()
            context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(within(), WAIT_SECONDS))


def test_requests_past_their_deadline_end_and_no_others(tmp_path: Path) -> None:
    async def work(link: EngineLink) -> None:
        waiters = [Waiter(2, deadline) for deadline in (3.0, 1.0, 2.0)]
        for waiter in waiters:
            link.submit([ROW, ROW], waiter)
        link.abandon_late(2.0)
        assert [waiter.done.done() for waiter in waiters] == [False, True, True]
        assert link.share.tokens == 2
        for waiter in waiters[1:]:
            with pytest.raises(DeadlineExceeded):
                await waiter.done

    with_link(work, tmp_path)


def test_a_stream_whose_tokens_come_has_no_deadline_any_more(tmp_path: Path) -> None:
    async def work(link: EngineLink) -> None:
        begun, waiting = StreamWaiter(1, 1.0), StreamWaiter(1, 1.0)
        for waiter in (begun, waiting):
            link.submit([ROW], waiter)
        begun.take(0, TokenDelta(1, b"", "", 1))
        begun.parts.get_nowait()
        link.abandon_late(2.0)
        assert begun.parts.empty()
        assert isinstance(waiting.parts.get_nowait(), DeadlineExceeded)

    with_link(work, tmp_path)


@pytest.mark.slow
def test_looking_at_deadlines_costs_what_is_late_and_not_what_waits(tmp_path: Path) -> None:
    async def work(link: EngineLink) -> None:
        for _ in range(1000):
            link.submit([ROW], Waiter(1, Counted(100.0)))
        late = Waiter(1, Counted(1.0))
        link.submit([ROW], late)
        Counted.looks = 0
        link.abandon_late(2.0)
        assert late.done.done()
        assert Counted.looks < 50
        with pytest.raises(DeadlineExceeded):
            await late.done

    with_link(work, tmp_path)


def test_requests_that_ended_are_not_held_until_their_deadline(tmp_path: Path) -> None:
    async def work(link: EngineLink) -> None:
        for _ in range(3 * MAX_ENDED):
            waiter = Waiter(1, 100.0)
            link.submit([ROW], waiter)
            link.abandon(waiter, EngineLost("nobody waits"))
            waiter.done.exception()
        staying = Waiter(1, 90.0)
        link.submit([ROW], staying)
        link.abandon_late(1.0)
        assert len(link._deadlines) <= MAX_ENDED + 2

    with_link(work, tmp_path)


def test_a_closed_link_takes_no_request(tmp_path: Path) -> None:
    async def work(link: EngineLink) -> None:
        link.close()
        with pytest.raises(EngineLost):
            link.submit([ROW], Waiter(1, 1.0))

    with_link(work, tmp_path)


def test_a_queue_is_full_by_its_bytes_too_and_has_room_again(tmp_path: Path) -> None:
    large = EncodedRow(1, bytes(400), payload=bytes(600))

    async def work(link: EngineLink) -> None:
        link.share.bound(10**6, 2 * (1000 + ROW_BYTES))
        link.share.tokens_per_second = 0.5
        waiter = Waiter(2, 100.0)
        link.submit([large, large], waiter)
        with pytest.raises(QueueFull, match="3,024 of 3,024 bytes") as full:
            link.submit([ROW], Waiter(1, 100.0))
        assert full.value.retry_seconds == 4.0
        with pytest.raises(TooLarge, match="4,536 bytes, the queue takes 3,024"):
            link.submit([large] * 3, Waiter(3, 100.0))
        link.abandon(waiter, EngineLost("nobody waits"))
        waiter.done.exception()
        assert (link.share.bytes, link.share.tokens) == (0, 0)
        link.submit([large, ROW], Waiter(2, 100.0))

    with_link(work, tmp_path)


def test_a_request_to_a_full_queue_is_refused_before_it_is_read(make_front: MakeFront, tmp_path: Path) -> None:
    read: list[object] = []

    def read_request(task: object) -> Request:
        read.append(task)
        raise Malformed("this was read")

    async def work(link: EngineLink) -> None:
        front = make_front()
        front.routing._loaded["m", "1"].accepting = [link]
        link.share.bound(640)
        link.share.tokens_per_second = 64.0
        waiter = Waiter(1, 100.0)
        link.submit([EncodedRow(631, b"")], waiter)
        with pytest.raises(QueueFull, match="631 of 640") as full:
            await front.answer("m", None, read_request, protocol="openai")
        assert full.value.retry_seconds == 631 / 64
        assert read == []
        link.abandon(waiter, EngineLost("nobody waits"))
        waiter.done.exception()
        link.submit([EncodedRow(630, b"")], Waiter(1, 100.0))
        with pytest.raises(Malformed):
            await front.answer("m", None, read_request, protocol="openai")

    with_link(work, tmp_path)


GARBAGE = {
    "no msgpack": b"\xc1",
    "another message": msgspec.msgpack.encode({"a": 1}),
    "fewer lengths than rows": msgspec.msgpack.encode(Outputs([1, 2], [1], [Array("float32", [2], bytes(8))], 0.1)),
    "no dtype": msgspec.msgpack.encode(Outputs([1], [1], [Array("nothing", [1], bytes(4))], 0.1)),
    "another shape": msgspec.msgpack.encode(Outputs([1], [1], [Array("float32", [7], bytes(4))], 0.1)),
    "fewer rows": msgspec.msgpack.encode(Outputs([1], [1], [Array("float32", [0], b"")], 0.1)),
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
def test_an_engine_that_sends_garbage_is_left_and_its_requests_go_elsewhere(tmp_path: Path, frame: bytes) -> None:
    async def work(link: EngineLink) -> None:
        waiter = Waiter(1, 1e12)
        link.submit([ROW], waiter)
        while not engine.poll(10):
            await asyncio.sleep(0)
        client, _ = engine.recv_multipart()
        engine.send_multipart([client, frame])
        with pytest.raises(EngineLost):
            await waiter.done
        assert link.is_closed

    context: zmq.Context[Any] = zmq.Context()
    engine = context.socket(zmq.ROUTER)
    engine.bind(f"ipc://{tmp_path}/nobody.sock")
    try:
        with_link(work, tmp_path)
    finally:
        context.destroy(linger=0)
