"""Runs the model over admitted sequences: prefills, steps of one token, and steps of a beam search.

`scheduler` admits them; the tokens that are chosen go to `replies`. Where the model raises on sequences, these fail, if
it still works for others.
"""

import logging
import time
from collections.abc import Callable, Iterable

import torch

from serving.engine.generation.beam_search import BeamSearch
from serving.engine.generation.decode_batch import DecodeBatch
from serving.engine.generation.decoder import Decoder
from serving.engine.generation.replies import Replies
from serving.engine.generation.sampling import NextToken
from serving.engine.generation.sequence import Sequence
from serving.engine.meter import EngineMeter, GenerationMeter
from serving.engine.recheck import Recheck
from serving.errors import FAILED_ON_INPUT, NOT_FINITE

logger = logging.getLogger("headwaiter.engine")


class ModelRunner:
    """Forward passes over an engine's running sequences, in a batch or a beam search. `len()` counts the sequences.

    isolated: decoder of isolated sequences; None where all share their forward passes. verify: raises where the model
    no longer works; called after a fault.
    """

    def __init__(
        self, decoder: Decoder, isolated: Decoder | None, replies: Replies, verify: Callable[[], None]
    ) -> None:
        self._batch = DecodeBatch(decoder)
        self._isolated = self._batch if isolated is None else DecodeBatch(isolated)
        self._batches = [self._batch] if isolated is None else [self._batch, self._isolated]
        self._search: BeamSearch | None = None
        self._replies = replies
        self._verify = verify
        self._recheck = Recheck()
        self._meters: tuple[EngineMeter, GenerationMeter] | None = None

    @property
    def decoder(self) -> Decoder:
        """The decoder of the sequences that are not isolated."""
        return self._batch.decoder

    def __len__(self) -> int:
        searched = len(self._search.sequences) if self._search else 0
        return searched + sum(len(batch.sequences) for batch in self._batches)

    @property
    def step_tokens(self) -> int:
        """Tokens of the next step: one of each sequence, and of each beam of a search."""
        beams = sum(each.sampler.beams for each in self._search.sequences) if self._search else 0
        return beams + sum(len(batch.sequences) for batch in self._batches)

    @property
    def search_tokens(self) -> int:
        """Positions of the cache that the running beam search may come to; 0 without one. Only one runs at a time."""
        return self._search.max_cached_tokens if self._search else 0

    @property
    def cached_tokens(self) -> int:
        """Positions of the cache in use, and those that a beam search may come to."""
        return self.search_tokens + sum(batch.decoder.cached_tokens for batch in self._batches)

    def count_in(self, meter: EngineMeter, generation: GenerationMeter) -> None:
        """Count in this version's metrics from now on."""
        self._meters = meter, generation

    def sequences(self) -> list[Sequence]:
        """Every running sequence."""
        searched = self._search.sequences if self._search is not None else []
        return [*searched, *(sequence for batch in self._batches for sequence in batch.sequences)]

    def batched(self) -> list[Sequence]:
        """The running sequences in a batch, which are all but those of a beam search."""
        return [sequence for batch in self._batches for sequence in batch.sequences]

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence that is in a batch and not isolated."""
        self._batch.remove({self._batch.sequences.index(sequence)})

    def discard(self, matches: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove the sequences for which `matches` is true; those sequences."""
        found = []
        if self._search is not None and (found := [each for each in self._search.sequences if matches(each)]):
            self._search.remove(found)
            self._search = self._search if self._search.sequences else None
        for batch in self._batches:
            found += batch.discard(matches)
        return found

    def start_search(self, sequences: list[Sequence]) -> list[Sequence]:
        """Begin a beam search over sequences of the same settings, or the first of them where the decoder takes one.

        Returns those that take part.
        """
        taken = sequences if self.decoder.may_search_together else sequences[:1]
        self._search = BeamSearch(self.decoder, taken)
        return taken

    def prefill(self, sequences: list[Sequence]) -> bool:
        """Add sequences to their batch, and generate a token for each. They are all isolated, or none is.

        Returns False where the model raised and each is to be tried by itself: none was added. One that was tried
        before fails. Raises what `verify` does.
        """
        batch = self._isolated if sequences[0].is_isolated else self._batch
        try:
            prefill = batch.prefill(sequences)
        except Exception as error:  # a model may raise anything; only the row at fault fails
            if len(sequences) > 1 or not sequences[0].is_tried:
                return False
            self._fault(sequences, error)
            return True
        new = [each for each in sequences if not each.tokens]
        for sequence, reused in zip(sequences, prefill.reused, strict=True):
            sequence.reused = sequence.reused if sequence.tokens else reused
        if self._meters is not None:
            lengths = [sequence.length for sequence in sequences]
            most = max(length - reused for length, reused in zip(lengths, prefill.reused, strict=True))
            self._meters[0].observe_batch(lengths, len(lengths) * batch.decoder.width(most), sum(prefill.reused))
            self._meters[1].observe_prompt(sum(len(each.prompt) for each in new), sum(each.reused for each in new))
        self._take_tokens(prefill.logits, batch, sequences)
        return True

    def advance(self) -> None:
        """Generate a token for each sequence in a batch. Raises what `verify` does."""
        for batch in self._batches:
            if batch.sequences:
                step = batch.step()
                if step.logits is not None:
                    self._take_tokens(step.logits, batch, batch.sequences)
                if step.error is not None:
                    self._fault(step.failed, step.error)

    def advance_search(self) -> None:
        """Take a step of the beam search, if one runs. Raises what `verify` does."""
        search = self._search
        if search is None:
            return
        sequences = list(search.sequences)
        try:
            if not search.step():
                return
        except Exception as error:  # a model may raise anything; a search fails with all of its rows
            self._search = None
            self._fault(sequences, error)
            return
        self._search = None
        for sequence in sequences:
            self._replies.take_text(sequence, time.monotonic())

    def _take_tokens(self, logits: torch.Tensor, batch: DecodeBatch, sequences: list[Sequence]) -> None:
        """Append a token to each of the batch's last sequences; remove those that end."""
        now = time.monotonic()
        first = len(batch.sequences) - len(sequences)
        choices = batch.choose_tokens(logits, sequences)
        self._look_at_choices(choices)
        ended = set()
        for index, (sequence, choice) in enumerate(zip(sequences, choices, strict=True), first):
            if self._replies.take_token(sequence, choice, now):
                ended.add(index)
        if self._meters is not None:
            self._meters[1].observe_tokens(len(sequences))
        batch.remove(ended)

    def _look_at_choices(self, choices: Iterable[NextToken]) -> None:
        """Check the model if logits are not finite, which may be the device's fault, and not the row's."""
        if any(choice.problem == NOT_FINITE for choice in choices) and self._recheck.is_due():
            self._check_model()

    def _check_model(self) -> None:
        """Raise what `verify` does."""
        began = time.monotonic()
        self._verify()
        self._recheck.note(began)

    def _is_of_input(self, error: Exception) -> bool:
        """Whether a device that is broken cannot have raised this. Clients can cause such errors again and again."""
        return isinstance(error, ValueError | IndexError) or self.decoder.device.type == "cpu"

    def _fault(self, sequences: list[Sequence], error: Exception) -> None:
        """The model raised on these sequences: fail them if it still works, else raise what `verify` does.

        What cannot be the device's fault has the model looked at as rarely as `Recheck` says.
        """
        logger.error("the model failed on %d rows: %s", len(sequences), type(error).__name__)
        if not self._is_of_input(error) or self._recheck.is_due():
            self._check_model()
        for sequence in sequences:
            self._replies.fail(sequence, FAILED_ON_INPUT)
