"""The text sets: a word list comes in, texts of chosen token lengths leave for `load` and `limit`.

Every word is one token of the vocabulary, so the length of a text in tokens is exact: words, a full stop, [CLS], [SEP].
"""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

BLOCK = 200
"""The lengths of each block of this many texts follow the whole distribution, so a run that stops early has seen the
same mix."""


@dataclass(frozen=True)
class LengthMix:
    """A log-normal distribution of lengths in tokens, special tokens included, cut to [low, high]; low >= 4."""

    name: str
    median: float
    p90: float
    low: int
    high: int

    def quantile(self, share: float) -> int:
        """The length below which `share` of the texts are, 0 < share < 1."""
        spread = math.log(self.p90 / self.median) / NormalDist().inv_cdf(0.9)
        length = self.median * math.exp(spread * NormalDist().inv_cdf(share))
        return min(max(round(length), self.low), self.high)


SHORT = LengthMix("short", median=11.5, p90=17, low=5, high=32)
MIXED = LengthMix("mixed", median=27, p90=93, low=8, high=256)


def read_words(vocabulary: Path) -> list[str]:
    """5,000 frequent English words of a WordPiece `vocab.txt`, which lists them by frequency after its symbols."""
    lines = vocabulary.read_text(encoding="utf-8").splitlines()
    words = [line for line in lines if len(line) > 2 and line.isascii() and line.isalpha() and line.islower()]
    return words[:5000]


def make_lengths(mix: LengthMix, count: int = 2000, seed: int = 0) -> list[int]:
    """The lengths of `make_texts`, the same every time: the even quantiles of `mix`, shuffled in blocks."""
    rng = random.Random(f"{mix.name} {seed}")
    blocks = max(1, count // BLOCK)
    found = []
    for block in range(blocks):
        lengths = [mix.quantile((rank + 0.5) / count) for rank in range(block, count, blocks)]
        rng.shuffle(lengths)
        found += lengths
    return found


def make_texts(mix: LengthMix, words: list[str], count: int = 2000, seed: int = 0) -> list[str]:
    """`count` texts of the lengths of `make_lengths`, the same every time."""
    rng = random.Random(f"{mix.name} {seed} words")
    return [" ".join(rng.choices(words, k=length - 3)) + "." for length in make_lengths(mix, count, seed)]


def describe_lengths(mix: LengthMix, count: int = 2000) -> str:
    """The mean, median, p90 and maximum of the lengths, in tokens."""
    lengths = sorted(mix.quantile((rank + 0.5) / count) for rank in range(count))
    mean = sum(lengths) / count
    return f"mean {mean:.0f}, p50 {lengths[count // 2]}, p90 {lengths[count * 9 // 10]}, max {lengths[-1]} tokens"
