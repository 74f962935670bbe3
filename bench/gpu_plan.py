"""The options of `bench.gpu`, and the models and lengths that it knows."""

from collections.abc import Mapping, Sequence
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
LOAD_SHARE = 0.77
"""The random arrivals' share of the rows/s that the engine answers at most."""


@dataclass(frozen=True)
class Goal:
    """What an engine is to reach on an NVIDIA H200. minimum, better: tokens/s; minimum is the best published figure
    (Arctic Inference), where there is one. of_limit: share of the bare limit. p99: milliseconds, under random arrivals.
    """

    minimum: float
    better: float
    of_limit: float
    p99: float


GOALS = {
    ("base", "50"): Goal(1_410_000, 2_000_000, 0.9, 70),
    ("base", "512"): Goal(1_640_000, 1_830_000, 0.95, 130),
    ("large", "50"): Goal(570_000, 570_000, 0.9, 70),
    ("large", "512"): Goal(530_000, 530_000, 0.95, 130),
}
"""By model and lengths."""


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
    def sizes(self) -> Mapping[str, Sequence[int]]:
        """Of the models, by name."""
        return SMALL if self.is_small else SIZES

    @property
    def budgets(self) -> Sequence[int]:
        """Padded tokens of a batch that are tried for the limit."""
        return (256, 1024) if self.is_small else (4096, 8192, 16384, 32768, 65536)

    @property
    def product_size(self) -> int:
        """Rows and columns of the product whose speed the forward passes are compared with."""
        return 256 if self.is_small else 8192

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


def operations_per_token(sizes: Sequence[int], mix: LengthMix) -> float:
    """Floating-point operations of the encoder's products for a token, a multiplication and an addition counted as two.

    sizes: layers, width, attention heads and inner width.
    """
    layers, width, _, inner = sizes
    lengths = make_lengths(mix)
    attended = sum(length * length for length in lengths) / sum(lengths)
    return layers * (8 * width * width + 4 * width * inner + 4 * attended * width)
