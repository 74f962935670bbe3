"""The rows that an engine of a generating task has: those that wait and those that are written, step by step.

Rows join whenever there is room, and leave with the step in which they end, are cancelled or pass their deadline. Who
waits is let in by a time of its own: when it arrived, and later the more it may write; so short texts overtake long
ones, and nobody waits for ever. A long row that was written for a while gives its place to one that is due before it,
and goes on later, with the same text.

In reduced precision sums are rounded otherwise in other batch, and a draw may fall on another token. So there a row
with a seed takes its steps by itself and does not give way; such rows are few, and have half of the cache at most.
"""

import logging
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from serving.engine.generation.beam_search import Search
from serving.engine.generation.decode_batch import DecodeBatch
from serving.engine.generation.decoder import Decoder, StepFailed
from serving.engine.generation.sampling import Choice, Sampler, choose
from serving.engine.generation.sequence import Entry, bounded
from serving.engine.meter import EngineMeter, GenerationMeter
from serving.processors.detokenizer import TextReader
from serving.processors.tokenizer import TextEncoder
from serving.wire.messages import Failure, Finish, Row, SamplingSettings, TokenDelta

logger = logging.getLogger("headwaiter.engine")

MIN_ADMITTED_TOKENS = 32
"""A row that has a place keeps it for at least this many tokens; ours."""
MAX_ISOLATED = 4
"""Rows that take their steps by themselves at a time, as others wait for each of these steps; ours."""
MAX_PREFILL_TOKENS = 512
"""Tokens of the rows that join between two steps, padding included, so that others need not wait long; ours."""

Reply = tuple[bytes, TokenDelta | Failure]
"""To whom, what."""


class Scheduler:
    """All rows of one engine. Not for several threads.

    alone: of rows with a seed, where they must take their steps by themselves. limit_tokens: places of the cache.
    max_rows: written at a time at most. pass_tokens: of rows that join in one forward pass, padding included; each has
    its first token at the end of it. verify: raises where the model does not work any more. `tokens` counts those of
    rows that wait.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: TextEncoder,
        *,
        alone: Decoder | None = None,
        limit_tokens: int,
        max_rows: int,
        pass_tokens: int = MAX_PREFILL_TOKENS,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self._together = DecodeBatch(decoder)
        self._alone = None if alone is None else DecodeBatch(alone)
        self._batches = [self._together] if self._alone is None else [self._together, self._alone]
        self._encoder = encoder
        self._limit = limit_tokens
        self._max_rows = max_rows
        self._pass_tokens = pass_tokens
        self._verify = verify
        self._meters: tuple[EngineMeter, GenerationMeter] | None = None
        self._waiting: list[Entry] = []
        self._joined_tokens = 0
        self._search: Search | None = None
        self._replies: list[Reply] = []
        ends = decoder.module.generation_config.eos_token_id
        self._ends = frozenset([] if ends is None else ends if isinstance(ends, list) else [ends])

    @property
    def decoder(self) -> Decoder:
        """Of the rows that take their steps together."""
        return self._together.decoder

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running) + (len(self._search.entries) if self._search else 0)

    def __bool__(self) -> bool:
        """Whether a step has something to do or to tell."""
        return len(self) > 0 or bool(self._replies)

    @property
    def tokens(self) -> int:
        """Tokens that waiting rows may come to."""
        return sum(entry.longest for entry in self._waiting)

    @property
    def _running(self) -> list[Entry]:
        return [entry for batch in self._batches for entry in batch.entries]

    @property
    def running(self) -> int:
        """Rows that are written now."""
        return len(self) - len(self._waiting)

    @property
    def cached_tokens(self) -> int:
        """Places of the cache in use."""
        return sum(batch.decoder.cached_tokens for batch in self._batches)

    def count_in(self, meter: EngineMeter) -> None:
        """Count in this version's metrics from now on."""
        self._meters = (meter, GenerationMeter(**meter.fields))

    def add(self, client: bytes, row: Row, now: float) -> None:
        """A row waits from now on. One whose settings or sampling cannot be set up fails; the next step tells."""
        try:
            entry = self._make_entry(client, row, now)
        except Exception as error:  # sampling is transformers' code and may raise anything; it must cost its row only
            logger.error("the sampling of a row could not be set up: %s", type(error).__name__)
            self._replies.append((client, Failure([row.id], "failed", "the row's sampling could not be set up")))
            return
        insort(self._waiting, entry, key=_due)

    def _make_entry(self, client: bytes, row: Row, now: float) -> Entry:
        settings = bounded(SamplingSettings.unpack(row.payload), self.decoder.max_new_tokens)
        reader = TextReader(self._encoder, settings.stop) if settings.stop else None
        sampler = Sampler(self.decoder.module, settings, row)
        entry = Entry(client, row, now, settings, self._ends, sampler, reader)
        entry.is_alone = self._alone is not None and settings.seed is not None and sampler.is_drawn
        return entry

    @torch.inference_mode()
    def cancel(self, client: bytes, ids: Sequence[int]) -> int:
        """Drop a client's rows, waiting or running; returns how many there were."""
        wanted = set(ids)
        return len(self._drop(lambda entry: entry.row.id in wanted and entry.client == client))

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        """Let rows in, or write a token of each that runs; what there is to tell.

        Raises what `verify` does, after a fault; then the model is of no use, and what `take_all` gives got no answer.
        """
        self._expire(time.monotonic())
        joined = self._let_in(MAX_PREFILL_TOKENS - self._joined_tokens)
        self._joined_tokens = self._joined_tokens + joined if joined else 0
        if not joined:  # who joined has a token to be told first
            for batch in self._batches:
                self._advance(batch)
        self._advance_search()
        self._count()
        replies, self._replies = self._replies, []
        return replies

    @torch.inference_mode()
    def take_all(self, message: str) -> list[Reply]:
        """Drop all rows; a failure for each, with what was not told yet."""
        for entry in self._drop(lambda _: True):
            self._fail(entry, message)
        replies, self._replies = self._replies, []
        return replies

    def _expire(self, now: float) -> None:
        """A stream that has begun has no deadline any more; whoever reads it may leave."""
        for entry in self._drop(lambda each: each.row.deadline <= now and not (each.row.streams and each.sent)):
            where = "while it was written" if entry.choices else "in the queue"
            failure = Failure([entry.row.id], "deadline", f"the deadline passed {where}: ask for less, or later")
            self._replies.append((entry.client, failure))

    def _drop(self, is_meant: Callable[[Entry], bool]) -> list[Entry]:
        gone = [entry for entry in self._waiting if is_meant(entry)]
        if gone:
            self._waiting = [entry for entry in self._waiting if entry not in gone]
        if self._search is not None and (found := [entry for entry in self._search.entries if is_meant(entry)]):
            gone += found
            self._search.drop(found)
            self._search = self._search if self._search.entries else None
        for batch in self._batches:
            gone += batch.drop(is_meant)
        return gone

    def _let_in(self, most_tokens: int) -> int:
        """Let who is due first join with others like it; how many tokens they have, padding included.

        most_tokens: of those who join; a step comes first where nothing is left of it.
        """
        joining: list[Entry] = []
        longest = 0
        for entry in list(self._waiting) if most_tokens > 0 else []:
            length = entry.length
            if entry.sampler.beams > 1:
                if self._search is None:
                    self._search = Search(self.decoder, self._alike(entry))
                    self._waiting = [other for other in self._waiting if other not in self._search.entries]
                continue
            if joining and (len(joining) + 1) * self.decoder.width(max(longest, length)) > most_tokens:
                break
            if entry.is_alone and not self._may_be_alone(entry, joining):
                continue
            while not self._has_room(entry, joining):
                if not self._give_way(entry):
                    break
            if not self._has_room(entry, joining):
                break
            joining.append(entry)
            longest = max(longest, length)
        joining = self._alike_in_length(joining)
        if joining:
            for batch in self._batches:
                self._join(batch, [entry for entry in joining if entry.is_alone == (batch is self._alone)])
        return len(joining) * self.decoder.width(max((entry.length for entry in joining), default=0))

    def _alike_in_length(self, entries: list[Entry]) -> list[Entry]:
        """The first of them with those nearest to it in length that one forward pass takes."""
        nearest = sorted(entries, key=lambda entry: abs(entry.length - entries[0].length))
        longest = accumulate((entry.length for entry in nearest), max)
        places = [count * self.decoder.width(length) for count, length in enumerate(longest, 1)]
        return nearest[: max(1, bisect_right(places, self._pass_tokens))]

    def _alike(self, entry: Entry) -> list[Entry]:
        """Waiting rows that one search can take: of one setting, as many as fit. A seed is one row's alone."""
        alike = [other for other in self._waiting if other.row.payload == entry.row.payload]
        longest = max(other.longest for other in alike)
        most = min(self._max_rows, self._limit // longest) // entry.sampler.beams
        return alike[: max(1, most)] if entry.settings.seed is None else [entry]

    def _has_room(self, entry: Entry, joining: list[Entry]) -> bool:
        """Whether all rows with this one fit the cache, each as long as it may get; the only one always may start."""
        rows = [*self._running, *joining, entry]
        together = [row.longest for row in rows if not row.is_alone]
        places = len(together) * max(together, default=0) + sum(row.longest for row in rows if row.is_alone)
        return (len(rows) <= self._max_rows and places <= self._limit) or len(rows) == 1

    def _may_be_alone(self, entry: Entry, joining: list[Entry]) -> bool:
        """Whether a row that takes its steps by itself leaves enough to the others; the first one always may start."""
        rows = [row.longest for row in [*self._running, *joining] if row.is_alone]
        return not rows or (len(rows) < MAX_ISOLATED and sum(rows) + entry.longest <= self._limit // 2)

    def _give_way(self, entry: Entry) -> bool:
        """Let the row that is due last, if it had its turn and is due after `entry`, lose its place."""
        late = [(row.due, place) for place, row in enumerate(self._together.entries) if row.turn >= MIN_ADMITTED_TOKENS]
        due, place = max(late, default=(0.0, 0))
        if due <= entry.due:
            return False
        row = self._together.entries[place]
        self._together.leave({place})
        row.turn = 0
        insort(self._waiting, row, key=_due)
        if self._meters is not None:
            self._meters[1].observe_preemption()
        return True

    def _join(self, batch: DecodeBatch, entries: list[Entry]) -> None:
        if not entries:
            return
        self._waiting = [entry for entry in self._waiting if entry not in entries]
        now = time.monotonic()
        for entry in entries:
            entry.started = entry.started or now
        try:
            logits = batch.decoder.join([entry.prompt for entry in entries], [entry.tokens for entry in entries])
        except Exception as error:  # a model may raise anything; it must cost its own row only
            if len(entries) > 1:
                self._waiting[:0] = entries  # until each has its turn, so that none is forgotten
                for entry in entries:
                    self._join(batch, [entry])
                return
            self._fault(entries, error)
            return
        if self._meters is not None:
            lengths = [entry.length for entry in entries]
            self._meters[0].observe_batch(lengths, len(lengths) * batch.decoder.width(max(lengths)))
            self._meters[1].observe_prompt(sum(len(entry.prompt) for entry in entries if not entry.tokens))
        batch.entries += entries
        self._take(logits, batch, entries)

    def _advance(self, batch: DecodeBatch) -> None:
        """A step of all rows."""
        if not batch.entries:
            return
        try:
            logits = batch.decoder.step([entry.tokens[-1] for entry in batch.entries])
        except StepFailed as failed:
            at_fault = [batch.entries[place] for place in failed.errors]
            stay = batch.leave(set(failed.errors))
            self._take(failed.logits[stay], batch, batch.entries)
            self._fault(at_fault, next(iter(failed.errors.values())))
            return
        except Exception as error:  # as above
            self._fault(batch.clear(), error)
            return
        self._take(logits, batch, batch.entries)

    def _take(self, logits: torch.Tensor, batch: DecodeBatch, entries: list[Entry]) -> None:
        """A token for each of the rows, which are the batch's last ones."""
        now = time.monotonic()
        choices = choose(logits, [entry.sampler for entry in entries], [self._ids(entry) for entry in entries])
        gone = set()
        first = len(batch.entries) - len(entries)
        for place, (entry, choice) in enumerate(zip(entries, choices, strict=True), first):
            if choice.problem:
                self._fail(entry, choice.problem)
                gone.add(place)
                continue
            finish = entry.take(choice)
            if not entry.first:
                entry.first = now
                if self._meters is not None:
                    self._meters[1].observe_first_token(now - entry.arrived)
            if finish or entry.row.streams:
                self._replies.append((entry.client, entry.part(finish)))
            if finish:
                gone.add(place)
                self._count_end(entry, now)
        if self._meters is not None:
            self._meters[1].observe_tokens(len(entries))
        batch.leave(gone)

    def _ids(self, entry: Entry) -> list[int]:
        return [] if entry.sampler.is_plain else [*self.decoder.history(entry.prompt), *entry.tokens]

    def _advance_search(self) -> None:
        if self._search is None:
            return
        entries = list(self._search.entries)
        try:
            if not self._search.step():
                return
        except Exception as error:  # as above
            self._search = None
            self._fault(entries, error)
            return
        self._search = None
        for entry in entries:
            entry.first = time.monotonic()
            finish: Finish = next((word for token in entry.found if (word := entry.take(Choice(token)))), "length")
            self._replies.append((entry.client, entry.part(finish)))
            if self._meters is not None:
                self._meters[1].observe_tokens(len(entry.tokens))

    def _fault(self, entries: list[Entry], error: Exception) -> None:
        """The model raised on these rows. Whether it still works is looked at once they know."""
        for entry in entries:
            self._fail(entry, "the model failed on this input")
        logger.error("the model failed on %d rows: %s", len(entries), type(error).__name__)
        self._verify()

    def _fail(self, entry: Entry, message: str) -> None:
        self._replies.append((entry.client, Failure([entry.row.id], "failed", message)))

    def _count_end(self, entry: Entry, now: float) -> None:
        if self._meters is not None:
            self._meters[1].observe_end(len(entry.tokens) - 1, now - entry.first)

    def _count(self) -> None:
        if self._meters is not None:
            self._meters[1].observe_batch(self.running, len(self._waiting), self.cached_tokens, self._limit)


def _due(entry: Entry) -> float:
    return entry.due
