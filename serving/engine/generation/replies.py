"""What is due to the fronts: the tokens of sequences that end or are streamed, and the failures, counted."""

import logging

from serving.engine.generation.sampling import NextToken
from serving.engine.generation.sequence import Sequence
from serving.engine.meter import EngineMeter, GenerationMeter
from serving.wire.messages import Failure, FailureReason, Finish, TokenDelta

logger = logging.getLogger("headwaiter.engine")

QueuedReply = tuple[bytes, TokenDelta | Failure]
"""The front's ZeroMQ identity and the message for it."""


class Replies:
    """The replies that are due, oldest first. `bool()`: whether there are any."""

    def __init__(self) -> None:
        self._due: list[QueuedReply] = []
        self._meter: GenerationMeter | None = None

    def __bool__(self) -> bool:
        return bool(self._due)

    def count_in(self, meter: EngineMeter) -> GenerationMeter:
        """Count in this version's metrics from now on; in which."""
        self._meter = GenerationMeter(**meter.fields)
        return self._meter

    def take(self) -> list[QueuedReply]:
        """The replies; none is due any more."""
        due, self._due = self._due, []
        return due

    def take_token(self, sequence: Sequence, choice: NextToken, now: float) -> bool:
        """Append the next token of a sequence, and send what is due of it. Returns whether it has ended or failed."""
        finish = self._append(sequence, choice)
        if finish is None:
            return True
        if not sequence.first_token:
            sequence.first_token = now
            if self._meter is not None:
                self._meter.observe_first_token(now - sequence.arrived)
        if finish or sequence.row.streams:
            self._due.append((sequence.client, sequence.take_delta(finish)))
        if finish and self._meter is not None:
            self._meter.observe_end(len(sequence.tokens) - 1, now - sequence.first_token)
        return bool(finish)

    def take_text(self, sequence: Sequence, now: float) -> None:
        """Append and send all that a beam search found for a sequence."""
        sequence.first_token = now
        finish: Finish | None = ""
        for choice in sequence.searched:
            finish = self._append(sequence, choice)
            if finish != "":
                break
        if finish is None:
            return
        self._due.append((sequence.client, sequence.take_delta(finish or "length")))
        if self._meter is not None:
            self._meter.observe_tokens(len(sequence.tokens))

    def _append(self, sequence: Sequence, choice: NextToken) -> Finish | None:
        """Append a sequence's next token; None where the row failed instead."""
        if choice.problem:
            self.fail(sequence, choice.problem)
            return None
        try:
            return sequence.append(choice)
        except Exception as error:  # reading its text is the tokenizer's code and may raise anything
            logger.error("the text of a row could not be read: %s", type(error).__name__)
            self.fail(sequence, "the generated text could not be read")
            return None

    def fail(self, sequence: Sequence, message: str) -> None:
        """End a sequence without its text."""
        self.refuse(sequence.client, sequence.row.id, message)

    def refuse(self, client: bytes, row_id: int, message: str, reason: FailureReason = "failed") -> None:
        """End a row of which no sequence was made."""
        self._due.append((client, Failure([row_id], reason, message)))

    def expire(self, sequence: Sequence) -> None:
        """End a sequence that has passed its deadline."""
        where = "while it was written" if sequence.choices else "in the queue"
        message = f"the deadline passed {where}: ask for less, or later"
        self._due.append((sequence.client, Failure([sequence.row.id], "deadline", message)))
