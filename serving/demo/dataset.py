"""Labelled requests: `templates.toml` becomes training examples, `held_out` the evaluation. Next: `training`.

A training sentence is a template with its choices made and its slots filled, sometimes with an opening, a closing, a
slip of the keyboard, or neither capitals nor punctuation: the ways in which people write to a support desk.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.demo.held_out import HELD_OUT
from serving.demo.phrases import CLOSINGS, OPENINGS, PRAISE_CLOSINGS, PRAISE_OPENINGS, SLOTS

TEMPLATES: Final[dict[str, str]] = tomllib.loads(Path(__file__).with_name("templates.toml").read_text(encoding="utf-8"))
"""Each intent's templates, a line each."""
LABELS: Final[tuple[str, ...]] = tuple(sorted(TEMPLATES))
"""The intents, in the order of the classifier's outputs."""

EXAMPLES_PER_LABEL: Final = 260

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class CustomerMessage:
    """What a customer wrote, one or two short sentences, and what they want, one of `LABELS`."""

    text: str
    label: str


EVALUATION: Final[tuple[CustomerMessage, ...]] = tuple(
    CustomerMessage(text, label) for label in LABELS for text in HELD_OUT[label]
)
"""Hand-written requests that are never trained on: they judge the classifier, and the demonstration asks them."""


def normalised(text: str) -> str:
    """Return `text` in lower case, its runs of other characters than letters and digits made single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def training_examples(seed: int) -> list[CustomerMessage]:
    """Generate the training set: `EXAMPLES_PER_LABEL` distinct requests per label, in random order.

    No two are the same but for case and punctuation, and none is so close to one of `EVALUATION`. Every prefix is a
    fair sample of the whole. The same seed gives the same list, on every machine.
    """
    rng = random.Random(seed)  # noqa: S311  # no secret
    taken = {normalised(example.text) for example in EVALUATION}
    examples: list[CustomerMessage] = []
    for label in LABELS:
        requests = _requests(label, rng)
        for _ in range(EXAMPLES_PER_LABEL):
            text = next(text for text in requests if normalised(text) not in taken)
            taken.add(normalised(text))
            examples.append(CustomerMessage(text, label))
    rng.shuffle(examples)
    return examples


def _requests(label: str, rng: random.Random) -> Iterator[str]:
    """Yield requests without end, going through the label's templates in a new order each time."""
    templates = [line.strip() for line in TEMPLATES[label].strip().splitlines()]
    openings, closings = (PRAISE_OPENINGS, PRAISE_CLOSINGS) if label == "praise" else (OPENINGS, CLOSINGS)
    while True:
        for template in rng.sample(templates, len(templates)):
            yield _as_typed(_dressed(template, openings, closings, rng), rng)


def _dressed(template: str, openings: Sequence[str], closings: Sequence[str], rng: random.Random) -> str:
    """Fill a template and put an opening before it or a closing behind it, or neither."""
    text = _filled(template, rng)
    shape = rng.random()
    if shape < 0.15:
        return f"{_filled(rng.choice(openings), rng)} {text}"
    if shape < 0.35:
        stop = "" if text.endswith(("?", "!")) else "."
        return f"{text}{stop} {_filled(rng.choice(closings), rng)}"
    return text


def _filled(template: str, rng: random.Random) -> str:
    """Make a template's choices, then fill its slots; the gaps that empty choices leave are closed."""
    chosen = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    filled = _SLOT.sub(lambda found: rng.choice(SLOTS[found[1]]), chosen)
    return re.sub(r"\s+(?=[?!.,]|$)", "", re.sub(r"\s+", " ", filled))


def _as_typed(text: str, rng: random.Random) -> str:
    """Return `text` as a customer may have typed it: with care, in haste, or with a slip."""
    care = rng.random()
    if care < 0.45:
        return text[0].upper() + text[1:] + ("" if text.endswith(("?", "!", ".", ")")) else ".")
    if care < 0.60:
        return text[0].upper() + text[1:]
    if care < 0.75:
        return re.sub(r"[?!.,']", "", text).lower()
    if care < 0.80:
        return text.upper().rstrip("?!.") + "!!"
    return _with_slip(text, rng)


def _with_slip(text: str, rng: random.Random) -> str:
    """Drop, double or swap a letter inside one of the longer words; the first and the last letter stay."""
    words = text.split(" ")
    longer = [index for index, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not longer:
        return text
    index = rng.choice(longer)
    word = words[index]
    at = rng.randrange(1, len(word) - 2)
    slips = (
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
    )
    words[index] = rng.choice(slips)
    return " ".join(words)
