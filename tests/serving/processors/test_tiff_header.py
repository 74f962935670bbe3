"""TIFFs of which libtiff makes far more than their size, or which it reads otherwise than Pillow, are refused."""

import struct
import warnings
import zlib
from io import BytesIO

import pytest
from PIL import Image

from serving.errors import Unprocessable
from serving.processors.images import ImageReader
from serving.processors.tiff_header import COMPRESSIONS
from serving.runtime.logs import quiet_pillow
from tests.serving.front.task_fronts import contract_of
from tests.serving.processors.test_images import tiled


@pytest.fixture
def reader() -> ImageReader:
    return ImageReader(contract_of("image-classification"))


def saved(compression: str, mode: str = "RGB", *, big: bool = False) -> bytes:
    file = BytesIO()
    Image.new(mode, (64, 64)).save(file, "TIFF", compression=compression, big_tiff=big)
    return file.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("big", [False, True])
def test_usual_compressions_are_read(reader: ImageReader, compression: str, big: bool) -> None:
    assert len(reader.read(saved(compression, big=big))) == 3 * 224 * 224


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "lzma", "zstd"])
def test_other_compressions_are_refused_and_write_nothing(
    reader: ImageReader, compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """1.1 KB of Group 3 made libtiff write 9 MB to stderr."""
    file = saved(compression, "RGB" if compression in ("lzma", "zstd") else "1")
    capfd.readouterr()
    with pytest.raises(Unprocessable, match=f"compressed as {compression}, .* or send a PNG"):
        reader.read(file)
    assert capfd.readouterr().err == ""


def test_a_tag_that_pillow_skips_and_libtiff_reads_is_refused(reader: ImageReader) -> None:
    """Of a tag that is there twice libtiff takes the first; Pillow the first of a type that it knows."""
    file = tiled(16, zlib.compress(bytes(256)), tags=((322, 16_000),))
    assert Image.open(BytesIO(file)).size == (16, 16)
    with pytest.raises(Unprocessable, match="states its compression, strips or tiles twice"):
        reader.read(file)
    signed = tiled(16, zlib.compress(bytes(256))).replace(struct.pack("<HH", 322, 4), struct.pack("<HH", 322, 17))
    with pytest.raises(Unprocessable, match="or not as whole numbers"):
        reader.read(signed)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_header_that_ends_early_is_broken(reader: ImageReader) -> None:
    for length in (8, 9, 30, 100):
        with pytest.raises(Unprocessable):
            reader.read(tiled(16, b"")[:length])


def test_odd_tags_are_read_without_a_word(reader: ImageReader) -> None:
    """60,000 of them wrote 12 MB to stderr."""
    start = 8 + 2 + 12 * 1009
    odd = [(1000 + place, 5, 1, start) for place in range(1000)]
    usual = [(tag, 4, 1, value) for tag, value in ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8))]
    entries = [*usual, (277, 4, 1, 1), (278, 4, 1, 1), (279, 4, 1, 1), *odd]
    file = struct.pack("<2sHLH", b"II", 42, 8, len(entries)) + b"".join(struct.pack("<HHLL", *each) for each in entries)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_pillow()
        assert len(reader.read(file + bytes(4))) == 3 * 224 * 224
    assert not caught
