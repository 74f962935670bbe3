"""A request whose texts are sent as they are written: tokens from an engine in, deltas of text out.

A lost engine is replaced as long as nothing of the stream has left the server; see `serving.front.request_tracker`.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from serving.errors import ClientGone, DeadlineExceeded, EngineLost, ServingError
from serving.front.request_context import StageTimes
from serving.front.request_tracker import TrackedRequest
from serving.front.turns import ANSWERS, Turns
from serving.front.waiter import StreamWaiter
from serving.processors.detokenizer import TextReader
from serving.processors.tokenizer import TextEncoder
from serving.tasks.base.generated_text import TokenScore, read_scores, to_arrays
from serving.wire.messages import Finish, TokenDelta

LARGE_DELTA_TOKENS = 512
"""Tokens, with the likeliest ones at each position, that a thread reads. Untuned: each is decoded by itself, which
takes some microseconds."""


@dataclass(frozen=True)
class TextDelta:
    """The next part of one text. index: which text of the request, inputs in order and each one's texts in order.

    text: what is certain now, may be empty; together the deltas are the whole text. token_ids: the newest tokens, also
    where their text is held back, as it can begin a stop string; together all that were generated. logprobs: of the
    same tokens, empty unless asked for. finish: empty while more comes, else one of `messages.FINISH_REASONS`.
    generated_tokens: of the text so far.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenScore]
    finish: Finish
    generated_tokens: int

    @property
    def finish_reason(self) -> str | None:
        """As OpenAI has it: "stop", "length", or None while more comes."""
        return ("length" if self.finish == "length" else "stop") if self.finish else None


@dataclass(frozen=True)
class TokenUsage:
    """prompt_tokens: of each input once, whatever the number of its texts. generated_tokens: of all texts.

    reused_tokens: of the prompt tokens, those that were not computed, because an earlier prompt began with them.
    """

    prompt_tokens: int
    generated_tokens: int
    reused_tokens: int


@dataclass(frozen=True)
class StreamSource:
    """The engine that generates a stream's texts.

    version: of the model. waiter: takes the tokens. encoder: the version's tokenizer. stops: stop strings.
    before: the prefix of each text. texts: their number for each input. close: cancels the rows that are not complete.
    """

    version: str
    waiter: StreamWaiter
    encoder: TextEncoder
    stops: Sequence[str]
    prompt_tokens: int
    before: Sequence[str]
    texts: int
    close: Callable[[], None]


class _Reader:
    """One text on its way."""

    def __init__(self, source: StreamSource) -> None:
        self.text = TextReader(source.encoder, source.stops, cleans_up=source.encoder.cleans_up)
        self.written = 0
        self.reused = 0


class Collector(Protocol):
    """Puts an answer together while its stream is read."""

    def take(self, delta: TextDelta) -> None:
        """Use the next delta."""


CollectorType = TypeVar("CollectorType", bound=Collector)


class TextStream:
    """The texts of a request as they are written. Call `open`, iterate once, and `close` when done or before.

    As a context manager it closes with the block. request: ends when the stream closes. open_source: sends the request
    to an engine. wait_seconds: how long the next delta may take.
    """

    def __init__(
        self, request: TrackedRequest, open_source: Callable[[], Awaitable[StreamSource]], wait_seconds: float
    ) -> None:
        self._request = request
        self._open_source = open_source
        self._wait_seconds = wait_seconds
        self._turns = Turns(math.inf, None)
        self._source: StreamSource
        self._readers: list[_Reader] = []
        self._unfinished = 0
        self._attempt = 0
        self._first: TextDelta | None = None
        self._has_begun = self._is_collected = False
        self._error: BaseException | None = None
        self.is_closed = False

    @property
    def version(self) -> str:
        """The engine that generates. It may change until the first delta."""
        return self._source.version

    @property
    def rows(self) -> int:
        """The number of texts."""
        return len(self._readers)

    @property
    def stages(self) -> StageTimes:
        """The request's times, complete once the stream is closed."""
        return self._request.stages

    @property
    def prompt_tokens(self) -> int:
        """The tokens of all inputs."""
        return self._source.prompt_tokens

    @property
    def usage(self) -> TokenUsage:
        """The token counts so far; complete after the last delta."""
        firsts = self._readers[:: self._source.texts]
        written, reused = sum(each.written for each in self._readers), sum(each.reused for each in firsts)
        return TokenUsage(self.prompt_tokens, written, reused)

    async def open(self) -> None:
        """Send the request to an engine. Raises ServingError."""
        source = None
        while source is None:
            try:
                source = await self._open_source()
            except EngineLost as error:
                self._request.allow_retry(error)
        self._source = source
        self._readers = [_Reader(source) for _ in source.before]
        self._unfinished = len(self._readers)
        self._attempt += 1

    async def start(self) -> None:
        """Wait for the first delta, with which the iteration then begins. Raises ServingError.

        From then on neither the version nor the engine changes.
        """
        self._first = await anext(self)

    async def collect(self, begin: Callable[[int], CollectorType]) -> CollectorType:
        """Hand every delta to what `begin` makes for the number of texts, and return that. No delta is kept here.

        Nothing leaves the server before the last delta, so a lost engine is replaced at any time: `begin` is then
        called again, and what it made before is dropped.
        """
        self._is_collected = True
        collector, attempt = begin(self.rows), self._attempt
        async for delta in self:
            if self._attempt != attempt:
                collector, attempt = begin(self.rows), self._attempt
            collector.take(delta)
        return collector

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        """The deltas in the order that they came; raises ServingError where the stream breaks off."""
        return self

    async def __anext__(self) -> TextDelta:
        """The next delta."""
        if self._first is not None and not self.is_closed:
            first, self._first = self._first, None
            return first
        if self.is_closed or not self._unfinished:
            if self._error is not None:
                raise self._error
            await self.close()
            raise StopAsyncIteration
        try:
            return await self._next_delta()
        except BaseException as error:
            self._end(error)
            raise

    async def close(self) -> None:
        """End the stream and cancel its incomplete rows. Later calls do nothing."""
        self._end(ClientGone("the stream was closed") if self._unfinished else None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self._end(error)
        await self.close()

    async def _next_delta(self) -> TextDelta:
        while True:
            try:
                index, part = await self._next_part()
                if (len(part.tokens) + len(part.top_ids)) // 4 > LARGE_DELTA_TOKENS:
                    delta = await self._turns.hand_over(ANSWERS, self._read, index, part)
                else:
                    delta = self._read(index, part)
            except EngineLost as error:
                if self._has_begun and not self._is_collected:
                    raise
                self._request.allow_retry(error)
                self._source.close()
                await self.open()
            else:
                self._has_begun = True
                return delta

    async def _next_part(self) -> tuple[int, TokenDelta]:
        parts = self._source.waiter.parts
        if not parts.empty():
            if self._turns.is_over():
                await self._turns.give()
            found = parts.get_nowait()
        else:
            try:
                found = await asyncio.wait_for(parts.get(), self._wait_seconds)
            except TimeoutError as error:
                raise DeadlineExceeded("the next token did not come in time: try again later") from error
            self._turns.begin()
        if isinstance(found, ServingError):
            raise found
        return found

    def _read(self, index: int, part: TokenDelta) -> TextDelta:
        reader, arrays = self._readers[index], to_arrays(part)
        ids: list[int] = arrays[0].tolist()
        is_begin = not reader.written
        text = self._source.before[index] if is_begin else ""
        reader.written, reader.reused = part.written, part.reused
        text += reader.text.push(ids, is_last=bool(part.finish))
        if part.finish:
            self._unfinished -= 1
        scores = read_scores(arrays, self._source.encoder, is_begin=is_begin)
        self.stages.forward_seconds = max(self.stages.forward_seconds, part.forward_seconds)
        return TextDelta(index, text, ids, scores, part.finish, part.written)

    def _end(self, error: BaseException | None) -> None:
        if self.is_closed:
            return
        self.is_closed, self._error = True, error
        self._source.close()  # also wakes a task that waits for a delta
        self._request.end(error)
