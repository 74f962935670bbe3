"""Answers of server-sent events, and how a protocol ends one that breaks off."""

import asyncio
from typing import Any

import pytest

from serving.errors import ClientGone, Failed, Malformed, QueueFull, ServingError, TooLarge
from serving.front.asgi import Events, read_body, read_number
from serving.front.protocols.base import Exchange, Protocol


class Recorded:
    """ASGI's send, which keeps what it was given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


class Breaking(Protocol):
    """Begins a stream and then fails."""

    name = "openai"

    def __init__(self, error: Exception, *, begins: bool) -> None:
        self._error, self._begins = error, begins

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        if self._begins:
            events = await exchange.begin_events(5.0, (b"x-model-version", b"3"))
            await events.tell(b"1")
        raise self._error

    def describe(self, error: ServingError) -> Any:
        return {"error": error.message}


def run(error: Exception, *, begins: bool) -> Recorded:
    sent = Recorded()
    scope = {"headers": [(b"x-request-id", b"r1")], "method": "POST", "path": "/"}
    asyncio.run(Breaking(error, begins=begins)([], scope, None, sent))  # type: ignore[arg-type]
    return sent


def test_events_are_lines_with_an_empty_one_between() -> None:
    async def answer(sent: Recorded) -> None:
        events = Events(sent, 5.0)
        await events.begin([(b"a", b"b")])
        await events.tell(b'{"x": 1}')
        await events.tell(b"[DONE]")
        await events.end()

    sent = Recorded()
    asyncio.run(answer(sent))
    assert sent.body == b'data: {"x": 1}\n\ndata: [DONE]\n\n'
    assert [message.get("more_body") for message in sent.messages] == [None, True, True, False]
    assert dict(sent.messages[0]["headers"])[b"content-type"].startswith(b"text/event-stream")


def test_a_client_that_reads_nothing_is_let_go() -> None:
    async def never(message: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        asyncio.run(Events(never, 0.0).tell(b"1"))


def test_an_error_before_the_stream_has_its_status() -> None:
    start, body = run(QueueFull("full", retry_seconds=2.5), begins=False).messages
    assert (start["status"], body["body"]) == (429, b'{"error":"full"}')
    headers = dict(start["headers"])
    assert (headers[b"retry-after"], headers[b"x-request-id"]) == (b"3", b"r1")


def test_an_error_in_mid_stream_is_its_last_event() -> None:
    sent = run(Failed("broken"), begins=True)
    assert sent.messages[0]["status"] == 200
    assert dict(sent.messages[0]["headers"])[b"x-model-version"] == b"3"
    assert sent.body == b'data: 1\n\ndata: {"error":"broken"}\n\n'
    assert sent.messages[-1]["more_body"] is False


@pytest.mark.parametrize("begins", [False, True])
def test_a_bug_shows_nothing_of_its_insides(begins: bool, caplog: pytest.LogCaptureFixture) -> None:
    sent = run(ZeroDivisionError("secret"), begins=begins)
    assert b"the server failed on this request" in sent.body
    assert b"secret" not in sent.body
    assert "secret" in caplog.text


def test_nothing_more_is_sent_to_a_client_that_left() -> None:
    assert run(ClientGone("left"), begins=True).body == b"data: 1\n\n"


@pytest.mark.parametrize(
    ("given", "number"), [(b"0", 0), (b"00", 0), (b"17", 17), (5000 * b"0" + b"5", 5), (18 * b"9", 10**18 - 1)]
)
def test_a_number_in_a_header_may_have_leading_zeros(given: bytes, number: int) -> None:
    assert read_number(given, "A") == number


@pytest.mark.parametrize(
    "given", [b"", b"-1", b"+1", b"1_0", b"1.0", b"\xb2", "\u0663".encode(), 19 * b"1", 5000 * b"1"]
)
def test_what_is_no_number_of_a_header_is_malformed(given: bytes) -> None:
    with pytest.raises(Malformed, match="A is no number"):
        read_number(given, "A")


@pytest.mark.parametrize("count", [1, 2])
def test_a_body_without_a_length_has_its_bound_however_it_arrives(count: int) -> None:
    messages = [{"type": "http.request", "body": b"1234", "more_body": left > 0} for left in reversed(range(count))]

    async def read(limit: int) -> bytes:
        left = iter(messages)

        async def receive() -> Any:
            return next(left)

        return await read_body({"headers": []}, receive, limit)

    assert asyncio.run(read(4 * count)) == count * b"1234"
    with pytest.raises(TooLarge):
        asyncio.run(read(4 * count - 1))
