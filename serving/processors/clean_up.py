"""Takes out the spaces that a tokenizer leaves before punctuation, as `clean_up_tokenization` of transformers (5.23).

Whole texts and streams come out the same: a stream holds back what the text after it can change.
"""

REPLACED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)
"""One after another, in the whole text."""


def clean_up(text: str) -> str:
    """The whole text, cleaned up."""
    for found, instead in REPLACED:
        text = text.replace(found, instead)
    return text


class Cleaner:
    """Cleans up one text that comes in parts, in time linear in its length. Holds back a few characters at most."""

    def __init__(self) -> None:
        self._rules = [_Rule(found, instead) for found, instead in REPLACED]

    def push(self, text: str, *, is_last: bool = False) -> str:
        """Append text; what of it is certain. With the last part that is all remaining text."""
        for rule in self._rules:
            if not text and not is_last:
                break
            text = rule.push(text, is_last=is_last)
        return text


class _Rule:
    """Replaces one string in a text that comes in parts. Holds back what can be the string's beginning."""

    def __init__(self, found: str, instead: str) -> None:
        self._found, self._instead = found, instead
        self._beginnings = tuple(found[:size] for size in range(len(found) - 1, 0, -1))
        self._held = ""

    def push(self, text: str, *, is_last: bool) -> str:
        text = self._held + text
        parts = text.split(self._found)
        last, self._held = parts[-1], ""
        if not is_last and last.endswith(self._beginnings):
            self._held = next(each for each in self._beginnings if last.endswith(each))
            parts[-1] = last.removesuffix(self._held)
        return self._instead.join(parts)
