r"""Patterns of whole texts, for msgspec's `Meta(pattern=…)`, which searches a text for a match.

A pattern that ends in `$` finds "3\n", too, and `\d` finds the digits of all scripts: two texts then stand for one
number. The patterns are also in the OpenAPI document, where `\A` and `\Z` would mean letters.
"""

import re

VERSION = r"[1-9][0-9]{0,17}"
"""A version's number as MLflow writes it: one text for each."""
ALIAS = r"[\w-]{1,255}"
"""Of a version, as MLflow allows it: letters of all scripts."""
ORIGIN = r"https?://([a-z0-9._\-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
"""An origin as browsers send it: without a path, and without a port that is the scheme's own."""


def whole(pattern: str) -> str:
    """The pattern of texts that are one match from their beginning to their end, in Python and in JSON Schema."""
    return rf"^(?:{pattern})$(?!\n)"


def is_version(text: str) -> bool:
    """Whether the text is a version's number."""
    return re.fullmatch(VERSION, text) is not None
