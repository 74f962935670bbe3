"""A request whose texts are sent as they are written: parts from an engine in, pieces of text out. Runs in a front."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from serving.errors import ClientGone, DeadlineExceeded, ServingError
from serving.front.request_context import Stages
from serving.processors.detokenizer import TextReader
from serving.tasks.base.generated_text import TokenScore, read_scores, to_arrays
from serving.wire.messages import TokenDelta


@dataclass(frozen=True)
class Piece:
    """What came of one text. index: which text of the request, inputs in order and each one's texts in order.

    text: what is certain now, may be empty; together the pieces are the whole text. token_ids: the tokens that this
    text was read from. logprobs: of the same tokens, empty unless asked for. finish: empty while more comes, else a
    word of `messages.FINISH_REASONS`. generated_tokens: of the text so far.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenScore]
    finish: str
    generated_tokens: int

    @property
    def finish_reason(self) -> str | None:
        """As OpenAI has it: "stop", "length", or None while more comes."""
        return ("length" if self.finish == "length" else "stop") if self.finish else None


@dataclass(frozen=True)
class Usage:
    """prompt_tokens: of each input once, whatever the number of its texts. generated_tokens: of all texts."""

    prompt_tokens: int
    generated_tokens: int


class _Reader:
    """One text on its way. Tokens are held back with the text that is read from them."""

    def __init__(self, encoder: Any, stops: Sequence[str]) -> None:
        self.text = TextReader(encoder, stops)
        self.ids: list[int] = []
        self.scores: list[TokenScore] = []
        self.written = 0


@dataclass(eq=False)
class TextStream:
    """The texts of a request as they are written. Iterate over it once; call `close` when done or before.

    version: who writes. stages: the request's times. wait_seconds: how long the next piece may take.
    before: what stands before each text. on_close: is told of the error that ended the stream, None for none.
    """

    version: str
    stages: Stages
    encoder: Any
    stops: Sequence[str]
    rows: int
    prompt_tokens: int
    wait_seconds: float
    before: Sequence[str] = ()
    on_close: Callable[[ServingError | None], None] | None = None
    _parts: "asyncio.Queue[tuple[int, TokenDelta] | ServingError]" = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        """Ready for parts."""
        self._readers = [_Reader(self.encoder, self.stops) for _ in range(self.rows)]
        self._open = self.rows
        self._error: ServingError | None = None
        self.is_closed = False

    @property
    def usage(self) -> Usage:
        """What was read and written so far; all of it after the last piece."""
        return Usage(self.prompt_tokens, sum(reader.written for reader in self._readers))

    def put(self, index: int, part: TokenDelta) -> None:
        """A part of a row came."""
        self._parts.put_nowait((index, part))

    def fail(self, error: ServingError) -> None:
        """Nothing more comes."""
        self._parts.put_nowait(error)

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces in the order that they came; raises ServingError where the stream breaks off."""
        return self

    async def __anext__(self) -> Piece:
        """The next piece."""
        if self.is_closed or not self._open:
            if self._error is not None:
                raise self._error
            await self.close()
            raise StopAsyncIteration
        found = await self._next() if self._parts.empty() else self._parts.get_nowait()
        if isinstance(found, ServingError):
            self._end(found)
            raise found
        return self._read(*found)

    async def close(self) -> None:
        """Let go: rows that are still written lose their place. Harmless when called again."""
        self._end(ClientGone("the stream was closed") if self._open else None)

    async def __aenter__(self) -> Self:
        """The stream itself; leaving the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _next(self) -> tuple[int, TokenDelta] | ServingError:
        try:
            return await asyncio.wait_for(self._parts.get(), self.wait_seconds)
        except TimeoutError:
            return DeadlineExceeded("the next token did not come in time: try again later")
        except asyncio.CancelledError:
            self._end(ClientGone("cancelled"))
            raise

    def _read(self, index: int, part: TokenDelta) -> Piece:
        reader, arrays = self._readers[index], to_arrays(part)
        ids: list[int] = arrays[0].tolist()
        text = "" if reader.written else (self.before[index] if self.before else "")
        reader.written = part.written
        reader.ids += ids
        reader.scores += read_scores(arrays, self.encoder)
        text += reader.text.push(ids, is_last=bool(part.finish))
        if part.finish:
            self._open -= 1
        held = reader.text.is_holding or (reader.text.has_stopped and not text)
        ids, scores = ([], []) if held else (reader.ids, reader.scores)
        if not held:
            reader.ids, reader.scores = [], []
        self.stages.forward_seconds = max(self.stages.forward_seconds, part.forward_seconds)
        return Piece(index, text, ids, scores, part.finish, part.written)

    def _end(self, error: ServingError | None) -> None:
        if self.is_closed:
            return
        self.is_closed, self._error = True, error
        if error is not None:
            self._parts.put_nowait(error)  # whoever waits for a piece now wakes
        if self.on_close is not None:
            self.on_close(error)
