"""Images whose header claims too much are refused, and Pillow's process-wide bound is left as it is."""

import struct
import zlib

import pytest
from PIL import Image

from serving.errors import TooLarge
from serving.processors.images import MAX_PIXELS, _open


def claimed(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 5_001), (10_000, 9_000), (30_000, 30_000)], ids=["above ours", "warned of", "a bomb"]
)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(TooLarge, match=f"{MAX_PIXELS:,}"):
        _open(claimed(width, height))
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_image_at_the_bound_is_opened() -> None:
    assert _open(claimed(10_000, 5_000)).size == (10_000, 5_000)
