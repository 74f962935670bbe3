"""Texts of a registry or a server, as they may be shown on a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with each character that could command a terminal, or has no bytes, written as its number.

    Tabs and line breaks stay.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
