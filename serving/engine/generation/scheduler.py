"""The scheduler of an engine whose task generates: its sequences wait, are prefilled and take steps of one token.

Before each step waiting sequences are admitted where there is room, see `admission`. `runner` runs the model over those
that were. A sequence leaves with the step in which it ends, is cancelled or passes its deadline.

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

from serving.engine.generation.admission import (
    SEARCH_SHARE,
    SchedulerLimits,
    count_search,
    heed_suspects,
    plan_admission,
)
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.prefix_cache import BLOCK_TOKENS, PrefixCache
from serving.engine.generation.replies import QueuedReply, Replies
from serving.engine.generation.runner import ModelRunner
from serving.engine.generation.sampling import UnfitSettings
from serving.engine.generation.sequence import Sequence, SequenceMaker
from serving.engine.generation.waiting import WaitingSequences
from serving.engine.meter import EngineMeter, GenerationMeter
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
        self._replies = Replies()
        self._runner = ModelRunner(decoder, isolated, self._replies, verify)
        self._sequences = SequenceMaker(decoder, encoder, stop_check, may_isolate=isolated is not None)
        self._limits = SchedulerLimits(max_rows, limit_tokens, pass_tokens)
        self._meter: GenerationMeter | None = None
        self.announce: Callable[[Iterable[Sequence]], None] = lambda _: None
        """Called before each step with the sequences that it computes."""
        self._has_suspects = False
        self._waiting = WaitingSequences()
        self._prefilled_tokens = 0

    @property
    def decoder(self) -> Decoder:
        """The decoder of the sequences that are not isolated."""
        return self._runner.decoder

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
        return self._runner.step_tokens + (0 if first is None else max(MAX_PREFILL_TOKENS, first.length))

    @property
    def running(self) -> int:
        """Number of sequences in a batch or a beam search."""
        return len(self._runner)

    @property
    def cached_tokens(self) -> int:
        """Positions of the cache in use."""
        return self._runner.cached_tokens

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
        self._meter = self._replies.count_in(meter)
        self._runner.count_in(meter, self._meter)

    def add(self, client: bytes, row: Row, now: float) -> None:
        """Add a row to those that wait. One whose sampling cannot be set up fails; the next step reports it."""
        try:
            sequence = self._sequences.make(client, row, now)
            self._check_search(sequence)
        except UnfitSettings as error:
            self._replies.refuse(client, row.id, str(error), reason="refused")
            return
        except Exception as error:  # sampling is transformers' code and may raise anything; only this row fails
            logger.error("the sampling of a row could not be set up: %s", type(error).__name__)
            self._replies.refuse(client, row.id, "the row's sampling could not be set up")
            return
        self._waiting.add(sequence)
        self._has_suspects |= row.is_suspect

    def _check_search(self, sequence: Sequence) -> None:
        """Raise UnfitSettings for a beam search that needs more positions than searches may take of the cache.

        A search with at most the checkpoint's own number of beams is never refused.
        """
        asked = sequence.settings.num_beams or 1
        needed, limit = count_search([sequence]), int(SEARCH_SHARE * self._limits.cache_tokens)
        if asked > (self.decoder.module.generation_config.num_beams or 1) and needed > limit:
            raise UnfitSettings(
                f"parameters.num_beams is {asked}: beams of up to {sequence.max_length:,} tokens each take {needed:,} "
                f"positions of the cache, which has {limit:,} for searches: ask for fewer beams or new tokens"
            )

    @torch.inference_mode()
    def cancel(self, client: bytes, ids: Collection[int]) -> int:
        """Remove a client's rows, waiting or running; how many there were."""
        wanted = set(ids)
        waiting = self._waiting.cancel(client, wanted)
        return len(waiting) + len(self._runner.discard(lambda each: each.row.id in wanted and each.client == client))

    @torch.inference_mode()
    def forget_client(self, client: bytes) -> int:
        """Remove all rows of a client, waiting or running; how many there were."""
        waiting = self._waiting.cancel(client, [each.row.id for each in self._waiting if each.client == client])
        return len(waiting) + len(self._runner.discard(lambda each: each.client == client))

    @torch.inference_mode()
    def step(self) -> list[QueuedReply]:
        """Admit waiting sequences, or generate a token for each running one; the replies that are due.

        Raises what `verify` does, after a fault. The model is of no use then, and what it failed on gets no reply.
        """
        self._expire(time.monotonic())
        prefilled = self._admit(MAX_PREFILL_TOKENS - self._prefilled_tokens)
        self._prefilled_tokens = self._prefilled_tokens + prefilled if prefilled else 0
        if not prefilled:  # a prefill has made first tokens: they are reported at once
            self._runner.advance()
        self._runner.advance_search()
        self._count()
        return self.take_due()

    def take_due(self) -> list[QueuedReply]:
        """The replies that a step had ready before it raised."""
        return self._replies.take()

    def _expire(self, now: float) -> None:
        """Fail what passed its deadline. A stream that has begun has none any more: its reader may leave."""

        def is_late(each: Sequence) -> bool:
            return each.row.deadline <= now and not (each.row.streams and each.sent)

        for sequence in self._waiting.expire(now) + self._runner.discard(is_late):
            self._replies.expire(sequence)

    def _admit(self, max_tokens: int) -> int:
        """Admit waiting sequences; how many tokens were prefilled, padding included. max_tokens: bound of these."""
        plan = plan_admission(
            self._admissible(),
            self._runner.batched(),
            self._limits,
            width=self.decoder.width,
            cost=self._cost,
            max_tokens=max_tokens,
            search_tokens=self._runner.search_tokens,
        )
        for sequence in plan.preempt:
            self._preempt(sequence)
        if plan.search:
            for sequence in self._runner.start_search(plan.search):
                self._waiting.remove(sequence)
        self.announce([*self._runner.sequences(), *plan.prefill])
        most = max(map(self._cost, plan.prefill), default=0)
        if plan.prefill:
            for is_isolated in (False, True):
                self._prefill([sequence for sequence in plan.prefill if sequence.is_isolated == is_isolated])
        return len(plan.prefill) * self.decoder.width(most)

    def _cost(self, sequence: Sequence) -> int:
        """How many tokens a prefill of a sequence computes, as far as it depends on that one alone."""
        if sequence.is_isolated:
            return sequence.length
        return self.decoder.computed_tokens([*sequence.prompt, *sequence.tokens], sequence.row.caller)

    def _admissible(self) -> Iterable[Sequence]:
        """The waiting sequences that may be admitted now, in order of priority."""
        if not self._has_suspects:
            return self._waiting
        running = self._runner.sequences()
        self._has_suspects = any(each.row.is_suspect for each in (*running, *self._waiting))
        return heed_suspects(self._waiting, running)

    def _preempt(self, sequence: Sequence) -> None:
        """Let a running sequence wait again."""
        self._runner.remove(sequence)
        sequence.tokens_since_admitted = 0
        self._waiting.add(sequence)
        if self._meter is not None:
            self._meter.observe_preemption()

    def _prefill(self, sequences: list[Sequence]) -> None:
        """Move waiting sequences into their batch. If that fails, each is tried once more, by itself."""
        if not sequences:
            return
        now = time.monotonic()
        for sequence in sequences:
            self._waiting.remove(sequence)
            sequence.started = sequence.started or now
        if self._runner.prefill(sequences):
            return
        for sequence in sequences:  # each is taken from there again
            self._waiting.add(sequence)
        for sequence in sequences:
            sequence.is_tried = True
            self._prefill([sequence])

    def _count(self) -> None:
        if self._meter is not None:
            limit = self._limits.cache_tokens
            self._meter.observe_batch(self.running, len(self._waiting), self.cached_tokens, limit)
