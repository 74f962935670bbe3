"""Token ids → text, piece by piece: no character is split or repeated, and no stop string is shown.

A front reads streams and complete texts with it and an engine finds stop strings with it, so both see the same text.

`tokenizers.decoders.DecodeStream` (0.23) is not used. It cannot give what it holds when the text ends inside a
character. Of byte-fallback tokenizers (Llama's first ones) it holds bytes that are no character without bound, gives
text that the whole decode does not begin with, or raises "Invalid prefix encountered", which would end the row.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Protocol

from serving.processors.clean_up import Cleaner

UNFINISHED = "\ufffd"
"""The decoder's text for bytes that are not a character, or not yet a complete one."""
MAX_UNFINISHED = 3
"""At most this many trailing bytes can be part of one incomplete character, since UTF-8 has at most 4 bytes each."""
PATIENCE_TOKENS = 8
"""Some decoders replace a whole run of bytes while its last character is incomplete. For this many tokens the whole run
is held back. Untuned: twice the tokens that one character can take."""
MAX_NEWEST_TOKENS = 32
"""More tokens than this are not decoded again and again where they complete nothing: they have no text, or are bytes
that are no character. Untuned."""


class TokenReader(Protocol):
    """Decodes token ids to text, as `TextEncoder` does."""

    @property
    def special_ids(self) -> Collection[int]:
        """Ids of special tokens, which `read` leaves out."""

    def read(self, ids: Sequence[int]) -> str:
        """Decode ids, without special tokens."""


class Detokenizer:
    """The text of one row. encoder: the version's tokenizer.

    Only the newest tokens are decoded, together with some tokens before them: many decoders look at the previous token.
    """

    def __init__(self, encoder: TokenReader) -> None:
        self._encoder = encoder
        self._context: list[int] = []
        self._context_text = ""
        self._newest: list[int] = []
        self._given = 0
        self._unfinished = 0

    def push(self, ids: Sequence[int]) -> str:
        """Append tokens; the text that they complete, which may be empty."""
        shown = [each for each in ids if each not in self._encoder.special_ids]
        if not shown:
            return ""
        self._newest.extend(shown)
        self._unfinished += len(shown)
        text = self._read()
        held = len(text) - len(text.rstrip(UNFINISHED))
        if self._unfinished > PATIENCE_TOKENS:
            held = min(held, MAX_UNFINISHED)
        new = text[self._given : len(text) - held]
        self._given = max(self._given, len(text) - held)
        is_complete = bool(new) and not held
        if is_complete or len(self._newest) > MAX_NEWEST_TOKENS:
            ungiven = len(text) - self._given
            self._context, self._newest, self._given = self._newest, [], 0
            known = self._encoder.read(self._context)
            self._context_text = known[: max(0, len(known) - ungiven)]
            self._unfinished = 0 if is_complete else self._unfinished
        return new

    def finish(self) -> str:
        """The text that was held back. No more tokens follow."""
        text = self._read()
        new, self._given = text[self._given :], len(text)
        return new

    def _read(self) -> str:
        """The text of the newest tokens. They are decoded by themselves where the decoder changes the text before them,
        as some do for a run of bytes whose last character is incomplete.
        """
        text = str(self._encoder.read(self._context + self._newest))
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        return str(self._encoder.read(self._newest))


class StopFilter:
    """Passes text up to the first stop string, and holds back what can be the beginning of one.

    has_stopped: whether a stop string came. No text passes after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.has_stopped = False

    def push(self, text: str) -> str:
        """Append text; what of it is certainly not part of a stop string."""
        if self.has_stopped or not self._stops:
            return "" if self.has_stopped else text
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held, self.has_stopped = "", True
            return text[: min(found)]
        begin = self._find_beginning(text)
        self._held = text[begin:]
        return text[:begin]

    def finish(self) -> str:
        """The text that was held back. No more text follows."""
        held, self._held = self._held, ""
        return held

    def _find_beginning(self, text: str) -> int:
        """Where the longest end of `text` is that a stop string begins with; `text` has no stop string.

        What is held back begins no earlier than before, so over all calls each character is tried once.
        """
        for place in range(max(0, len(text) - self._longest + 1), len(text)):
            end = text[place:]
            index = bisect_left(self._stops, end)  # those that begin with `end` are from here on
            if index < len(self._stops) and self._stops[index].startswith(end):
                return place
        return len(text)


class TextReader:
    """Detokenizer and StopFilter together: the text of one row as a client sees it.

    cleans_up: whether the text that passes is cleaned up. Stop strings are found in the text as it was.
    """

    def __init__(self, encoder: TokenReader, stops: Sequence[str], *, cleans_up: bool = False) -> None:
        self._detokenizer = Detokenizer(encoder)
        self._filter = StopFilter(stops)
        self._cleaner = Cleaner() if cleans_up else None

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string came."""
        return self._filter.has_stopped

    def push(self, ids: Sequence[int], *, is_last: bool = False) -> str:
        """Append tokens; the text that is certain. With the last tokens that is all remaining text."""
        text = self._filter.push(self._detokenizer.push(ids))
        if is_last:
            text += self._filter.push(self._detokenizer.finish())
            text += self._filter.finish()
        return text if self._cleaner is None else self._cleaner.push(text, is_last=is_last or self.has_stopped)
