"""A row on its way through the scheduler: what it asks for, what was written of it, what was sent."""

import time
from dataclasses import dataclass, field

import msgspec
import numpy

from serving.engine.generation.sampling import Choice, Sampler
from serving.processors.detokenizer import TextReader
from serving.wire.messages import Finish, Row, SamplingSettings, TokenDelta

FAIR_SECONDS = 0.01
"""A row is let in as if it had arrived this much later for each token that it may write; ours."""


@dataclass(eq=False)
class Entry:
    """arrived, started, first: when it came, had its first forward pass, and its first token; monotonic seconds.

    due: rows are let in in the order of it. is_alone: whether it takes its steps by itself. choices: its new tokens.
    found: what a search wrote. turn: tokens since it got its place. sent: tokens that were sent. ends: tokens that end
    a text.
    """

    client: bytes
    row: Row
    arrived: float
    settings: SamplingSettings
    ends: frozenset[int]
    sampler: Sampler
    reader: TextReader | None
    choices: list[Choice] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    started: float = 0.0
    first: float = 0.0
    found: list[int] = field(default_factory=list)
    turn: int = 0
    sent: int = 0
    is_alone: bool = False

    def __post_init__(self) -> None:
        """Read the prompt."""
        self.prompt: list[int] = numpy.frombuffer(self.row.tokens, dtype=numpy.int32).tolist()
        self.due = self.arrived + FAIR_SECONDS * self.settings.max_new_tokens

    @property
    def longest(self) -> int:
        """The most places that it may need in the cache."""
        return len(self.prompt) + self.settings.max_new_tokens

    @property
    def length(self) -> int:
        """Its tokens now."""
        return len(self.prompt) + len(self.tokens)

    def take(self, choice: Choice) -> Finish:
        """The row's next token comes; the word for its end, or ""."""
        self.choices.append(choice)
        self.tokens.append(choice.token)
        self.turn += 1
        if choice.token in self.ends:
            return "eos_token"
        if self.reader is not None:
            self.reader.push([choice.token])
            if self.reader.has_stopped:
                return "stop_sequence"
        return "length" if len(self.tokens) >= self.settings.max_new_tokens else ""

    def part(self, finish: Finish) -> TokenDelta:
        """What was not sent yet."""
        new, self.sent = self.choices[self.sent :], len(self.choices)
        part = TokenDelta(
            self.row.id,
            numpy.asarray([choice.token for choice in new], dtype=numpy.int32).tobytes(),
            finish,
            self.sent,
            forward_seconds=time.monotonic() - self.started,
        )
        if self.settings.top is not None:
            part.logprobs = numpy.asarray([choice.logprob for choice in new], dtype=numpy.float32).tobytes()
            ids = [[token for token, _ in choice.top] for choice in new]
            scores = [[score for _, score in choice.top] for choice in new]
            part.top_ids = numpy.asarray(ids, dtype=numpy.int32).tobytes()
            part.top_logprobs = numpy.asarray(scores, dtype=numpy.float32).tobytes()
        return part


def bounded(settings: SamplingSettings, most: int | None) -> SamplingSettings:
    """The settings with at most as many tokens as the model has places for."""
    if most is None or settings.max_new_tokens <= most:
        return settings
    return msgspec.structs.replace(settings, max_new_tokens=most)
