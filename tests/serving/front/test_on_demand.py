"""Requests for a version that is served and not loaded: they wait until it is, and the manager is told."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ClientGone, NotLoaded, NotReady
from serving.front.front import Front
from serving.wire.demand import DemandReader
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from serving.wire.version_state import State
from tests.contracts import classifier
from tests.serving.front.local_front import MakeFront, answer, engines, request
from tests.waiting import WAIT_SECONDS

KEY = ("m", "1")
CONTRACT = classifier(max_tokens=8)


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


def publish(front: Front, state: State, load_seconds: float = 0.0) -> None:
    """Apply a table in which the version is in this state, without an engine."""
    on_demand = state in ("unloaded", "draining", "loading")
    for loaded in front.routing._loaded.values():
        loaded.contract = CONTRACT
    entry = VersionEntry(state=state, on_demand=on_demand, load_seconds=load_seconds)
    front.routing._apply(
        Table(models={"m": ModelEntry(live="1", aliases={}, serves={"m@x": "1"}, versions={"1": entry})})
    )


def come(front: Front) -> None:
    """The version is loaded, and its engine answers."""
    loaded = front.routing._loaded[KEY]
    publish(front, "ready")
    front.routing._loaded[KEY] = loaded
    engines(front, "1", *[answer("whole")] * 10)
    front.routing.demand.wake([])


def told(front: Front, run_folder: Path) -> DemandReader:
    """What the manager reads."""
    now = time.monotonic()
    front.routing.tell_demand(now)
    reader = DemandReader(run_folder)
    reader.read(now)
    return reader


@pytest.mark.parametrize("state", ["unloaded", "draining", "loading"])
def test_a_request_waits_until_its_version_is_loaded(make_front: MakeFront, tmp_path: Path, state: State) -> None:
    async def work() -> Any:
        front = make_front()
        loaded = front.routing._loaded[KEY]
        publish(front, state)
        before, asked = time.monotonic(), ask(front)
        await turns()
        assert not asked.done()
        reader = told(front, tmp_path)
        assert reader.has_work(KEY)
        assert reader.asked_at(KEY) >= before
        publish(front, "loading")
        await turns()
        assert not asked.done()
        front.routing._loaded[KEY] = loaded
        come(front)
        return (await asked).value

    assert run(work) == "whole"


def test_a_version_that_is_not_loaded_takes_requests(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        publish(front, "unloaded")
        assert front.routing.answers("m")
        assert front.may_stream("m"), "it is not known yet whether it writes texts"
        front.routing.note_unserved(1.0)
        assert front.routing.unserved_seconds(100.0) == 0.0
        with pytest.raises(NotLoaded, match="m/1 is not loaded, it is loaded on demand"):
            front.models.find("m", None)

    run(work)


def test_a_deadline_before_the_version_can_be_loaded_is_refused_at_once_and_it_is_loaded(
    make_front: MakeFront, tmp_path: Path
) -> None:
    async def work() -> None:
        front = make_front(timeout_seconds=5.0)
        publish(front, "unloaded", load_seconds=7.0)
        with pytest.raises(NotReady, match="in about 7.0 s") as refused:
            await ask(front)
        assert (refused.value.status, refused.value.retry_seconds) == (503, 7.0)
        reader = told(front, tmp_path)
        assert reader.asked_at(KEY) > 0
        assert not reader.has_work(KEY)

    run(work)


def test_a_request_ends_at_its_deadline(make_front: MakeFront, tmp_path: Path) -> None:
    async def work() -> None:
        front = make_front(timeout_seconds=0.05)
        publish(front, "unloaded")
        with pytest.raises(NotReady, match="try again later") as refused:
            await ask(front)
        assert refused.value.status == 503
        assert refused.value.retry_seconds
        assert not told(front, tmp_path).has_work(KEY)

    run(work)


def test_a_request_whose_client_leaves_waits_no_more(make_front: MakeFront, tmp_path: Path) -> None:
    async def work() -> None:
        front, left = make_front(), asyncio.Event()
        publish(front, "unloaded")
        asked = ask(front, disconnected=left.wait)
        await turns()
        left.set()
        with pytest.raises(ClientGone):
            await asked
        assert not told(front, tmp_path).has_work(KEY)

    run(work)


def test_a_version_that_could_not_be_loaded_is_refused(make_front: MakeFront) -> None:
    async def work() -> None:
        front = make_front()
        publish(front, "unloaded")
        asked = ask(front)
        await turns()
        publish(front, "failed")
        with pytest.raises(NotReady, match="could not be loaded"):
            await asked

    run(work)


def test_what_is_loaded_is_told_with_its_last_use_and_its_work(make_front: MakeFront, tmp_path: Path) -> None:
    async def work() -> None:
        front = make_front()
        link = engines(front, "1", lambda waiter: None, answer("whole"))
        before = time.monotonic()
        asked = ask(front)
        await turns()
        loaded = front.routing._loaded[KEY]
        loaded.links["x"] = link  # type: ignore[assignment]
        link.share.tokens = 5
        reader = told(front, tmp_path)
        assert reader.asked_at(KEY) >= before
        assert reader.has_work(KEY)
        asked.cancel()

    run(work)
