"""While an engine is replaced, requests of its version are held: in the queue's bounds, and no longer than they may."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ClientGone, DeadlineExceeded, EngineLost, Failed, NotReady, QueueFull, ServingError, TooLarge
from serving.front.engine_link import EngineLink
from serving.front.front import Front
from serving.front.loaded_version import LoadedVersion
from serving.front.request_tracker import MAX_CRASHES
from serving.front.waiter import Waiter
from serving.wire.heartbeat import HeartbeatFile, Pulse, heartbeat_path
from serving.wire.messages import EncodedRow
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, TableFile, VersionEntry
from serving.wire.version_state import State
from tests.contracts import classifier
from tests.serving.front.local_front import FakeLink, MakeFront, answer, engines, lose, request, write
from tests.waiting import WAIT_SECONDS

TOKENS = len("a text")
NOT_BEGUN = EngineLost("the engine stopped", retry_seconds=1.0, had_begun=False)


def lose_unbegun(waiter: Waiter) -> None:
    """The engine ends while the request is in its queue."""
    waiter.fail(NOT_BEGUN)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work(), WAIT_SECONDS)

    return asyncio.run(within())


def ask(front: Front, **given: Any) -> "asyncio.Task[Any]":
    return asyncio.create_task(front.answer("m", None, request, protocol="openai", **given))  # type: ignore[arg-type]


async def turns(count: int = 20) -> None:
    """Let other tasks run for `count` turns of the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def waiting_for_engine(front: Front, version: str = "1", bound: int = 10 * TOKENS) -> LoadedVersion:
    """The version, whose engine is being replaced."""
    loaded = front.routing._loaded["m", version]
    loaded.is_replaced = True
    loaded.held.share.bound(bound)
    return loaded


def come(front: Front, *plays: Any, version: str = "1") -> FakeLink:
    """Its engine is there, and plays these parts."""
    link = engines(front, version, *plays)
    front.routing._loaded["m", version].held.release()
    return link


def test_a_request_waits_for_the_engine_that_comes(make_front: MakeFront) -> None:
    async def work() -> Any:
        front = make_front()
        waiting_for_engine(front)
        asked = ask(front)
        await turns()
        assert not asked.done()
        come(front, answer("whole"))
        return (await asked).value

    assert run(work) == "whole"


def test_held_requests_come_in_the_order_of_their_arrival(make_front: MakeFront) -> None:
    async def work() -> list[int]:
        front = make_front()
        waiting_for_engine(front)
        asked = []
        for _ in range(5):
            asked.append(ask(front))
            await turns()
        order: list[int] = []
        come(
            front,
            *[lambda waiter, number=number: (order.append(number), answer(number)(waiter)) for number in range(5)],
        )
        assert [(await each).value for each in asked] == list(range(5))
        return order

    assert run(work) == list(range(5))


def test_a_stream_waits_for_the_engine_that_comes(make_front: MakeFront) -> None:
    async def work() -> str:
        front = make_front()
        waiting_for_engine(front)
        opening = asyncio.create_task(front.stream("m", None, request, protocol="openai"))  # type: ignore[arg-type]
        await turns()
        assert not opening.done()
        come(front, write("abc"))
        async with await opening as stream:
            return "".join([delta.text async for delta in stream])

    assert run(work) == "abc"


def test_what_is_held_has_the_bounds_of_the_queue(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        loaded = waiting_for_engine(front, bound=TOKENS - 1)
        with pytest.raises(TooLarge):
            await ask(front)
        loaded.held.share.bound(2 * TOKENS)
        loaded.held.share.tokens_per_second = TOKENS / 3.0
        held = [ask(front), ask(front)]
        await turns()
        with pytest.raises(QueueFull) as refused:
            await ask(front)
        assert refused.value.retry_seconds == 6.0
        held[0].cancel()
        await turns()
        another = ask(front)
        await turns()
        assert not another.done(), "there is room again"
        come(front, answer(1), answer(2))
        assert {(await held[1]).value, (await another).value} == {1, 2}

    run(work)


def test_a_held_request_ends_at_its_deadline(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front(timeout_seconds=0.05)
        loaded = waiting_for_engine(front)
        with pytest.raises(DeadlineExceeded):
            await ask(front)
        assert not loaded.held._waiting
        assert (loaded.held.share.tokens, loaded.held.share.bytes) == (0, 0)

    run(work)


def test_a_held_request_whose_client_leaves_is_held_no_more(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        loaded, left = waiting_for_engine(front), asyncio.Event()
        asked = ask(front, disconnected=left.wait)
        await turns()
        left.set()
        with pytest.raises(ClientGone):
            await asked
        assert (loaded.held.share.tokens, loaded.held.share.bytes) == (0, 0)

    run(work)


def test_a_connection_that_cannot_be_watched_is_held_all_the_same(make_front: MakeFront) -> None:
    async def broken() -> None:
        raise OSError("the connection cannot be watched")

    async def work() -> Any:
        front = make_front()
        waiting_for_engine(front)
        asked = ask(front, disconnected=broken)
        await turns()
        come(front, answer("whole"))
        return (await asked).value

    assert run(work) == "whole"


def test_a_held_request_asks_what_is_live_once_its_version_has_left(make_front: MakeFront) -> None:
    async def work() -> Any:
        front = make_front(versions=("1", "2"))
        loaded = waiting_for_engine(front)
        asked = ask(front)
        await turns()
        engines(front, "2", answer("other"))
        found: dict[str, VersionEntry] = {"2": VersionEntry(state="ready")}
        front.routing.table = Table(models={"m": ModelEntry(live="2", aliases={}, versions=found)})
        loaded.is_replaced = False
        loaded.held.give_up()
        found_answer = await asked
        return found_answer.value, found_answer.version

    assert run(work) == ("other", "2")


def test_a_version_that_leaves_holds_nothing(make_front: MakeFront) -> None:
    async def work() -> None:
        with pytest.raises(NotReady, match="no engine of m/1 takes requests"):
            await ask(make_front())

    run(work)


def test_a_request_that_two_engines_were_computing_when_they_ended_is_not_tried_again(make_front: MakeFront) -> None:
    async def work() -> FakeLink:
        front = make_front()
        link = engines(front, "1", *[lose] * 10)
        with pytest.raises(Failed, match="2 engines ended while they computed this request"):
            await ask(front)
        return link

    assert len(run(work).waiters) == MAX_CRASHES == 2


def test_a_request_that_no_engine_had_begun_is_tried_again(make_front: MakeFront) -> None:
    async def work() -> Any:
        front = make_front()
        engines(front, "1", *[lose_unbegun] * 5, answer("whole"))
        return (await ask(front)).value

    assert run(work) == "whole"


def test_a_request_that_cannot_be_held_is_refused_before_it_is_read(make_front: MakeFront) -> None:
    def read(task: object) -> Any:
        raise AssertionError("it was read")

    async def work() -> None:
        front = make_front()
        waiting_for_engine(front, bound=TOKENS)
        held = ask(front)
        await turns()
        with pytest.raises(QueueFull):
            await front.answer("m", None, read, protocol="openai")
        come(front, answer("whole"))
        assert (await held).value == "whole"

    run(work)


class Rows(FakeLink):
    """Keeps the rows that it is sent."""

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        self.rows = [*getattr(self, "rows", []), *rows]
        super().submit(rows, waiter)


def test_what_an_engine_was_computing_when_it_ended_is_computed_alone(make_front: MakeFront) -> None:
    async def work() -> list[bool]:
        front = make_front()
        plays = iter([lose_unbegun, lose, answer("whole")])
        link: Any = Rows(lambda waiter: next(plays)(waiter))
        front.routing._loaded["m", "1"].accepting = [link]
        await ask(front)
        return [row.is_suspect for row in link.rows]

    assert run(work) == [False, False, True]


ROW = EncodedRow(4, b"")
CONTRACT = classifier(max_tokens=8)


def entry(run_folder: Path, pid: int) -> EngineEntry:
    address = f"ipc://{run_folder}/1.sock"
    return EngineEntry(address=address, pid=pid, accepting=True, device="cpu", tokens_per_second=100.0)


def publish(front: Front, state: State, *found: EngineEntry) -> None:
    versions = {"1": VersionEntry(state=state, engines=found, contract=CONTRACT)}
    TableFile(front.settings.run).write(Table(models={"m": ModelEntry(live="1", aliases={}, versions=versions)}))


async def lost(waiter: Waiter) -> bool:
    """Whether the engine had begun the request that it took with it."""
    with pytest.raises(EngineLost) as raised:
        await waiter.done
    return raised.value.had_begun


def test_links_follow_the_process_and_not_only_the_address_and_know_what_it_had_begun(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        loaded = front.routing._loaded["m", "1"]
        loaded.contract = CONTRACT
        publish(front, "ready", entry(front.settings.run, 7))
        await front.routing.catch_up()
        first: EngineLink = loaded.accepting[0]
        waiters = [Waiter(1, time.monotonic() + 60) for _ in range(2)]
        for waiter in waiters:
            first.submit([ROW], waiter)
        file = HeartbeatFile(heartbeat_path(first.address, 7))
        file.write(Pulse(1, 0.0), {first._identity: waiters[0].ids, b"another front": waiters[1].ids})
        publish(front, "ready", entry(front.settings.run, 8))
        await front.routing.catch_up()
        assert loaded.accepting == list(loaded.links.values())
        assert loaded.accepting != [first]
        assert [await lost(waiter) for waiter in waiters] == [True, False]
        untold = Waiter(1, time.monotonic() + 60)
        loaded.accepting[0].submit([ROW], untold)
        publish(front, "ready")
        await front.routing.catch_up()
        assert await lost(untold), "an engine that left no heartbeat may have begun it"
        assert (loaded.links, loaded.accepting) == ({}, [])
        assert front.routing._loaded["m", "1"] is loaded, "requests are held for its next engine"
        assert loaded.held.share.bound_tokens > 1
        file.close()
        front.routing.close()

    run(work)


@pytest.mark.parametrize(("state", "is_held"), [("ready", True), ("failed", False), ("draining", False)])
def test_requests_are_held_for_an_engine_that_will_come_and_for_no_other(
    make_front: MakeFront, state: State, is_held: bool
) -> None:
    async def work() -> None:
        front = make_front()
        loaded = front.routing._loaded["m", "1"]
        loaded.contract = CONTRACT
        publish(front, "ready", entry(front.settings.run, 7))
        await front.routing.catch_up()
        publish(front, "ready")
        await front.routing.catch_up()
        held = asyncio.create_task(loaded.held.wait([ROW], time.monotonic() + 60, None))
        await turns()
        publish(front, state)
        await front.routing.catch_up()
        await turns()
        assert held.done() != is_held
        if is_held:
            publish(front, "ready", entry(front.settings.run, 8))
            await front.routing.catch_up()
            await held
        else:
            with pytest.raises(EngineLost) as raised:
                await held
            assert not raised.value.had_begun
            with pytest.raises(ServingError):
                front.models.find("m", None).choose_link()
        front.routing.close()

    run(work)
