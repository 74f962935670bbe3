"""The sequences that a decoder steps together, in the decoder's order."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from serving.engine.generation.decoder import Decoder, StepFailed
from serving.engine.generation.sampling import NextToken, choose
from serving.engine.generation.sequence import Sequence


@dataclass(frozen=True)
class DecodeStep:
    """logits: of the sequences still in the batch, (rows, vocabulary). failed: those that were removed; error: why."""

    logits: torch.Tensor | None
    failed: list[Sequence] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True)
class Prefill:
    """logits: of each sequence's next token, (rows, vocabulary). reused: tokens of each that were not computed."""

    logits: torch.Tensor
    reused: list[int]


@dataclass
class DecodeBatch:
    """sequences: numbered as the decoder numbers its rows."""

    decoder: Decoder
    sequences: list[Sequence] = field(default_factory=list)

    def prefill(self, sequences: list[Sequence]) -> Prefill:
        """Add sequences by a forward pass over their tokens. Raises what the model does; then none was added."""
        prompts, generated = [each.prompt for each in sequences], [each.tokens for each in sequences]
        logits = self.decoder.prefill(prompts, generated, [each.row.caller for each in sequences])
        self.sequences += sequences
        return Prefill(logits, self.decoder.reused or [0] * len(sequences))

    def step(self) -> DecodeStep:
        """A forward pass over the newest token of each sequence. Sequences that fail are removed."""
        try:
            return DecodeStep(self.decoder.step([sequence.tokens[-1] for sequence in self.sequences]))
        except StepFailed as failure:
            failed = [self.sequences[index] for index in failure.errors]
            kept = self.remove(set(failure.errors))
            return DecodeStep(failure.logits[kept], failed, next(iter(failure.errors.values())))
        except Exception as error:  # a model may raise anything; which rows are at fault is not known
            return DecodeStep(None, self.clear(), error)

    def choose_tokens(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[NextToken]:
        """Each sequence's next token."""
        ids = [
            [] if each.sampler.is_plain else [*self.decoder.history(each.prompt), *each.tokens] for each in sequences
        ]
        return choose(logits, [each.sampler for each in sequences], ids)

    def remove(self, indices: set[int]) -> list[int]:
        """Remove the sequences of these numbers; the old numbers of the remaining ones, in their new order."""
        kept = self.decoder.remove(indices) if indices else list(range(len(self.sequences)))
        self.sequences = [self.sequences[index] for index in kept]
        return kept

    def discard(self, matches: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove the sequences for which `matches` is true; those sequences."""
        indices = {index for index, sequence in enumerate(self.sequences) if matches(sequence)}
        found = [self.sequences[index] for index in indices]
        self.remove(indices)
        return found

    def clear(self) -> list[Sequence]:
        """Remove all sequences, whatever state the decoder is in; those sequences."""
        found, self.sequences = self.sequences, []
        self.decoder.clear()
        return found
