"""A request of many inputs lets others run, and ends once nobody waits for its answer."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import ClientGone, DeadlineExceeded, ServingError
from serving.front import turns as module
from serving.front.app import DataPlane
from serving.front.fair_pool import FairPool
from serving.front.turns import TEXTS, Turns
from serving.processors.chat_template import ChatTemplate
from serving.processors.tokenizer import LONG_CHARACTERS, TextEncoder
from serving.tasks.base.request import Request, convert_request
from serving.wire.messages import Encoded
from tests.serving.front.local_front import FakeLink, Letters, MakeFront
from tests.serving.front.task_fronts import TOKENS, no_other_app, post, serve_tasks
from tests.waiting import WAIT_SECONDS


class Slow(Letters):
    """Encodes one input after the other; `encoded` has them. left: set once the third one is encoded."""

    def __init__(self) -> None:
        self.encoded: list[Any] = []
        self.left = asyncio.Event()

    def encode(self, item: Any, parameters: Any, version: Any) -> Encoded:
        self.encoded.append(item)
        if len(self.encoded) == 3:
            self.left.set()
        return super().encode(item, parameters, version)


def many(task: Any) -> Request:
    return Request(["a text"] * 1000, True, SimpleNamespace(stop=None, texts=1, top=None))


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input is a turn."""
    monkeypatch.setattr(module, "TURN_SECONDS", -1.0)


@pytest.mark.usefixtures("no_patience")
def test_a_client_that_leaves_ends_the_encoding(make_front: MakeFront) -> None:
    async def work() -> None:
        task = Slow()
        front = make_front(task=task)
        link: Any = FakeLink()
        front.routing._loaded["m", "1"].accepting = [link]
        with pytest.raises(ClientGone):
            await front.answer("m", None, many, protocol="huggingface", disconnected=task.left.wait)
        assert 3 <= len(task.encoded) < 10
        assert not link.waiters

    asyncio.run(work())


@pytest.mark.usefixtures("no_patience")
def test_the_deadline_ends_the_encoding(make_front: MakeFront) -> None:
    async def work() -> None:
        task = Slow()
        front = make_front(task=task)
        link: Any = FakeLink()
        front.routing._loaded["m", "1"].accepting = [link]
        with pytest.raises(DeadlineExceeded):
            await front.answer("m", None, many, protocol="huggingface", timeout_seconds=-1.0)
        assert len(task.encoded) == 1
        assert not link.waiters

    asyncio.run(work())


def test_work_in_a_thread_ends_with_the_deadline() -> None:
    async def work() -> None:
        with Turns(time.monotonic() + 60, None) as turns:
            assert await turns.hand_over(TEXTS, threading.current_thread) is not threading.main_thread()
        with Turns(time.monotonic() - 1, None) as turns, pytest.raises(DeadlineExceeded):
            await turns.hand_over(TEXTS, threading.current_thread)

    asyncio.run(work())


def test_work_that_waits_for_a_thread_ends_with_the_deadline_and_is_not_begun() -> None:
    async def work(pool: ThreadPoolExecutor, free: threading.Event) -> None:
        pool.submit(free.wait)
        begun = threading.Event()
        with Turns(time.monotonic() + 0.05, None) as turns, pytest.raises(DeadlineExceeded):
            await turns.hand_over(pool, begun.set)
        free.set()
        pool.shutdown()
        assert not begun.is_set()

    asyncio.run(work(ThreadPoolExecutor(1), threading.Event()))


def test_work_that_waits_for_a_thread_ends_when_the_client_leaves_and_is_not_begun() -> None:
    async def work(pool: ThreadPoolExecutor, free: threading.Event) -> None:
        pool.submit(free.wait, WAIT_SECONDS)
        begun, left = threading.Event(), asyncio.Event()
        with Turns(time.monotonic() + 60, left.wait) as turns:
            asyncio.get_running_loop().call_later(0.05, left.set)
            with pytest.raises(ClientGone):
                await turns.hand_over(pool, begun.set)
        free.set()
        pool.shutdown()
        assert not begun.is_set()

    asyncio.run(asyncio.wait_for(work(ThreadPoolExecutor(1), threading.Event()), WAIT_SECONDS / 2))


CHAT = b'{"model": "text-generation", "messages": [{"role": "user", "content": "hi"}]}'


@pytest.fixture
def end_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The only thread for chats and for written answers is taken, until this is called. Then what waits is done."""
    free, pool = threading.Event(), FairPool(1, "busy")
    pool.submit(free.wait, WAIT_SECONDS)

    def end() -> None:
        free.set()
        pool.submit(int).result(WAIT_SECONDS)

    monkeypatch.setattr("serving.front.protocols.openai_chat.CHATS", pool)
    monkeypatch.setattr("serving.front.attempts.ANSWERS", pool)
    monkeypatch.setattr("serving.front.protocols.openai_completions.ANSWERS", pool)
    yield end
    free.set()
    pool.shutdown()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was rendered of chats."""
    found: list[str] = []
    monkeypatch.setattr(ChatTemplate, "render", lambda *given, **named: found.append("hi") or "hi")
    return found


def test_a_chat_that_waits_to_be_rendered_gets_504_at_its_deadline(
    make_front: MakeFront, end_queue: Callable[[], None], rendered: list[str]
) -> None:
    front = make_front(timeout_seconds=0.3)
    serve_tasks(front, ["text-generation"])
    assert post(front, "/v1/chat/completions", CHAT).status_code == 504
    end_queue()
    assert rendered == []


def test_a_chat_whose_client_has_left_is_not_rendered(
    make_front: MakeFront, end_queue: Callable[[], None], rendered: list[str]
) -> None:
    front = make_front()
    serve_tasks(front, ["text-generation"])
    messages = iter([{"type": "http.request", "body": CHAT}, {"type": "http.disconnect"}])
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json")], "client": ("::1", 1), "scheme": "http"}

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        pass

    app: Any = DataPlane(front, no_other_app)
    asyncio.run(asyncio.wait_for(app(scope, receive, send), WAIT_SECONDS / 2))
    end_queue()
    assert rendered == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models/text-classification", b'{"inputs": "a"}'),
        ("/v1/completions", b'{"model": "text-generation", "prompt": "a", "logprobs": 1}'),
    ],
)
@pytest.mark.usefixtures("end_queue")
def test_a_large_answer_that_waits_to_be_written_gets_504_at_its_deadline(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes
) -> None:
    monkeypatch.setattr("serving.front.loaded_version.LARGE_ANSWER_BYTES", -1)
    front = make_front(timeout_seconds=0.3)
    serve_tasks(front, ["text-classification", "text-generation"])
    assert post(front, path, body).status_code == 504


def test_a_connection_that_cannot_be_watched_does_not_end_the_request() -> None:
    asked: list[str] = []

    async def fail() -> None:
        asked.append("watched")
        raise OSError("no such connection")

    async def work() -> None:
        with Turns(time.monotonic() + 60, fail) as turns:
            for _ in range(3):
                await turns.give()
            assert asked == ["watched"]
            assert await turns.hand_over(TEXTS, str, 1) == "1"

    asyncio.run(work())


def test_long_texts_are_tokenized_in_threads_and_short_ones_are_not(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = make_front()
    serve_tasks(front, ["text-classification"])
    task = front.routing._loaded["text-classification", "1"].task
    is_main: list[bool] = []
    encode = task.encode

    def watched(*args: Any) -> Any:
        is_main.append(threading.current_thread() is threading.main_thread())
        return encode(*args)

    monkeypatch.setattr(task, "encode", watched)
    texts: Sequence[str] = ["short", "long " * LONG_CHARACTERS, "short"]
    body = b'{"inputs": ["%s"], "parameters": {"truncate": true}}' % '", "'.join(texts).encode()
    assert post(front, "/models/text-classification", body).status_code == 200
    assert is_main == [True, False, True]


def test_no_more_rows_are_tokenized_than_the_queue_takes(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of some KB with many labels may be as many rows as tokenize for seconds."""
    front, tokenized = make_front(), 0
    link = serve_tasks(front, ["zero-shot-classification"])["zero-shot-classification"]
    link.share.bound(4 * TOKENS)
    tokenize = TextEncoder._tokenize

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal tokenized
        tokenized += 1
        return tokenize(*given, **options)

    monkeypatch.setattr(TextEncoder, "_tokenize", staticmethod(counted))
    labels = [f"label {number}" for number in range(100)]
    parameters = {"truncate": True, "candidate_labels": labels}
    body = json.dumps({"inputs": "long " * LONG_CHARACTERS, "parameters": parameters}).encode()
    refused = post(front, "/models/zero-shot-classification", body)
    assert (refused.status_code, refused.json()["error_type"]) == (413, "too_large")
    assert "the queue takes 2,048" in refused.json()["error"]
    assert tokenized == 5, "and each row once"


def test_long_texts_of_one_model_do_not_hold_up_those_of_another(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_begin = threading.Event()
    pool, began = FairPool(1, "texts"), []
    monkeypatch.setattr("serving.front.loaded_version.TEXTS", pool)
    front = make_front()
    serve_tasks(front, ("fill-mask", "feature-extraction"))

    def noted(name: str) -> Any:
        encode = front.routing._loaded[name, "1"].task.encode

        def work(*given: Any) -> Any:
            began.append(name)
            return encode(*given)

        return work

    for name in ("fill-mask", "feature-extraction"):
        monkeypatch.setattr(front.routing._loaded[name, "1"].task, "encode", noted(name), raising=False)
    text = "word " * LONG_CHARACTERS
    asked = ["fill-mask"] * 5 + ["feature-extraction"]

    async def ask(name: str) -> None:
        def read(task: Any) -> Request:
            return convert_request([f"{text} [MASK]", text][task.embeds], {"truncate": True}, task, 1)

        with suppress(ServingError):  # what the engines answer is no matter here
            await front.answer(name, None, read, protocol="huggingface")

    async def work() -> None:
        pool.submit(may_begin.wait, WAIT_SECONDS)  # the only thread takes the texts up once all of them wait
        while pool._waiting:
            await asyncio.sleep(0)
        tasks = [asyncio.create_task(ask(name)) for name in asked]
        while sum(map(len, pool._waiting.values())) < len(asked):
            await asyncio.sleep(0)
        may_begin.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())
    assert began == ["fill-mask", "feature-extraction"] + ["fill-mask"] * 4
    pool.shutdown()


def test_one_request_of_many_long_rows_gives_way_to_another_model_between_them(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 KB of zero-shot-classification are megabytes of text to tokenize."""
    may_begin = threading.Event()
    pool, ended = FairPool(1, "texts"), []
    monkeypatch.setattr("serving.front.loaded_version.TEXTS", pool)
    monkeypatch.setattr("serving.front.fair_pool.TURN_SECONDS", 0.0)
    front = make_front()
    names = ("zero-shot-classification", "feature-extraction")
    serve_tasks(front, names)

    def noted(name: str) -> Any:
        encode = front.routing._loaded[name, "1"].task.encode

        def work(*given: Any) -> Any:
            found = encode(*given)
            ended.append(name)
            return found

        return work

    for name in names:
        monkeypatch.setattr(front.routing._loaded[name, "1"].task, "encode", noted(name), raising=False)
    given = {
        "zero-shot-classification": {"candidate_labels": ["a", "b", "c"], "truncate": True},
        "feature-extraction": {"truncate": True},
    }

    async def ask(name: str) -> None:
        def read(task: Any) -> Request:
            return convert_request("word " * LONG_CHARACTERS, given[name], task, 1)

        with suppress(ServingError):
            await front.answer(name, None, read, protocol="huggingface")

    async def work() -> None:
        pool.submit(may_begin.wait, WAIT_SECONDS)
        while pool._waiting:
            await asyncio.sleep(0)
        tasks = []
        for count, name in enumerate(names, start=1):
            tasks.append(asyncio.create_task(ask(name)))
            while len(pool._waiting) < count:
                await asyncio.sleep(0)
        may_begin.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())
    assert ended == ["feature-extraction", "zero-shot-classification"]
    pool.shutdown()
