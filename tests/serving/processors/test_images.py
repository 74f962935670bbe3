"""Images whose header claims too much are refused, and Pillow's process-wide bound is left as it is."""

import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from registry.contract import ImageSettings, Processor
from serving.errors import TooLarge
from serving.processors.images import MAX_PIXELS, ORIENTATION, ImageReader, _open, memory_of, shape
from tests.contracts import classifier


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


def file_of(image: Image.Image, **options: Any) -> Image.Image:
    """The image, saved as a JPEG and opened again."""
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return _open(file.getvalue())


def settings(resize: tuple[int, ...] = (), crop: tuple[int, ...] = ()) -> ImageSettings:
    return ImageSettings(resize=resize, resample=2, crop=crop, scale=1.0, mean=(), std=(), height=8, width=8)


def test_memory_counts_the_image_and_each_copy() -> None:
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    colour, grey = Image.new("RGB", (40, 20)), Image.new("L", (40, 20))
    assert memory_of(file_of(colour), settings()) == 4 * 800
    assert memory_of(file_of(colour, exif=turned), settings()) == 2 * 4 * 800
    assert memory_of(file_of(grey), settings()) == (1 + 4) * 800
    assert memory_of(file_of(colour), settings(resize=(8, 8))) == 4 * (800 + 8 * 40 + 8 * 8)
    assert memory_of(file_of(colour), settings(resize=(10,))) == 4 * (800 + 20 * 40 + 20 * 10)
    assert memory_of(file_of(colour), settings(crop=(8, 8))) == 4 * (800 + 800)
    assert memory_of(file_of(colour), settings(crop=(100, 100))) == 4 * (800 + 100 * 100)


@pytest.mark.parametrize(
    ("size", "given"), [((1, 4000), settings(resize=(224,))), ((1, 1_000_000), settings(crop=(224, 224)))]
)
def test_an_image_that_grows_is_refused_before_it_does(size: tuple[int, int], given: ImageSettings) -> None:
    processor = Processor(
        class_name="P", inputs=("pixel_values",), pad_token_id=0, unk_token_id=None, vocabulary=0, image=given
    )
    file = BytesIO()
    Image.new("1", size).save(file, "PNG")
    with pytest.raises(TooLarge, match=f"{size[0]} x {size[1]} pixels, which takes"):
        ImageReader(classifier(processor=processor)).read(file.getvalue())


def test_a_turned_png_is_upright() -> None:
    """Whose EXIF data may follow the pixels."""
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    turned = Image.Exif()
    turned[ORIENTATION] = 8
    file = BytesIO()
    image.save(file, "PNG", exif=turned)
    pixels = shape(_open(file.getvalue()), settings())
    assert pixels.shape == (3, 2, 1)
    assert pixels[0].tolist() == [[0], [255]]
