"""How a request ends: counted and logged once, whichever way; and sent to another engine when one is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from monitoring.merge import Merge
from serving.errors import ClientGone, EngineLost, Failed, NotReady, ServingError
from serving.front.front import Front
from serving.front.protocols.openai_forms import gather
from serving.front.request_context import RequestContext
from serving.front.request_tracker import MAX_CRASHES
from serving.front.text_stream import TextStream
from serving.runtime.instruments import instruments
from serving.tasks.base.request import Request
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.serving.front.local_front import MakeFront, answer, engines, lose, request, write
from tests.waiting import WAIT_SECONDS

CONTEXT = RequestContext("the-id")


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work(), WAIT_SECONDS)

    return asyncio.run(within())


def ended(status: int, *, version: str = "1", protocol: str = "openai") -> float:
    """How many requests of the model ended with this status."""
    labels = ("m", version, "text-generation", protocol, str(status))
    values = Merge(instruments().store.folder).read().get(("request_duration_seconds", labels), [0.0])
    return sum(values[1:])  # the first is the sum of seconds, the others count what fell into each bucket


def in_progress(version: str = "1") -> float:
    found = Merge(instruments().store.folder).read()
    values = found.get(("requests_in_progress", ("m", version, "text-generation")), [0.0])
    return float(values[0])


def open_stream(front: Front, read: Any = request) -> Awaitable[TextStream]:
    return front.stream("m", None, read, protocol="openai", context=CONTEXT)


def ask(front: Front, **given: Any) -> Awaitable[Any]:
    return front.answer("m", None, given.pop("read", request), protocol="openai", context=CONTEXT, **given)


async def text_of(stream: TextStream) -> str:
    async with stream:
        return "".join([delta.text async for delta in stream])


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)
    return caplog


def broken(task: Any) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("way", [ask, open_stream])
def test_a_bug_is_counted_and_logged_whether_the_answer_is_whole_or_a_stream(
    way: Callable[..., Awaitable[Any]], make_front: MakeFront, logged: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        front = make_front()
        engines(front, "1")
        with pytest.raises(ZeroDivisionError):
            await way(front, read=broken)

    before = ended(500)
    run(work)
    assert ended(500) == before + 1
    assert in_progress() == 0
    (record,) = logged.records
    assert record.fields["request_id"] == "the-id"  # type: ignore[attr-defined]
    assert record.fields["status"] == 500  # type: ignore[attr-defined]


def test_a_bug_while_a_stream_is_read_is_no_client_that_left(
    make_front: MakeFront, logged: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", write("abc", end=True))

        async def fail_after_one() -> None:
            async with await open_stream(front) as stream:
                await anext(stream)
                raise ZeroDivisionError("a bug")

        with pytest.raises(ZeroDivisionError):
            await fail_after_one()
        assert link.abandoned == link.waiters

    before, left = ended(500), ended(499)
    run(work)
    assert (ended(500), ended(499)) == (before + 1, left)
    assert in_progress() == 0
    assert [record.fields["status"] for record in logged.records] == [500]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_cancelled_request_counts_as_a_client_that_left(is_stream: bool, make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", lambda waiter: task.cancel() and None)

        async def wait() -> None:
            await (text_of(await open_stream(front)) if is_stream else ask(front))

        task = asyncio.create_task(wait())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert link.abandoned == link.waiters

    before = ended(499)
    run(work)
    assert ended(499) == before + 1
    assert in_progress() == 0


def test_a_stream_whose_engine_is_lost_before_the_first_token_goes_on_at_another(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        engines(front, "1", lose, write("abc"))
        stream = await open_stream(front)
        await stream.start()
        assert await text_of(stream) == "abc"
        assert stream.usage.generated_tokens == 3

    before = ended(200)
    run(work)
    assert ended(200) == before + 1
    assert in_progress() == 0


def test_a_stream_that_begins_again_is_written_by_what_is_live_by_then(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front(versions=("1", "2"))

        def lose_and_move(waiter: Any) -> None:
            lose(waiter)
            found = {version: VersionEntry(state="ready") for version in ("1", "2")}
            front.routing.table = Table(models={"m": ModelEntry(live="2", aliases={}, versions=found)})

        engines(front, "1", lose_and_move)
        engines(front, "2", write("xyz"))
        stream = await open_stream(front)
        await stream.start()
        assert stream.version == "2"
        assert await text_of(stream) == "xyz"

    before = ended(200, version="2")
    run(work)
    assert ended(200, version="2") == before + 1
    assert (in_progress("1"), in_progress("2")) == (0, 0)


def test_a_stream_that_has_begun_ends_with_its_engine(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", write("ab", end=False), write("abc"))
        stream = await open_stream(front)
        assert (await anext(stream)).text == "a"
        with pytest.raises(EngineLost) as caught:
            await text_of(stream)
        assert caught.value.version == "1"
        assert len(link.waiters) == 1

    before = ended(503)
    run(work)
    assert ended(503) == before + 1


def test_a_text_that_is_collected_begins_again_whenever_its_engine_is_lost(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        engines(front, "1", write("xy", end=False), write("abc"))
        async with await open_stream(front) as stream:
            assert [text.text for text in await gather(stream)] == ["abc"]

    before = ended(200)
    run(work)
    assert ended(200) == before + 1


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_that_may_end_engines_is_sent_to_so_many_and_no_more(is_stream: bool, make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", *[lose] * 10)
        with pytest.raises(Failed) as caught:
            await (text_of(await open_stream(front)) if is_stream else ask(front))
        assert caught.value.version == "1"
        assert len(link.waiters) == MAX_CRASHES

    before = ended(500)
    run(work)
    assert ended(500) == before + 1
    assert in_progress() == 0


def test_an_answer_comes_from_the_engine_that_was_not_lost(make_front: MakeFront) -> None:
    async def work() -> Any:
        front = make_front()
        engines(front, "1", lose, answer("whole"))
        return await ask(front)

    found = run(work)
    assert (found.value, found.version) == ("whole", "1")
    assert found.stages.tokens == len("a text")


def test_a_client_that_leaves_while_it_waits_is_noticed(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", lambda waiter: None)
        await front.start()
        left = asyncio.Event()
        left.set()
        with pytest.raises(ClientGone):
            await ask(front, disconnected=left.wait)
        assert link.abandoned == link.waiters
        await front.stop()

    run(work)


def test_a_fault_of_the_engine_reaches_the_client_with_the_version(make_front: MakeFront) -> None:
    async def work() -> ServingError:
        front = make_front()
        engines(front, "1", lambda waiter: waiter.fail(Failed("broken")))
        with pytest.raises(Failed) as caught:
            await ask(front)
        return caught.value

    assert run(work).version == "1"


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_whose_version_leaves_while_it_is_read_goes_to_its_successor(
    is_stream: bool, make_front: MakeFront
) -> None:
    async def work() -> None:
        front = make_front(versions=("1", "2"))

        def read(task: Any) -> Request:
            front.routing._loaded["m", "1"].accepting = []
            found = {version: VersionEntry(state="ready") for version in ("1", "2")}
            front.routing.table = Table(models={"m": ModelEntry(live="2", aliases={}, versions=found)})
            return request(task)

        left = engines(front, "1")
        engines(front, "2", write("xyz"))
        if is_stream:
            stream = await front.stream("m", None, read, protocol="openai")
            assert (stream.version, await text_of(stream)) == ("2", "xyz")
        else:
            assert (await front.answer("m", None, read, protocol="openai")).version == "2"
        assert left.waiters == []

    before = ended(503)
    run(work)
    assert ended(503) == before
    assert (in_progress("1"), in_progress("2")) == (0, 0)


def test_a_request_whose_version_leaves_without_a_successor_is_told_so(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()

        def read(task: Any) -> Request:
            front.routing._loaded["m", "1"].accepting = []
            return request(task)

        engines(front, "1")
        with pytest.raises(NotReady, match="it is leaving or being restarted"):
            await front.answer("m", None, read, protocol="openai")

    before = ended(503)
    run(work)
    assert ended(503) == before + 1
