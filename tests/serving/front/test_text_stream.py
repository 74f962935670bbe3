"""Streams through the real front and engine: what comes, how it ends, what a request may ask for."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitoring.merge import Merge
from registry.cache import fetch
from registry.contract import Contract
from registry.flavor import log_model
from registry.heads import get_head
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.generation.prefix_cache import BLOCK_TOKENS
from serving.engine.recheck import Recheck
from serving.errors import ClientGone, EngineLost, Failed, ServingError, TooLarge, Unprocessable
from serving.front.access import Visit
from serving.front.text_stream import TextDelta, TextStream
from serving.manager.managed_version import WRITING_SECONDS, ManagedVersion
from serving.runtime.instruments import instruments
from serving.runtime.key_file import AccessKey
from tests import local as local_module
from tests.families import build
from tests.gate import gated
from tests.local import Local
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.surroundings, pytest.mark.slow]

PROMPT = "the quick brown fox"


def make_local(folder: Path, family: str, task: str) -> Local:
    """A tiny model of a family, logged and served."""
    home = folder / "home"
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    logged = log_model(
        build(folder / "saved", family, get_head(task).auto_class), task=task, name="m", settings=registry
    )
    root, _ = fetch(Versions(registry).resolve(Reference("m", version=logged.version)), registry)
    run = folder / "r"
    run.mkdir()
    return Local(root, run)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    return make_local(tmp_path_factory.mktemp("s"), "gpt2", "text-generation")


async def read(stream: TextStream) -> list[TextDelta]:
    async with stream:
        return [delta async for delta in stream]


def body(inputs: Any = PROMPT, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": {"max_new_tokens": 12, **parameters}}


def run(local: Local, *bodies: dict[str, Any]) -> list[tuple[list[TextDelta], TextStream]]:
    """The deltas of streams that run together."""

    async def ask() -> list[tuple[list[TextDelta], TextStream]]:
        async with local.running() as front:
            streams = [await local.stream(front, each) for each in bodies]
            return list(zip(await asyncio.gather(*map(read, streams)), streams, strict=True))

    return asyncio.run(ask())


def test_the_pieces_of_a_stream_are_the_whole_answer(local: Local) -> None:
    (answer,) = local.answers([body()])
    ((deltas, stream),) = run(local, body())
    assert "".join(delta.text for delta in deltas) == answer[0]["generated_text"]
    assert [delta.finish_reason for delta in deltas][-1] == "length"
    assert not any(delta.finish for delta in deltas[:-1])
    assert sum(len(delta.token_ids) for delta in deltas) == stream.usage.generated_tokens == 12
    assert stream.usage.prompt_tokens > 0
    assert stream.version == "1"


def test_each_text_of_a_request_is_told_apart(local: Local) -> None:
    ((deltas, stream),) = run(local, body([PROMPT, "a lazy dog"], n=2, seed=3))
    texts = ["".join(delta.text for delta in deltas if delta.index == index) for index in range(4)]
    (answer,) = local.answers([body([PROMPT, "a lazy dog"], n=2, seed=3)])
    assert [[entry["generated_text"] for entry in each] for each in answer] == [texts[:2], texts[2:]]
    assert texts[0] != texts[1]
    assert stream.usage.generated_tokens == 48


def test_a_stop_string_ends_the_text_and_does_not_show(local: Local) -> None:
    (answer,) = local.answers([body()])
    text = answer[0]["generated_text"]
    stop = text[5:8]
    ((deltas, stream),) = run(local, body(stop=[stop], details=True))
    assert "".join(delta.text for delta in deltas) == text[: text.index(stop)]
    assert (deltas[-1].finish, deltas[-1].finish_reason) == ("stop_sequence", "stop")
    (whole,) = local.answers([body(stop=[stop], details=True)])
    assert whole[0]["generated_text"] == text[: text.index(stop)]
    assert whole[0]["details"]["finish_reason"] == "stop_sequence"
    assert stream.usage.generated_tokens == whole[0]["details"]["generated_tokens"] < 12


def test_scores_come_with_the_tokens(local: Local) -> None:
    ((deltas, _),) = run(local, body(logprobs=3))
    for delta in deltas:
        for score in delta.logprobs:
            assert score.logprob <= 0
            assert score.top[0][0] == score.id, "a greedy token is the likeliest"
            assert len(score.top) == 3
    assert [score.id for delta in deltas for score in delta.logprobs] == [id_ for p in deltas for id_ in p.token_ids]
    (whole,) = local.answers([body(top_n_tokens=3, details=True)])
    details = whole[0]["details"]
    assert [token["id"] for token in details["tokens"]] == [id_ for delta in deltas for id_ in delta.token_ids]
    assert [len(top) for top in details["top_tokens"]] == [3] * 12


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_new_tokens": 3000}, "at most 2,048"),
        ({"max_new_tokens": 320}, "takes 320 tokens, the prompt included"),
        ({"n": 17}, "parameters.n"),
        ({"temperature": 0}, "parameters.temperature"),
        ({"stop": [""]}, "parameters.stop"),
        ({"logprobs": 21}, "parameters.logprobs"),
        ({"do_sample": False, "top_p": 0.5}, "top_p needs do_sample"),
        ({"n": 2, "num_return_sequences": 3}, "two names"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_break_a_rule_are_refused_before_anything_is_written(
    local: Local, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(Unprocessable, match=says):
        run(local, body(**parameters))


def test_the_queue_counts_what_a_request_may_come_to(local: Local) -> None:
    async def ask() -> None:
        async with local.running() as front:
            link = front.models.find("m", None).choose_link()
            link.share.bound(100)
            with pytest.raises(TooLarge, match="the queue takes 100"):
                await local.stream(front, body(max_new_tokens=200))
            stream = await local.stream(front, body(max_new_tokens=80))
            with pytest.raises(ServingError, match="full"):
                await local.stream(front, body(max_new_tokens=80))
            await stream.close()
            assert link.share.tokens == 0

    asyncio.run(ask())


def counted(name: str) -> float:
    """A metric of the model, now."""
    values: list[float] = Merge(instruments().store.folder).read().get((name, ("m", "1", "text-generation")), [0.0])
    return values[0]


def test_a_client_that_leaves_frees_its_place_at_once(local: Local) -> None:
    async def ask() -> None:
        async with local.running() as front:
            left = asyncio.Event()
            before = counted("generated_tokens_total")
            streams = [await local.stream(front, body(max_new_tokens=300, seed=seed)) for seed in (1, 2)]
            streams.append(await local.stream(front, body(max_new_tokens=300, seed=3), disconnected=left.wait))
            gate.allow(290)  # none of them has ended when its client leaves
            for stream in streams:
                for _ in range(3):
                    await anext(stream)
            await streams[0].close()
            left.set()
            with pytest.raises(ClientGone):
                async for _ in streams[2]:
                    pass
            await streams[1].close()
            gate.open()
            while counted("running_rows") or counted("cache_used_tokens"):
                await asyncio.sleep(0.001)
            assert counted("generated_tokens_total") - before < 900
            assert front.models.find("m", None).choose_link().share.tokens == 0

    with gated(local.model.scheduler.decoder) as gate:
        asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))


def test_what_is_written_is_counted(local: Local) -> None:
    names = ("prompt_tokens_total", "generated_tokens_total")
    before = {name: counted(name) for name in names}
    ((_, stream),) = run(local, body([PROMPT, "a dog"], max_new_tokens=9))
    assert counted("generated_tokens_total") - before["generated_tokens_total"] == 18
    assert counted("prompt_tokens_total") - before["prompt_tokens_total"] == stream.usage.prompt_tokens
    assert counted("cache_limit_tokens") > 0
    assert counted("time_to_first_token_seconds") > 0
    assert counted("time_per_output_token_seconds") > 0


def test_a_prompt_that_begins_as_an_earlier_one_is_counted_as_known(local: Local) -> None:
    prompt = " ".join([PROMPT] * 20)
    counts = []
    for texts in (1, 2):
        before = counted("reused_prompt_tokens_total")
        ((_, stream),) = run(local, body(f"{prompt} {texts}", max_new_tokens=2, n=texts))
        counts.append((stream.usage.reused_tokens, counted("reused_prompt_tokens_total") - before))
    assert counts[0] == (0, 0)
    known, of_both = counts[1]
    assert 0 < stream.usage.prompt_tokens - known < 2 * BLOCK_TOKENS
    assert of_both == 2 * known, "it is counted once for the request, and for each text that it saved"


def test_what_a_prompt_of_one_key_began_with_is_unknown_to_another(local: Local) -> None:
    async def ask() -> list[int]:
        known = []
        async with local.running() as front:
            front.access.is_open = False
            for name in ("a", "b", "a"):
                Visit(AccessKey(name=name, sha256="0" * 64)).begin()
                stream = await local.stream(front, body(" ".join(["over a lazy dog"] * 20), max_new_tokens=2))
                await read(stream)
                known.append(stream.usage.reused_tokens)
        return known

    first, other, again = asyncio.run(ask())
    assert (first, other) == (0, 0)
    assert again > 0


def test_a_fault_in_the_middle_of_a_stream_ends_it_with_an_error_and_others_go_on(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = local.model.scheduler.decoder
    step, seen = decoder.step, []

    def fail(tokens: Any) -> Any:
        seen.append(tokens)
        if len(seen) == 4:
            raise RuntimeError("a fault")
        return step(tokens)

    monkeypatch.setattr(decoder, "step", fail)

    async def ask() -> None:
        async with local.running() as front:
            stream = await local.stream(front, body())
            deltas = [await anext(stream) for _ in range(4)]
            assert not any(delta.finish for delta in deltas)
            with pytest.raises(Failed, match="failed on this input"):
                await anext(stream)
            assert len(await read(await local.stream(front, body()))) == 12

    asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))


def test_an_engine_that_is_gone_ends_its_streams_with_an_error(local: Local) -> None:
    async def ask() -> None:
        async with local.running() as front:
            stream = await local.stream(front, body(max_new_tokens=300))
            gate.allow(10)
            await anext(stream)
            front.models.find("m", None).choose_link().close()
            with pytest.raises(EngineLost):
                async for _ in stream:
                    pass
            gate.open()

    with gated(local.model.scheduler.decoder) as gate:
        asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))


def test_an_engine_whose_model_does_not_work_any_more_ends_without_blaming_a_row(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(local.model.scheduler.decoder, "step", broken)
    monkeypatch.setattr(local.model.scheduler._runner, "_verify", broken)
    monkeypatch.setattr(local.model.scheduler._runner, "_recheck", Recheck())  # of no look that another test caused
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)

    async def ask() -> list[Any]:
        async with local.running() as front:
            asked = [asyncio.create_task(local.ask(front, body())) for _ in range(3)]
            while not ended:
                await asyncio.sleep(0.001)
            assert not any(task.done() for task in asked), "they wait for another engine"
            front.routing.close()
            return await asyncio.gather(*asked)

    answers = asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))
    assert not any(isinstance(answer, Failed) and "failed on this input" in str(answer) for answer in answers)
    assert [str(each.exc_value) for each in ended] == ["the device is gone"]


def test_a_version_that_is_unloaded_has_time_to_end_its_streams(local: Local) -> None:
    def drained(contract: Contract) -> float:
        held = ManagedVersion("m", "1", None, contract=contract)
        held.drain(100.0, 35.0)
        return held.drain_until

    assert drained(local.contract) == 100.0 + WRITING_SECONDS
    assert drained(msgspec.structs.replace(local.contract, task="text-classification")) == 135.0


def test_an_engine_that_is_told_to_stop_ends_its_streams_first(local: Local) -> None:
    async def ask() -> list[TextDelta]:
        async with local.running() as front:
            stream = await local.stream(front, body(max_new_tokens=100))
            gate.allow(10)
            await anext(stream)
            engines[-1].stop()
            gate.open()
            return await read(stream)

    engines: list[Any] = []
    make = local_module.make_engine

    def remember(*given: Any) -> Any:
        engines.append(make(*given))
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_module, "make_engine", remember)
        with gated(local.model.scheduler.decoder) as gate:
            deltas = asyncio.run(asyncio.wait_for(ask(), WAIT_SECONDS))
    assert deltas[-1].finish == "length"
    assert deltas[-1].generated_tokens == 100
