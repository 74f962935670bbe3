"""The scheduler of an engine whose task generates: its sequences wait, are prefilled and take steps of one token.

Before each step waiting sequences are admitted where there is room, see `admission`. A sequence leaves with the step in
which it ends, is cancelled or passes its deadline.

In reduced precision the rounding of a sum depends on the other rows of the batch, and a drawn token can depend on the
rounding. So there a sequence with a seed is isolated: no other row shares its forward passes, and it is not preempted.

Where that is proved to change no answer, a prefill computes only what is not known of earlier prompts that began with
the same tokens; see `prefix_cache`.

A row that must be alone, because an engine ended with it, is admitted once nothing else runs, and nothing else until it
has left.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import torch
from transformers import StopStringCriteria

from serving.engine.generation.admission import SchedulerLimits, heed_isolated, plan_admission
from serving.engine.generation.beam_search import BeamSearch
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.decode_batch import DecodeBatch
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.prefix_cache import BLOCK_TOKENS, PrefixCache
from serving.engine.generation.replies import QueuedReply, Replies
from serving.engine.generation.sampling import NOT_FINITE, NextToken, UnfitSettings
from serving.engine.generation.sequence import Sequence, SequenceMaker
from serving.engine.generation.waiting import WaitingSequences
from serving.engine.meter import EngineMeter, GenerationMeter
from serving.engine.recheck import Recheck
from serving.processors.tokenizer import TextEncoder
from serving.wire.messages import Row

logger = logging.getLogger("headwaiter.engine")

MAX_PREFILL_TOKENS = 512
"""Tokens prefilled between two steps, padding included; bounds how long running sequences wait. Tuned, see
bench/NOTES.md, Writing texts."""
PREFIX_SHARE = 0.25
"""Share of the cache for prefixes. Untuned."""


class Scheduler:
    """All sequences of one engine. `len()` counts them. Not for several threads.

    isolated: decoder of isolated sequences; None where all share their forward passes. limit_tokens: positions of the
    cache. max_rows: sequences at a time. pass_tokens: tokens of one prefill, padding included. stop_check: the
    checkpoint's stop strings. verify: raises where the model no longer works; called after a fault.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: TextEncoder,
        *,
        isolated: Decoder | None = None,
        limit_tokens: int,
        max_rows: int,
        pass_tokens: int = MAX_PREFILL_TOKENS,
        stop_check: StopStringCriteria | None = None,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        self._batch = DecodeBatch(decoder)
        self._isolated = None if isolated is None else DecodeBatch(isolated)
        self._batches = [self._batch] if self._isolated is None else [self._batch, self._isolated]
        self._sequences = SequenceMaker(decoder, encoder, stop_check, may_isolate=isolated is not None)
        self._limits = SchedulerLimits(max_rows, limit_tokens, pass_tokens)
        self._verify = verify
        self._recheck = Recheck()
        self._meters: tuple[EngineMeter, GenerationMeter] | None = None
        self.announce: Callable[[Iterable[Sequence]], None] = lambda _: None
        """Called before each step with the sequences that it computes."""
        self._has_isolated = False
        self._waiting = WaitingSequences()
        self._prefilled_tokens = 0
        self._search: BeamSearch | None = None
        self._replies = Replies()

    @property
    def decoder(self) -> Decoder:
        """The decoder of the sequences that are not isolated."""
        return self._batch.decoder

    def __len__(self) -> int:
        return len(self._waiting) + self.running

    def __bool__(self) -> bool:
        """Whether a step has something to do or to report."""
        return len(self) > 0 or bool(self._replies)

    @property
    def tokens(self) -> int:
        """The most tokens that the waiting sequences can come to, prompts included."""
        return self._waiting.tokens

    @property
    def step_tokens(self) -> int:
        """The most tokens that the next step computes: of the running sequences, and of a prefill."""
        first = next(iter(self._waiting), None)
        return self.running + (0 if first is None else max(MAX_PREFILL_TOKENS, first.length))

    @property
    def running(self) -> int:
        """Number of sequences in a batch or a beam search."""
        searched = len(self._search.sequences) if self._search else 0
        return searched + sum(len(batch.sequences) for batch in self._batches)

    @property
    def cached_tokens(self) -> int:
        """Positions of the cache in use."""
        return sum(batch.decoder.cached_tokens for batch in self._batches)

    def share_prefixes(self) -> None:
        """Keep the first tokens of prompts for later ones from now on, in a part of the cache. Again: does nothing."""
        decoder = self.decoder
        assert isinstance(decoder, CausalDecoder)
        if decoder.prefixes is None:
            tokens = int(self._limits.cache_tokens * PREFIX_SHARE)
            decoder.prefixes = PrefixCache(tokens // BLOCK_TOKENS)
            self._limits = replace(self._limits, cache_tokens=self._limits.cache_tokens - tokens)

    def count_in(self, meter: EngineMeter) -> None:
        """Count in this version's metrics from now on."""
        self._meters = meter, self._replies.count_in(meter)

    def add(self, client: bytes, row: Row, now: float) -> None:
        """Add a row to those that wait. One whose sampling cannot be set up fails; the next step reports it."""
        try:
            sequence = self._sequences.make(client, row, now)
        except UnfitSettings as error:
            self._replies.refuse(client, row.id, str(error), reason="refused")
            return
        except Exception as error:  # sampling is transformers' code and may raise anything; only this row fails
            logger.error("the sampling of a row could not be set up: %s", type(error).__name__)
            self._replies.refuse(client, row.id, "the row's sampling could not be set up")
            return
        self._waiting.add(sequence)
        self._has_isolated |= row.is_isolated

    @torch.inference_mode()
    def cancel(self, client: bytes, ids: Collection[int]) -> int:
        """Remove a client's rows, waiting or running; how many there were."""
        wanted = set(ids)
        waiting = self._waiting.cancel(client, wanted)
        return len(waiting) + len(self._discard(lambda each: each.row.id in wanted and each.client == client))

    @torch.inference_mode()
    def forget_client(self, client: bytes) -> int:
        """Remove all rows of a client, waiting or running; how many there were."""
        waiting = self._waiting.cancel(client, [each.row.id for each in self._waiting if each.client == client])
        return len(waiting) + len(self._discard(lambda each: each.client == client))

    @torch.inference_mode()
    def step(self) -> list[QueuedReply]:
        """Admit waiting sequences, or generate a token for each running one; the replies that are due.

        Raises what `verify` does, after a fault. The model is of no use then, and what it failed on gets no reply.
        """
        self._expire(time.monotonic())
        prefilled = self._admit(MAX_PREFILL_TOKENS - self._prefilled_tokens)
        self._prefilled_tokens = self._prefilled_tokens + prefilled if prefilled else 0
        if not prefilled:  # a prefill has made first tokens: they are reported at once
            for batch in self._batches:
                self._advance(batch)
        self._advance_search()
        self._count()
        return self.take_due()

    def take_due(self) -> list[QueuedReply]:
        """The replies that a step had ready before it raised."""
        return self._replies.take()

    def _expire(self, now: float) -> None:
        """Fail what passed its deadline. A stream that has begun has none any more: its reader may leave."""

        def is_late(each: Sequence) -> bool:
            return each.row.deadline <= now and not (each.row.streams and each.sent)

        for sequence in self._waiting.expire(now) + self._discard(is_late):
            self._replies.expire(sequence)

    def _discard(self, is_meant: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove running sequences; those sequences."""
        found = []
        if self._search is not None and (found := [each for each in self._search.sequences if is_meant(each)]):
            self._search.remove(found)
            self._search = self._search if self._search.sequences else None
        for batch in self._batches:
            found += batch.discard(is_meant)
        return found

    def _admit(self, max_tokens: int) -> int:
        """Admit waiting sequences; how many tokens were prefilled, padding included. max_tokens: bound of these."""
        plan = plan_admission(
            self._admissible(),
            [sequence for batch in self._batches for sequence in batch.sequences],
            self._limits,
            width=self.decoder.width,
            cost=self._cost,
            max_tokens=max_tokens,
            is_searching=self._search is not None,
        )
        for sequence in plan.preempt:
            self._preempt(sequence)
        if plan.search:
            if not self.decoder.may_search_together:
                del plan.search[1:]
            self._search = BeamSearch(self.decoder, plan.search)
            for sequence in plan.search:
                self._waiting.remove(sequence)
        self.announce([*self._running_sequences(), *plan.prefill])
        most = max(map(self._cost, plan.prefill), default=0)
        for batch in self._batches:
            is_isolated = batch is self._isolated
            self._prefill(batch, [sequence for sequence in plan.prefill if sequence.is_isolated == is_isolated])
        return len(plan.prefill) * self.decoder.width(most)

    def _cost(self, sequence: Sequence) -> int:
        """How many tokens a prefill of a sequence computes, as far as it depends on that one alone."""
        if sequence.is_isolated:
            return sequence.length
        return self.decoder.computed_tokens([*sequence.prompt, *sequence.tokens], sequence.row.owner)

    def _admissible(self) -> Iterable[Sequence]:
        """The waiting sequences that may be admitted now, in order of priority."""
        if not self._has_isolated:
            return self._waiting
        running = self._running_sequences()
        self._has_isolated = any(each.row.is_isolated for each in (*running, *self._waiting))
        return heed_isolated(self._waiting, running)

    def _running_sequences(self) -> list[Sequence]:
        searched = self._search.sequences if self._search is not None else []
        return [*searched, *(sequence for batch in self._batches for sequence in batch.sequences)]

    def _preempt(self, sequence: Sequence) -> None:
        """Let a running sequence wait again."""
        self._batch.remove({self._batch.sequences.index(sequence)})
        sequence.tokens_since_admitted = 0
        self._waiting.add(sequence)
        if self._meters is not None:
            self._meters[1].observe_preemption()

    def _prefill(self, batch: DecodeBatch, sequences: list[Sequence]) -> None:
        """Move waiting sequences into a batch. If that fails, each is tried once more, by itself."""
        if not sequences:
            return
        now = time.monotonic()
        for sequence in sequences:
            self._waiting.remove(sequence)
            sequence.started = sequence.started or now
        try:
            prefill = batch.prefill(sequences)
        except Exception as error:  # a model may raise anything; only the row at fault fails
            if len(sequences) == 1 and sequences[0].is_tried:
                self._fault(sequences, error)
                return
            for sequence in sequences:  # each is taken from there again
                self._waiting.add(sequence)
            for sequence in sequences:
                sequence.is_tried = True
                self._prefill(batch, [sequence])
            return
        new = [each for each in sequences if not each.tokens]
        for sequence, reused in zip(sequences, prefill.reused, strict=True):
            sequence.reused = sequence.reused if sequence.tokens else reused
        if self._meters is not None:
            lengths = [sequence.length for sequence in sequences]
            most = max(length - reused for length, reused in zip(lengths, prefill.reused, strict=True))
            self._meters[0].observe_batch(lengths, len(lengths) * batch.decoder.width(most), sum(prefill.reused))
            self._meters[1].observe_prompt(sum(len(each.prompt) for each in new), sum(each.reused for each in new))
        self._take_tokens(prefill.logits, batch, sequences)

    def _advance(self, batch: DecodeBatch) -> None:
        """Generate a token for each sequence of a batch."""
        if not batch.sequences:
            return
        step = batch.step()
        if step.logits is not None:
            self._take_tokens(step.logits, batch, batch.sequences)
        if step.error is not None:
            self._fault(step.failed, step.error)

    def _take_tokens(self, logits: torch.Tensor, batch: DecodeBatch, sequences: list[Sequence]) -> None:
        """Append a token to each of the batch's last sequences; remove those that end."""
        now = time.monotonic()
        first = len(batch.sequences) - len(sequences)
        choices = batch.choose_tokens(logits, sequences)
        self._look_at_choices(choices)
        ended = set()
        for place, (sequence, choice) in enumerate(zip(sequences, choices, strict=True), first):
            if self._replies.take_token(sequence, choice, now):
                ended.add(place)
        if self._meters is not None:
            self._meters[1].observe_tokens(len(sequences))
        batch.remove(ended)

    def _advance_search(self) -> None:
        """Take a step of the beam search, if one runs."""
        search = self._search
        if search is None:
            return
        sequences = list(search.sequences)
        try:
            if not search.step():
                return
        except Exception as error:  # as above
            self._search = None
            self._fault(sequences, error)
            return
        self._search = None
        for sequence in sequences:
            self._replies.take_text(sequence, time.monotonic())

    def _look_at_choices(self, choices: Iterable[NextToken]) -> None:
        """Check the model if logits are not finite, which may be the device's fault, and not the row's."""
        if any(choice.problem == NOT_FINITE for choice in choices) and self._recheck.is_due():
            self._check_model()

    def _check_model(self) -> None:
        """Raise what `verify` does."""
        began = time.monotonic()
        self._verify()
        self._recheck.note(began)

    def _fault(self, sequences: list[Sequence], error: Exception) -> None:
        """The model raised on these sequences: fail them if it still works, else raise what `verify` does."""
        logger.error("the model failed on %d rows: %s", len(sequences), type(error).__name__)
        self._check_model()
        for sequence in sequences:
            self._replies.fail(sequence, "the model failed on this input")

    def _count(self) -> None:
        if self._meters is not None:
            limit = self._limits.cache_tokens
            self._meters[1].observe_batch(self.running, len(self._waiting), self.cached_tokens, limit)
