"""Images whose header claims too much are refused, and Pillow's process-wide bound is left as it is."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy
import pytest
from PIL import Image, ImageOps

from registry.contract import ImageSettings, Processor
from serving.errors import TooLarge, Unprocessable
from serving.processors.image_memory import MAX_PIXELS, ORIENTATION, decoder_bytes, memory_of
from serving.processors.images import ImageReader, _decode, _open, shape
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


def reader_of(given: ImageSettings) -> ImageReader:
    processor = Processor(
        class_name="P", inputs=("pixel_values",), pad_token_id=0, unk_token_id=None, vocabulary=0, image=given
    )
    return ImageReader(classifier(processor=processor))


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
    file = BytesIO()
    Image.new("1", size).save(file, "PNG")
    with pytest.raises(TooLarge, match=f"{size[0]} x {size[1]} pixels, which takes"):
        reader_of(given).read(file.getvalue())


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


FORMS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"progressive": True, "subsampling": 0},
    "TIFF": {"compression": "tiff_adobe_deflate", "strip_size": 2**31 - 1},
}


@pytest.mark.parametrize("kind", FORMS)
def test_what_a_decoder_takes_is_counted(kind: str) -> None:
    """7,000 x 7,000 pixels took 750 MB as a WebP of 34 bytes, 470 as a progressive JPEG, 330 as a TIFF of one strip."""
    file = BytesIO()
    Image.new("RGB", (7000, 7000)).save(file, kind, **FORMS[kind])
    with pytest.raises(TooLarge, match="of memory to decode"):
        reader_of(settings((8, 8))).read(file.getvalue())


def tiled(side: int, data: bytes, *, tags: tuple[tuple[int, int], ...] = (), compression: int = 8) -> bytes:
    """A grey TIFF of 16 x 16 pixels in one tile of this side. tags: more of them, as numbers."""
    entries = [(256, 16), (257, 16), (258, 8), (259, compression), (262, 1), (277, 1), *tags]
    entries += [(322, side), (323, side), (324, 0), (325, len(data))]
    start = 8 + 2 + 12 * len(entries) + 4
    head = struct.pack("<2sHLH", b"II", 42, 8, len(entries))
    lines = [struct.pack("<HHLL", tag, 4, 1, start if tag == 324 else value) for tag, value in entries]
    return head + b"".join(lines) + bytes(4) + data


def test_a_tile_is_counted_whatever_the_size_of_the_image() -> None:
    """A tile of 16,000 x 16,000 took 252 MB for an image of 16 x 16."""
    reader = reader_of(settings((8, 8)))
    assert reader.read(tiled(16, zlib.compress(bytes(256)))) == bytes(3 * 64)
    assert reader.read(tiled(256, zlib.compress(bytes(2**16)))) == bytes(3 * 64)
    with pytest.raises(TooLarge, match="a TIFF of 16 x 16 pixels, which takes 512,001,024 bytes of memory to decode"):
        reader.read(tiled(16_000, zlib.compress(bytes(256))))


def test_strips_of_no_rows_are_counted_as_one_strip() -> None:
    image = Image.open(BytesIO(tiled(16, b"", tags=((278, 0),))))
    assert decoder_bytes(image, 0) == 2 * 16 * 16


def test_files_of_usual_size_are_read_in_every_format() -> None:
    reader = reader_of(settings((8, 8)))
    image = Image.new("RGB", (3000, 2000), (255, 0, 0))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", *FORMS):
        file = BytesIO()
        image.save(file, kind, **FORMS.get(kind, {}))
        assert max(reader.read(file.getvalue())) >= 250


BROKEN_EXIF = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAATmVYSWZJSSoACAAAAAMAAQESAAEAAABmAAAAEgEDAAEAAAAGAAAASgECAAgAAAAI"
    "AAAACAAAAF8yYyNRAoKyRgxzS8EXrya77ZKRGuOfocjxja3M5jiLAAAAGUlEQVR4nGPkOiHHQApgIkn1qIZRDUNKAwARSQEQF+fhWwAAAABJRU5E"
    "rkJggg=="
)
"""A turned PNG whose EXIF data Pillow can read, and not write again."""


def test_exif_data_is_read_and_not_written_again() -> None:
    assert reader_of(settings((8, 8))).read(BROKEN_EXIF)


@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_as_pillow_turns_them(orientation: int) -> None:
    image = Image.new("RGB", (3, 2))
    image.putdata([(place * 40, 0, 0) for place in range(6)])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = BytesIO()
    image.save(file, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(file.getvalue())))
    assert expected is not None
    assert shape(_open(file.getvalue()), settings())[0].tolist() == numpy.asarray(expected)[..., 0].tolist()


@pytest.mark.parametrize("error", [TypeError("odd"), struct.error("odd"), OverflowError("odd"), AttributeError("odd")])
def test_whatever_a_reader_of_files_raises_is_the_clients_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("serving.processors.images.shape", fail)
    with pytest.raises(Unprocessable, match="broken"):
        reader_of(settings((8, 8))).read(BROKEN_EXIF)


def drawn() -> bytes:
    """A PNG whose base64 has several lines."""
    file = BytesIO()
    Image.effect_noise((16, 16), 50).save(file, "PNG")
    return file.getvalue()


FILE = drawn()
PLAIN = base64.b64encode(FILE).decode()
LINES = base64.encodebytes(FILE).decode()


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        LINES,
        LINES.replace("\n", "\r\n"),
        f" {PLAIN}\t\f",
        f"data:image/png;base64,{PLAIN}",
        f"data:image/png;base64,{LINES}",
        f"data:image/png;charset=x;base64,{PLAIN}",
        f"DATA:image/png;BASE64,{PLAIN}",
        f"data:;base64,{PLAIN}",
    ],
    ids=range(9),
)
def test_a_file_as_text_is_read_in_each_form_that_common_tools_write(text: str) -> None:
    assert _decode(text) == FILE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PLAIN[:-3] + "*" + PLAIN[-2:], "not base64"),
        (LINES + "*", "not base64"),
        (LINES + "\N{NO-BREAK SPACE}", "not base64"),
        (LINES + "\0", "not base64"),
        (PLAIN.replace("+", "-").replace("/", "_"), "not base64"),
        ("QUI=\nQUI=", "not base64"),
        ("QUJ\n", "not base64"),
        (f"data:image/png,{PLAIN}", "without base64"),
        ("data:image/png;base64", "without base64"),
        (f"data:image/png;xbase64,{PLAIN}", "without base64"),
        ("HTTP://host/a b.png\n", "fetches nothing"),
        ("/a.png", "fetches nothing"),
    ],
    ids=range(12),
)
def test_what_is_no_base64_is_refused(text: str, says: str) -> None:
    with pytest.raises(Unprocessable, match=says):
        _decode(text)
