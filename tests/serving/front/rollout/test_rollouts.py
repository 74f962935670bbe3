"""A front during a rollout: which version answers, what is counted, and that shadows delay no client."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from serving.errors import EngineLost, Failed, NotReady, QueueFull, Unprocessable
from serving.front.attempts import FrontAnswer
from serving.front.engine_link import EngineLink
from serving.front.front import Front
from serving.front.request_context import RequestContext
from serving.front.rollout.shadows import MAX_SHADOWS, SHADOW_SECONDS
from serving.tasks.base.agreement import Agreement
from serving.tasks.base.cost import ItemCost
from serving.wire.heartbeat import HeartbeatFile, Pulse, heartbeat_path
from serving.wire.messages import NOT_TOLD, Compute
from serving.wire.rollout_counts import RolloutCounts, ratio_bucket, read_counts, sum_counts
from serving.wire.routing_table import ModelEntry, RolloutEntry, VersionEntry
from tests.serving.front.local_front import FakeLink, Letters, MakeFront, answer, request

ROLLOUT = RolloutEntry(
    id="r", step=1, alias="champion", stable="1", candidate="2", weight=0.5, is_shadowing=False, salt="5a17"
)


class Words(Letters):
    """Answers what the engine says."""

    generates = False

    def agreement(self, one: Any, other: Any, contract: Any) -> Agreement:
        return Agreement(float(one == other))

    def is_repeatable(self, parameters: Any) -> bool:
        return True

    def answer_bytes(self, encoded: Any, parameters: Any, version: Any) -> int:
        return 1

    def cost(self, item: Any, parameters: Any, version: Any) -> Any:
        return ItemCost(1, 1)

    def wraps_single_answer(self, item: Any) -> bool:
        return False


TASK = Words()


Begin = Callable[..., Front]


@pytest.fixture
def begin(make_front: MakeFront) -> Begin:
    """Makes a front with a rollout."""

    def made(entry: RolloutEntry | None = ROLLOUT) -> Front:
        front = make_front(versions=("1", "2"), task=TASK)
        follow(front, entry)
        return front

    return made


def follow(front: Front, entry: RolloutEntry | None) -> None:
    """The front applies a table with this rollout."""
    models = {
        "m": ModelEntry(
            live="1",
            aliases={"champion": "1", "other": "1"},
            versions={"1": VersionEntry(state="ready"), "2": VersionEntry(state="ready")},
            serves={"m@champion": "1", "m@other": "1"},
            rollout=entry,
        )
    }
    front.routing.table = type(front.routing.table)(models=models, is_known=True)
    front._rollouts.follow(models)


def always(front: Front, version: str, play: Callable[[Any], None]) -> FakeLink:
    link: Any = FakeLink(play)
    link.share.bound(1000)
    front.routing._loaded["m", version].accepting = [link]
    found: FakeLink = link
    return found


def both(front: Front) -> None:
    always(front, "1", says("a"))
    always(front, "2", says("b"))


async def ask(front: Front, name: str = "m", version: str | None = None, key: bytes = b"") -> FrontAnswer[Any]:
    context = RequestContext("id", "", key)
    return await front.answer(name, version, request, protocol="huggingface", context=context)


def counted(front: Front, run: Path, step: int = 1) -> RolloutCounts:
    front._rollouts._traffic.close()
    return sum_counts(read_counts(run, "r", step), "r", step)


def says(text: str) -> Callable[[Any], None]:
    return answer([text])


def test_a_key_stays_on_its_side_and_both_sides_are_counted(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin()
        both(front)
        keys = [f"key-{number}".encode() for number in range(60)]
        first = [(await ask(front, key=key)).version for key in keys]
        assert set(first) == {"1", "2"}
        assert [(await ask(front, name="m@champion", key=key)).version for key in keys] == first
        found = counted(front, tmp_path)
        assert found.candidate.requests == 2 * first.count("2")
        assert found.stable.requests == 2 * first.count("1")
        assert sum(found.stable.times.values()) == found.stable.requests
        assert found.stable.errors == found.stable.refusals == 0

    asyncio.run(test())


def test_a_request_that_names_a_version_or_another_alias_is_not_touched(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin(changed(weight=1.0))
        both(front)
        assert (await ask(front, version="1")).version == "1"
        assert (await ask(front, name="m@other")).version == "1"
        found = await ask(front)
        assert (found.version, found.stages.side) == ("2", "candidate"), "without a key, at random"
        assert (await ask(front, version="2")).stages.side == ""
        assert counted(front, tmp_path).candidate.requests == 1

    asyncio.run(test())


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.1])
def test_of_10_000_requests_the_candidate_answers_its_share_within_1_percent(
    begin: Begin, tmp_path: Path, weight: float
) -> None:
    async def test() -> None:
        front = begin(changed(weight=weight))
        both(front)
        versions = [(await ask(front, key=f"customer-{number}".encode())).version for number in range(10_000)]
        assert abs(versions.count("2") / 10_000 - weight) < 0.01
        follow(front, changed(weight=0.0))
        assert (await ask(front, key=b"customer-0")).version == "1"
        found = counted(front, tmp_path)
        assert (found.candidate.requests, found.stable.requests) == (versions.count("2"), versions.count("1") + 1)

    asyncio.run(test())


def as_dict(entry: RolloutEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def changed(**fields: Any) -> RolloutEntry:
    return RolloutEntry(**{**as_dict(ROLLOUT), **fields})


def test_a_candidate_that_is_not_ready_gets_nothing(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin(changed(weight=1.0))
        always(front, "1", says("a"))
        assert (await ask(front)).version == "1"
        link = always(front, "2", lambda waiter: None)
        link.on_submit = lose_for_good(front)
        assert (await ask(front)).version == "1", "the engine ends with the request, and its share goes back"
        found = counted(front, tmp_path)
        assert (found.candidate.requests, found.candidate.errors) == (1, 1)
        assert (found.stable.requests, found.stable.errors) == (2, 0)

    asyncio.run(test())


def lose_for_good(front: Front) -> Callable[[Any], None]:
    def play(waiter: Any) -> None:
        front.routing._loaded["m", "2"].accepting = []
        waiter.fail(EngineLost("the engine stopped", retry_seconds=1.0, had_begun=True))

    return play


@pytest.mark.parametrize(
    ("error", "requests", "errors", "refusals"),
    [
        (Failed("it failed"), 1, 1, 0),
        (QueueFull("full", retry_seconds=1.0), 1, 0, 1),
        (NotReady("no", retry_seconds=1.0), 1, 1, 0),
        (Unprocessable("the client's mistake"), 0, 0, 0),
    ],
)
def test_failures_and_refusals_are_counted(
    begin: Begin, tmp_path: Path, error: Exception, requests: int, errors: int, refusals: int
) -> None:
    async def test() -> None:
        front = begin(changed(weight=1.0))
        always(front, "1", says("a"))
        always(front, "2", lambda waiter: waiter.fail(error))
        with pytest.raises(type(error)):
            await ask(front)
        found = counted(front, tmp_path).candidate
        assert (found.requests, found.errors, found.refusals, found.times) == (requests, errors, refusals, {})

    asyncio.run(test())


def test_each_step_is_counted_by_itself(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin()
        both(front)
        await ask(front)
        follow(front, changed(step=2))
        await ask(front)
        await ask(front)
        follow(front, None)
        assert (await ask(front)).version == "1"
        totals = [counted(front, tmp_path, step) for step in (1, 2)]
        assert [total.stable.requests + total.candidate.requests for total in totals] == [1, 2]

    asyncio.run(test())


SHADOWING = changed(step=0, weight=0.0, is_shadowing=True)


async def settle(front: Front) -> None:
    """Until every shadow has ended."""
    await asyncio.gather(*front._rollouts._shadows._running)


def test_shadows_are_compared_and_clients_get_the_stable_answer(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin(SHADOWING)
        always(front, "1", says("a"))
        replies = iter(("a", "b", "a"))
        always(front, "2", lambda waiter: says(next(replies))(waiter))
        for _ in range(3):
            assert (await ask(front)).version == "1"
            await settle(front)
        found = counted(front, tmp_path, 0)
        assert (found.compared, found.agreement, found.failed, found.dropped) == (3, 2.0, 0, 0)
        assert found.candidate.requests == 0, "no client was answered by it"

    asyncio.run(test())


def computes(compute: Compute, text: str = "a") -> Callable[[Any], None]:
    """An engine that tells what the pass took."""

    def play(waiter: Any) -> None:
        waiter.computed.add(compute, 8)
        says(text)(waiter)

    return play


def test_how_much_longer_the_candidate_computes_is_counted_once_a_pass(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin(SHADOWING)
        always(front, "1", computes(Compute(1.0, 8, 64)))
        shared, alone = Compute(3.1, 8, 64), Compute(1.0, 8, 64)
        passes = iter((shared, shared, alone, NOT_TOLD))
        always(front, "2", lambda waiter: computes(next(passes))(waiter))
        for _ in range(4):
            await ask(front)
            await settle(front)
        found = counted(front, tmp_path, 0)
        assert found.compared == 4
        assert found.slowness == {ratio_bucket(3.1): 1, ratio_bucket(1.0): 1}

    asyncio.run(test())


@pytest.mark.parametrize(
    ("error", "failed", "dropped"),
    [
        (Failed("it failed"), 1, 0),
        (EngineLost("the engine ended while it computed the shadow", had_begun=True), 1, 0),
        (EngineLost("the engine left before", had_begun=False), 0, 1),
        (QueueFull("full", retry_seconds=1.0), 0, 1),
    ],
)
def test_a_shadow_that_the_candidate_cannot_answer_agrees_in_nothing(
    begin: Begin, tmp_path: Path, error: Exception, failed: int, dropped: int
) -> None:
    async def test() -> None:
        front = begin(SHADOWING)
        always(front, "1", says("a"))
        always(front, "2", lambda waiter: waiter.fail(error))
        assert (await ask(front)).value == ["a"]
        await settle(front)
        found = counted(front, tmp_path, 0)
        assert (found.compared, found.failed, found.dropped) == (0, failed, dropped)

    asyncio.run(test())


def test_a_shadow_that_the_engine_hangs_at_until_it_is_killed_agrees_in_nothing(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front, context = begin(SHADOWING), zmq.Context[Any]()
        always(front, "1", says("a"))
        link = EngineLink(context, f"ipc://{tmp_path}/2.sock", TASK, pid=7)
        link.share.bound(1000)
        front.routing._loaded["m", "2"].accepting = [link]
        await ask(front)
        await asyncio.sleep(0)
        assert link.rows_sent == 1
        file = HeartbeatFile(heartbeat_path(link.address, 7))
        file.write(Pulse(1, 0.0), {link._identity: [1]})
        link.abandon_late(time.monotonic() + 2 * SHADOW_SECONDS)
        link.close()
        await settle(front)
        found = counted(front, tmp_path, 0)
        assert (found.failed, found.dropped) == (1, 0)
        file.close()
        context.destroy(linger=0)

    asyncio.run(test())


def test_shadows_are_dropped_first(begin: Begin, tmp_path: Path) -> None:
    async def test() -> None:
        front = begin(SHADOWING)
        stable, candidate = always(front, "1", says("a")), always(front, "2", lambda waiter: None)
        for _ in range(MAX_SHADOWS + 2):
            await ask(front)
        assert len(candidate.waiters) == 0, "none begins before its client has the answer"
        await asyncio.sleep(0)
        assert len(candidate.waiters) == MAX_SHADOWS
        stable.share.tokens = 501
        await ask(front)
        assert len(front._rollouts._shadows._running) == MAX_SHADOWS
        await front._rollouts.close()
        assert set(candidate.abandoned) == set(candidate.waiters)
        assert sum_counts(read_counts(tmp_path, "r", 0), "r", 0).dropped == 3

    asyncio.run(test())
