"""Complete texts are put together from a stream while it is read."""

import asyncio
import gc
from array import array
from typing import Any

from serving.errors import EngineLost
from serving.front.protocols.openai_forms import gather
from serving.front.request_context import StageTimes
from serving.front.text_stream import StreamSource, TextDelta, TextStream
from serving.front.waiter import StreamWaiter
from serving.wire.messages import Finish, TokenDelta

TEXTS = 4


class Letters:
    """A tokenizer whose tokens are letters. "!" is special."""

    cleans_up = False
    special_ids = frozenset({ord("!")})

    def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The letters of ids."""
        return "".join(map(chr, ids)).replace("!", "" if skip_special_tokens else "!")


class Sent:
    """A request that may be sent again."""

    def __init__(self) -> None:
        self.stages = StageTimes()

    def allow_retry(self, error: EngineLost) -> None:
        """Always."""

    def end(self, error: BaseException | None) -> None:
        """Nothing is counted here."""


def make_stream(*waiters: StreamWaiter) -> TextStream:
    """A stream of `TEXTS` texts. waiters: of one attempt after the other."""
    attempts = iter(waiters)
    encoder: Any = Letters()
    sent: Any = Sent()

    async def open_source() -> StreamSource:
        return StreamSource("1", next(attempts), encoder, (), 1, [""] * TEXTS, TEXTS, lambda: None)

    return TextStream(sent, open_source, 60)


def put(waiter: StreamWaiter, text: str, start: int = 0, finish: Finish = "", logprobs: bytes = b"") -> None:
    """Each text's next tokens, one at a time. start: the tokens that came before."""
    for at, letter in enumerate(text, start + 1):
        for index in range(TEXTS):
            is_last = at == start + len(text)
            part = TokenDelta(index, array("i", [ord(letter)]).tobytes(), finish if is_last else "", at, logprobs)
            waiter.take(index, part)


def test_no_delta_of_a_complete_text_is_kept() -> None:
    async def work() -> None:
        waiter = StreamWaiter(TEXTS, 0)
        stream = make_stream(waiter)
        await stream.open()
        put(waiter, "ab" * 100)
        gathered = asyncio.create_task(gather(stream))
        while not (waiter.parts.empty() or gathered.done()):
            await asyncio.sleep(0)
        assert sum(type(each) is TextDelta for each in gc.get_objects()) <= 1
        put(waiter, "c", 200, "length")
        texts = await gathered
        assert [(text.text, text.finish_reason) for text in texts] == [("ab" * 100 + "c", "length")] * TEXTS
        assert stream.usage.generated_tokens == 201 * TEXTS

    asyncio.run(work())


def test_complete_texts_begin_again_with_a_new_engine() -> None:
    async def work() -> None:
        lost, waiter = StreamWaiter(TEXTS, 0), StreamWaiter(TEXTS, 0)
        stream = make_stream(lost, waiter)
        await stream.open()
        put(lost, "xyz")
        lost.fail(EngineLost("gone"))
        put(waiter, "abc", finish="eos_token")
        assert [(text.text, text.finish_reason) for text in await gather(stream)] == [("abc", "stop")] * TEXTS

    asyncio.run(work())


def test_tokens_with_scores_are_in_order_and_special_ones_left_out() -> None:
    async def work() -> None:
        waiter = StreamWaiter(TEXTS, 0)
        stream = make_stream(waiter)
        await stream.open()
        put(waiter, "ab!", finish="eos_token", logprobs=array("f", [-0.5]).tobytes())
        for text in await gather(stream):
            assert [(token.text, token.logprob) for token in text.tokens] == [("a", -0.5), ("b", -0.5)]
            assert text.text == "ab"

    asyncio.run(work())
