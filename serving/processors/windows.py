"""How a long text is cut into overlapping windows, and what that may come to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from serving.errors import Unprocessable

MAX_WINDOWS = 256
"""Most windows of one text. Untuned: bounds what one request may cost."""
MAX_WINDOW_TOKENS = 1 << 17
"""Most tokens of all windows of one text: those of most windows of 512 tokens."""
MIN_WINDOW_TOKENS = 8
"""Least tokens of the text in a window. Untuned: below it windows are nearly all overlap."""


@dataclass(frozen=True)
class WindowPlan:
    """max_tokens: of a window. room: those of them that are the text's. stride: those that neighbours share."""

    max_tokens: int
    room: int
    stride: int

    @classmethod
    def of(cls, max_tokens: int, fixed: int, stride: int) -> Self:
        """Windows with `fixed` tokens that are not the text's. Raises Unprocessable where these leave no room."""
        room = max_tokens - fixed
        if room < MIN_WINDOW_TOKENS:
            raise Unprocessable(
                f"a window of {max_tokens} tokens has {max(0, room)} left for the text, it needs {MIN_WINDOW_TOKENS}: "
                "shorten the question, or raise max_seq_len"
            )
        return cls(max_tokens, room, min(stride, room // 2))

    @property
    def step(self) -> int:
        """Tokens of the text from the start of one window to that of the next."""
        return self.room - self.stride

    def check_total(self, characters: int, count: Callable[[], int]) -> None:
        """Raise Unprocessable for too many tokens in all windows together.

        characters: of the text, which has no more tokens. count: counts its tokens, and is asked only where the
        characters could exceed the bound.
        """
        if self._total(characters) > MAX_WINDOW_TOKENS and (found := self._total(count())) > MAX_WINDOW_TOKENS:
            raise Unprocessable(
                f"inputs has a text whose windows have {found:,} tokens together, at most {MAX_WINDOW_TOKENS:,} "
                "are read: send it in parts, shorten the question, or let windows overlap less"
            )

    def _total(self, length: int) -> int:
        return self.max_tokens * (1 + max(0, -(-(length - self.room) // self.step)))
