"""Token ids as they come → text as it goes out: no character is split, none comes twice, no stop string shows.

A front reads streams and whole texts with it, an engine looks for stop strings with it; so both see the same text.
"""

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet."""
MAX_UNFINISHED = 3
"""A character has at most 4 bytes, so at most this many places at the end may still become one."""
PATIENCE_TOKENS = 8
"""Some decoders spoil a whole run of bytes while its end lacks some; so long they are waited for. Ours."""


class Detokenizer:
    """The text of one row. encoder: the version's TextEncoder.

    Only the newest tokens are decoded, after those before them, because many decoders look at the token before.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._context: list[int] = []
        self._context_text = ""
        self._newest: list[int] = []
        self._given = 0

    def push(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete; may be empty."""
        self._newest.extend(ids)
        text = self._read()
        held = len(text) - len(text.rstrip(UNFINISHED))
        if len(self._newest) > PATIENCE_TOKENS:
            held = min(held, MAX_UNFINISHED)
        new = text[self._given : len(text) - held]
        self._given = max(self._given, len(text) - held)
        if new and not held:
            self._context, self._newest, self._given = self._newest, [], 0
            self._context_text = self._encoder.read(self._context)
        return new

    def finish(self) -> str:
        """What was held back, now that nothing more comes."""
        text = self._read()
        new, self._given = text[self._given :], len(text)
        return new

    def _read(self) -> str:
        """The text of the newest tokens. Some decoders spoil a whole run of bytes while its last character lacks some;
        then these tokens are read alone.
        """
        text = str(self._encoder.read(self._context + self._newest))
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        return str(self._encoder.read(self._newest))


class StopFilter:
    """Lets text through up to the first of the stop strings; what may be the beginning of one is held back.

    has_stopped: whether one came; after that nothing comes through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.has_stopped = False

    @property
    def is_holding(self) -> bool:
        """Whether some text is undecided."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """What is certain to stand before any stop string."""
        if self.has_stopped or not self._stops:
            return "" if self.has_stopped else text
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held, self.has_stopped = "", True
            return text[: min(found)]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back, now that nothing more comes."""
        held, self._held = self._held, ""
        return held


class TextReader:
    """Detokenizer and StopFilter together: the text of one row as a client sees it."""

    def __init__(self, encoder: Any, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(encoder)
        self._filter = StopFilter(stops)

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string came."""
        return self._filter.has_stopped

    @property
    def is_holding(self) -> bool:
        """Whether some text is undecided, because it may be the beginning of a stop string."""
        return self._filter.is_holding

    def push(self, ids: Sequence[int], *, is_last: bool = False) -> str:
        """The text that these tokens make certain; with the last ones all that is left."""
        text = self._filter.push(self._detokenizer.push(ids))
        if is_last:
            text += self._filter.push(self._detokenizer.finish())
            text += self._filter.finish()
        return text


def _overlap(text: str, stop: str) -> int:
    """How long an end of `text` is that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
