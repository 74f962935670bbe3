"""The options of `bench.gpu`, and the models and lengths that it knows."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.texts import LengthMix, make_lengths

SIZES = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}
SMALL = {"base": (2, 32, 2, 64), "large": (3, 64, 4, 128)}
"""Layers, width, attention heads and inner width of a BERT."""
MIXES = {
    "50": LengthMix("50 tokens", median=50, p90=50, low=50, high=50),
    "512": LengthMix("512 tokens", median=512, p90=512, low=512, high=512),
    "mixed": LengthMix("mixed", median=40, p90=200, low=8, high=512),
}


@dataclass(frozen=True)
class Plan:
    """The options of the command line. dtype: of the engine and of the limit; the pipeline has its own on a GPU.

    under_way: rows of each client.
    """

    device: str
    dtype: str
    is_small: bool
    seconds: float
    under_way: int

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def budgets(self) -> Sequence[int]:
        """Padded tokens of a batch that are tried for the limit."""
        return (256, 1024) if self.is_small else (4096, 8192, 16384, 32768, 65536)

    @property
    def pause(self) -> float:
        """Seconds between a client's messages. With tiny models it leaves time for a second engine to load."""
        return 0.1 if self.is_small else 0.0

    @property
    def tokens(self) -> int:
        """Of the rows that the limit and the pipeline go through again and again, about."""
        return 4096 if self.is_small else 1 << 19


def mean_tokens(mix: LengthMix) -> float:
    """Of a row."""
    lengths = make_lengths(mix)
    return sum(lengths) / len(lengths)
