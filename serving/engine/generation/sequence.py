"""One row on its way through the scheduler: its settings, the tokens generated so far, and what was sent of them."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy
import torch
from transformers import StopStringCriteria

from serving.engine.generation.sampling import NextToken, Sampler
from serving.processors.detokenizer import TextReader
from serving.processors.tokenizer import TextEncoder
from serving.wire.messages import Finish, Row, SamplingSettings, TokenDelta

if TYPE_CHECKING:
    from serving.engine.generation.decoder import Decoder

FAIR_SECONDS = 0.01
"""How much each token that a row may generate delays its admission. Untuned: about what a step takes on a CPU."""


@dataclass(eq=False)
class Sequence:
    """A row that is generated for.

    client: the front's ZeroMQ identity. before: the tokens that precede new ones, see `Decoder.history`. arrived,
    started, first_token: monotonic seconds of the row's arrival, first forward pass and first token, 0 until then.
    ends: tokens that end a text. reader: finds stop strings, None where there are none to find. stop_check: the
    checkpoint's stop strings, None where they do not apply. priority: sequences are admitted in its order, lowest
    first. choices: its new tokens. searched: what a beam search found. tokens_since_admitted: tokens generated
    since its last prefill. reused: tokens of its prompt that were not computed, because an earlier one began with them.
    sent: number of tokens sent. is_isolated: whether no other row shares its forward passes. is_tried: whether a
    prefill of it failed.
    """

    client: bytes
    row: Row
    arrived: float
    settings: SamplingSettings
    ends: frozenset[int]
    sampler: Sampler
    reader: TextReader | None
    before: list[int] = field(default_factory=list)
    stop_check: StopStringCriteria | None = None
    choices: list[NextToken] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    started: float = 0.0
    first_token: float = 0.0
    searched: list[NextToken] = field(default_factory=list)
    tokens_since_admitted: int = 0
    reused: int = 0
    sent: int = 0
    is_isolated: bool = False
    is_tried: bool = False

    def __post_init__(self) -> None:
        """Read the prompt and compute the priority."""
        self.prompt: list[int] = numpy.frombuffer(self.row.tokens, dtype=numpy.int32).tolist()
        self.priority = self.arrived + FAIR_SECONDS * self.settings.max_new_tokens

    @property
    def max_length(self) -> int:
        """The most cache positions that the sequence can need."""
        return len(self.prompt) + self.settings.max_new_tokens

    @property
    def length(self) -> int:
        """Prompt tokens and tokens generated so far."""
        return len(self.prompt) + len(self.tokens)

    def append(self, choice: NextToken) -> Finish:
        """Append the next token; the reason why it is the last one, or ""."""
        self.choices.append(choice)
        self.tokens.append(choice.token)
        self.tokens_since_admitted += 1
        if choice.token in self.ends:
            return "eos_token"
        if self.reader is not None:
            self.reader.push([choice.token])
            if self.reader.has_stopped:
                return "stop_sequence"
        if self.stop_check is not None and self._has_stop_string():
            return "stop_sequence"
        return "length" if len(self.tokens) >= self.settings.max_new_tokens else ""

    def _has_stop_string(self) -> bool:
        """Whether the newest token completes one of the checkpoint's stop strings, judged as `generate` does."""
        assert self.stop_check is not None
        last = [*self.before, *self.tokens][-self.stop_check.maximum_token_len :]
        return bool(self.stop_check(torch.tensor([last]), None)[0])

    def take_delta(self, finish: Finish) -> TokenDelta:
        """The tokens that were not sent yet; they count as sent from now on."""
        new, self.sent = self.choices[self.sent :], len(self.choices)
        delta = TokenDelta(
            self.row.id,
            numpy.asarray([choice.token for choice in new], dtype=numpy.int32).tobytes(),
            finish,
            self.sent,
            forward_seconds=time.monotonic() - self.started,
            reused=self.reused,
        )
        if self.settings.top is not None:
            delta.logprobs = numpy.asarray([choice.logprob for choice in new], dtype=numpy.float32).tobytes()
            ids = [[token for token, _ in choice.top] for choice in new]
            scores = [[score for _, score in choice.top] for choice in new]
            delta.top_ids = numpy.asarray(ids, dtype=numpy.int32).tobytes()
            delta.top_logprobs = numpy.asarray(scores, dtype=numpy.float32).tobytes()
        return delta


class SequenceMaker:
    """Makes the sequences of one decoder. may_isolate: whether a sequence can be stepped by itself."""

    def __init__(
        self, decoder: "Decoder", encoder: TextEncoder, stop_check: StopStringCriteria | None, *, may_isolate: bool
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._stop_check = stop_check
        self._may_isolate = may_isolate
        ends = decoder.module.generation_config.eos_token_id
        self._ends = frozenset([] if ends is None else ends if isinstance(ends, list) else [ends])

    def make(self, client: bytes, row: Row, now: float) -> Sequence:
        """The sequence of a row that arrives now. Raises as `Sampler`, and what transformers does."""
        settings = limit_new_tokens(SamplingSettings.unpack(row.payload), self._decoder.max_new_tokens)
        reader = TextReader(self._encoder, settings.stop) if settings.stop else None
        sampler = Sampler(self._decoder.module, settings, row)
        sequence = Sequence(client, row, now, settings, self._ends, sampler, reader)
        if self._stop_check is not None and not settings.stop:
            sequence.stop_check, sequence.before = self._stop_check, self._decoder.history(sequence.prompt)
        sequence.is_isolated = self._may_isolate and settings.seed is not None and sampler.is_drawn
        return sequence


def limit_new_tokens(settings: SamplingSettings, limit: int | None) -> SamplingSettings:
    """Bound `max_new_tokens` by `limit`, the number of positions that the model has; None for no limit."""
    if limit is None or settings.max_new_tokens <= limit:
        return settings
    return msgspec.structs.replace(settings, max_new_tokens=limit)
