"""A text in which one token is replaced by many others in turn, each read in about the time of the tokens around it."""

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel, Metaspace, WordPiece

LOCAL = (WordPiece, Metaspace, ByteLevel)
"""Decoders (tokenizers 0.23) whose text for a token depends on other tokens in two ways only: the first token has no
space before it, and a character may have its bytes in several."""
UNFINISHED = "\ufffd"


class Reader(Protocol):
    """Decodes token ids to text, as `TextEncoder` does."""

    exact: Tokenizer

    def read(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Decode ids."""


class FilledText:
    """The text of `ids` with another token at `place`, the same as if all ids were decoded.

    Decoded again are the tokens between the nearest solid ones on both sides. A solid token is not skipped, and ends
    with a whole character: so what is before its end does not change with what comes after it, nor the other way round.
    """

    def __init__(self, reader: Reader, ids: Sequence[int], place: int, *, skips_special: bool) -> None:
        self._reader, self._skips_special = reader, skips_special
        first, last, end = 0, len(ids), len(ids)
        if isinstance(reader.exact.decoder, LOCAL):
            first = next((at for at in range(place - 1, -1, -1) if self._is_solid(ids[at])), 0)
            last = next((at for at in range(place + 1, end) if self._is_solid(ids[at])), end)
        self._left, self._right = list(ids[first:place]), list(ids[place + 1 : last + 1])
        self._before, self._known = self._read(ids[: first + 1]) if first else "", 0
        if first:
            self._known = len(self._read(ids[first : first + 1]))
        self._after = self._read(ids[last:])[len(self._read(ids[last : last + 1])) :] if last < end else ""

    def read(self, token: int) -> str:
        """The text with this token."""
        return self._before + self._read([*self._left, token, *self._right])[self._known :] + self._after

    def _read(self, ids: Sequence[int]) -> str:
        return self._reader.read(ids, skip_special_tokens=self._skips_special)

    def _is_solid(self, token: int) -> bool:
        text = self._read([token])
        return bool(text) and not text.endswith(UNFINISHED)
