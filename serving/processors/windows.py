"""How a long text is cut into overlapping windows, and what that may come to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from serving.errors import Unprocessable

MAX_WINDOWS = 256
"""Most windows of one text. Untuned: bounds what one request may cost."""
MAX_WINDOW_TOKENS = 1 << 17
"""Most tokens of all windows of one text: those of most windows of 512 tokens."""
PART_CHARACTERS = 1 << 15
"""Of a text whose tokens are only counted. Untuned: some MB while they are."""
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

    def check_total(self, text: str, count: Callable[[str], int]) -> None:
        """Raise Unprocessable for too many tokens in all windows together.

        count: the tokens of a part of the text. Parts are counted one after another, only until they are too many, and
        only where the bytes could be: a tokenizer takes memory for each token.
        """
        if self._total(len(text.encode(errors="replace"))) <= MAX_WINDOW_TOKENS:
            return
        tokens = 0
        for part in parts_of(text):
            tokens += count(part)
            if (found := self._total(tokens)) > MAX_WINDOW_TOKENS:
                raise Unprocessable(
                    f"inputs has a text whose windows have {found:,} or more tokens together, at most "
                    f"{MAX_WINDOW_TOKENS:,} are read: send it in parts, shorten the question, or let windows overlap "
                    "less"
                )

    def _total(self, length: int) -> int:
        return self.max_tokens * (1 + max(0, -(-(length - self.room) // self.step)))


def parts_of(text: str) -> Iterator[str]:
    """The text in parts of at most PART_CHARACTERS, which end before a space where there is one in their last half."""
    begin = 0
    while begin < len(text):
        end = begin + PART_CHARACTERS
        space = text.rfind(" ", begin + PART_CHARACTERS // 2, end) if end < len(text) else -1
        end = space if space > 0 else end
        yield text[begin:end]
        begin = end
