"""Images that are small files and much work are refused before they are decoded."""

from io import BytesIO

import pytest
from PIL import Image

from serving.errors import TooLarge
from serving.processors.image_memory import MAX_SCANS, SCAN
from serving.processors.images import ImageReader
from tests.serving.front.task_fronts import contract_of


def picture(form: str, **options: object) -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(file, form, **options)
    return file.getvalue()


def with_scans(jpeg: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has `count` scans."""
    last = jpeg[jpeg.rindex(SCAN) : -2]
    return jpeg[:-2] + last * (count - jpeg.count(SCAN)) + jpeg[-2:]


@pytest.fixture
def reader() -> ImageReader:
    return ImageReader(contract_of("image-classification"))


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_jpeg_of_many_scans_is_refused(reader: ImageReader) -> None:
    jpeg = picture("JPEG", progressive=True)
    assert len(reader.read(with_scans(jpeg, MAX_SCANS))) == len(reader.read(jpeg)) == 3 * 224 * 224
    for count in (MAX_SCANS + 1, 30_000):
        with pytest.raises(TooLarge, match=f"a JPEG of {count:,} scans, at most 64 are read"):
            reader.read(with_scans(jpeg, count))


def test_several_jpegs_in_a_file_are_bounded_as_one_is(reader: ImageReader) -> None:
    file, other = BytesIO(), Image.new("RGB", (64, 64))
    Image.new("RGB", (64, 64)).save(file, "MPO", save_all=True, append_images=[other])
    assert Image.open(BytesIO(file.getvalue())).format == "MPO"
    assert len(reader.read(file.getvalue())) == 3 * 224 * 224
    with pytest.raises(TooLarge, match="scans, at most 64 are read"):
        reader.read(file.getvalue() + SCAN * MAX_SCANS)


def test_a_tiff_that_holds_a_jpeg_of_many_scans_is_refused(reader: ImageReader) -> None:
    tiff = picture("TIFF", compression="jpeg")
    assert len(reader.read(tiff)) == 3 * 224 * 224
    with pytest.raises(TooLarge, match="scans, at most 64 are read"):
        reader.read(tiff + SCAN * MAX_SCANS)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_bytes_of_a_scan_mean_nothing_in_other_formats(reader: ImageReader, form: str) -> None:
    assert len(reader.read(picture(form) + SCAN * 1000)) == 3 * 224 * 224
