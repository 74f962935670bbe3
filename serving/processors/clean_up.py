"""Takes out the spaces that a tokenizer leaves before punctuation, as `clean_up_tokenization` of transformers (5.23).

Whole texts and streams come out the same: a stream holds back what the text after it can change.
"""

REPLACED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
"""One after another, in the whole text."""
_MAX_LENGTH = max(len(found) for found, _ in REPLACED)


def clean_up(text: str) -> str:
    """The whole text, cleaned up."""
    for found, instead in REPLACED:
        text = text.replace(found, instead)
    return text


class Cleaner:
    """Cleans up one text that comes in parts."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str, *, is_last: bool = False) -> str:
        """Append text; what of it is certain. With the last part that is all remaining text."""
        text = self._held + text
        cut = len(text) if is_last else _safe_cut(text)
        self._held = text[cut:]
        return clean_up(text[:cut])


def _safe_cut(text: str) -> int:
    """Where the text can be cut so that both parts are cleaned up as in one, as late as possible.

    Each replaced string begins with a space, and only spaces are taken out. So none reaches over a cut behind as many
    characters without a space as it has more than one.
    """
    cut = len(text)
    while (space := text.rfind(" ", max(0, cut - (_MAX_LENGTH - 1)), cut)) >= 0:
        cut = space
    return cut
