"""Rows that are written in one decoder, in its order."""

from collections.abc import Callable
from dataclasses import dataclass, field

from serving.engine.generation.decoder import Decoder
from serving.engine.generation.sequence import Entry


@dataclass
class DecodeBatch:
    """entries: the rows, numbered as the decoder numbers them."""

    decoder: Decoder
    entries: list[Entry] = field(default_factory=list)

    def leave(self, places: set[int]) -> list[int]:
        """Let the rows of these numbers go; the old numbers of those that stay, in their new order."""
        stay = self.decoder.leave(places) if places else list(range(len(self.entries)))
        self.entries = [self.entries[place] for place in stay]
        return stay

    def drop(self, is_meant: Callable[[Entry], bool]) -> list[Entry]:
        """Let some rows go; which they were."""
        places = {place for place, entry in enumerate(self.entries) if is_meant(entry)}
        gone = [self.entries[place] for place in places]
        self.leave(places)
        return gone

    def clear(self) -> list[Entry]:
        """Let all rows go, whatever state the decoder is in; which they were."""
        gone, self.entries = self.entries, []
        self.decoder.clear()
        return gone
