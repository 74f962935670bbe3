"""The units in which a task declares what a request costs beyond its body; `bounds` checks them. Front side."""

import msgspec

NUMBER_BYTES = 80
"""Memory of a number of an answer while the answer is written: 32 as Python's, at most 24 as JSON, which is copied
once."""
CHARACTERS_OF_A_TOKEN = 8
"""Characters that a token of an answer takes. Untuned: above the 4 to 5 of real text, with the space."""
OBJECT_BYTES = 512
"""Memory of an object of an answer with some short fields: 400 as Python's, 100 as JSON."""
CHARACTER_BYTES = 4
"""Memory of a character of an answer: of Latin text 1 as Python's, and 1 as JSON, which is copied; others take more."""


class ItemCost(msgspec.Struct, frozen=True, gc=False):
    """What one input expands to, at most. characters: of all rows, to be tokenized. pixel_bytes: of decoded images."""

    rows: int
    characters: int
    pixel_bytes: int = 0

    def plus(self, other: "ItemCost") -> "ItemCost":
        """Of both together."""
        return ItemCost(
            self.rows + other.rows, self.characters + other.characters, self.pixel_bytes + other.pixel_bytes
        )


def count_characters(item: object) -> int:
    """The characters of an input: of a text, or of all texts of a struct."""
    if isinstance(item, str):
        return len(item)
    count = 0
    for name in getattr(item, "__struct_fields__", ()):
        value = getattr(item, name)
        if isinstance(value, str):
            count += len(value)
    return count


def answer_text(characters: int) -> int:
    """Memory of a text in an answer, in bytes."""
    return CHARACTER_BYTES * characters
