"""What a TIFF's header says of how libtiff will decode it; what costs far more than its size is refused unread."""

import struct
from typing import TYPE_CHECKING

from serving.errors import Unprocessable
from serving.processors.image_memory import ROWS_PER_STRIP, TILE_LENGTH, TILE_WIDTH

if TYPE_CHECKING:
    from PIL.Image import Image

COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg")
"""Pillow's names of those that are read. Of the others, a fax makes libtiff write a line to stderr for each row, and
LZMA and ZSTD make gigabytes of kilobytes."""
COMPRESSION = 259
SETTLING = {COMPRESSION, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH}
"""Tags (TIFF 6.0) that settle what decoding takes."""
SHORT, LONG, LONG8 = 3, 4, 16
BIG_TIFF = 43
"""The version of files with 64-bit offsets."""


def check_tiff(image: "Image", data: bytes) -> None:
    """Raise Unprocessable for a TIFF of a compression that is not read, or whose settling tags are ambiguous."""
    if (name := image.info.get("compression", "raw")) not in COMPRESSIONS:
        raise Unprocessable(
            f"inputs holds a TIFF that is compressed as {name}, read are those without compression and those of "
            "packbits, LZW, deflate and JPEG: save it with one of these, or send a PNG"
        )
    try:
        found = [(tag, kind) for tag, kind in _entries(data) if tag in SETTLING]
    except struct.error as error:
        raise Unprocessable("inputs holds a TIFF whose file is broken: send it again") from error
    tags = [tag for tag, _ in found]
    if len(set(tags)) < len(tags) or any(kind not in (SHORT, LONG, LONG8) for _, kind in found):
        raise Unprocessable(
            "inputs holds a TIFF that states its compression, strips or tiles twice, or not as whole numbers: "
            "save it again, or send a PNG"
        )


def _entries(data: bytes) -> list[tuple[int, int]]:
    """(tag, type) of all entries of the first image; Pillow skips some that libtiff reads. Raises struct.error."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = BIG_TIFF in struct.unpack_from(order + "H", data, 2)
    (start,) = struct.unpack_from(order + ("Q" if is_big else "L"), data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    first, size = (start + 8, 20) if is_big else (start + 2, 12)
    return [struct.unpack_from(order + "HH", data, first + size * place) for place in range(count)]
