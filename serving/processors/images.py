"""Images → pixels as the contract describes the image processor, with Pillow alone. Front side.

A front resizes and crops, the engine scales and normalises. So a colour travels as one byte.
"""

import base64
import binascii
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy

from registry.contract import Contract, ImageSettings
from registry.errors import ContractError
from serving.errors import ServingError, TooLarge, Unprocessable
from serving.processors.image_memory import (
    LARGE_IMAGE_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    ORIENTATION,
    SCAN,
    UPRIGHT,
    check_decoding,
    check_memory,
    resized,
)
from serving.processors.tiff_header import check_tiff
from serving.wire.messages import AnyArray, EncodedRow, Row

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import ProcessorMixin

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
WHITESPACE = b"\t\n\f\r "
"""What base64 may have in it, as `base64 FILE` breaks its lines."""

_reading_large = threading.Lock()


class ImageReader:
    """The image processor of one version. Safe for several threads."""

    def __init__(self, contract: Contract) -> None:
        self._settings = settings_of(contract)
        self.pixel_bytes = 3 * self._settings.height * self._settings.width
        """Of one row."""
        self._length = contract.max_tokens

    def encode(self, item: str | bytes, batch_key: str) -> EncodedRow:
        """The row of an image, its pixels as `payload`. Raises what `read` does."""
        return EncodedRow(self._length, b"", batch_key=batch_key, payload=self.read(item))

    def read(self, item: str | bytes) -> bytes:
        """The pixels of a file, given as bytes, base64 or data URL: (3, height, width) uint8, C-ordered.

        Raises TooLarge for too many pixels, Unprocessable for a broken file or one of none of the `FORMATS`.
        """
        data = item if isinstance(item, bytes) else _decode(item)
        image = _open(data)
        try:
            size_bytes = max(check_memory(image, self._settings), check_decoding(image, data))
            with _reading_large if size_bytes > LARGE_IMAGE_BYTES else nullcontext():
                image.load()
                check_memory(image, self._settings)  # some files say at their end only how the image is turned
                return shape(image, self._settings).tobytes()
        except (ServingError, MemoryError):
            raise
        except Exception as error:  # Pillow's readers raise anything for a file that is made to be wrong
            raise Unprocessable("inputs holds an image whose file is broken: send it again") from error


def settings_of(contract: Contract) -> ImageSettings:
    """The contract's image settings; raises ContractError where it has none."""
    if contract.processor.image is None:
        raise ContractError("the contract describes no image processor: log the model again with its image processor")
    return contract.processor.image


def probe_image(contract: Contract, batch_key: str) -> EncodedRow:
    """The row of a grey image, for measuring."""
    settings = settings_of(contract)
    return EncodedRow(
        contract.max_tokens, b"", batch_key=batch_key, payload=b"\x7f" * (3 * settings.height * settings.width)
    )


def collate_images(rows: Sequence[Row], contract: Contract) -> dict[str, AnyArray]:
    """`pixel_values`, (rows, 3, height, width) uint8."""
    settings = settings_of(contract)
    pixels = numpy.frombuffer(bytearray(b"".join([row.payload for row in rows])), dtype=numpy.uint8)
    return {"pixel_values": pixels.reshape(len(rows), 3, settings.height, settings.width)}


def normalise(pixels: "torch.Tensor", contract: Contract, dtype: "torch.dtype") -> "torch.Tensor":
    """Scaled and normalised in float32, then in the model's dtype. Engine side."""
    settings = settings_of(contract)
    scaled = pixels.float() * settings.scale
    if settings.mean:
        scaled = (scaled - _channels(settings.mean, pixels.device)) / _channels(settings.std, pixels.device)
    return scaled.to(dtype)


@cache
def _channels(values: tuple[float, ...], device: "torch.device") -> "torch.Tensor":
    """(3, 1, 1) float32. Cached, because a copy to a GPU would wait for all that runs there."""
    import torch

    return torch.tensor(values).view(3, 1, 1).to(device)


def _upright(image: "Image") -> "Image":
    """The image as its EXIF says that it is to be seen; itself where it is upright, with no copy.

    As `PIL.ImageOps.exif_transpose`, which also writes the EXIF again, and fails where it cannot.
    """
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    is_turned = isinstance(orientation, int) and UPRIGHT < orientation <= UPRIGHT + len(turns)
    return image.transpose(turns[orientation - UPRIGHT - 1]) if is_turned else image


def shape(image: "Image", settings: ImageSettings) -> AnyArray:
    """Turn upright, convert to RGB, resize, crop, order channels: (3, height, width) uint8. Raises what Pillow does."""
    image = _upright(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if settings.whitens_transparent is True:
        image = _whiten(image)
    if settings.resize:
        image = image.resize(resized(image.size, settings.resize), resample=settings.resample)
    if settings.crop:
        image = _crop(image, *settings.crop)
    pixels = numpy.asarray(image, dtype=numpy.uint8).transpose(2, 0, 1)
    return numpy.ascontiguousarray(pixels[::-1] if settings.flips_channels else pixels)


def _whiten(image: "Image") -> "Image":
    """An RGB image whose transparent colour, where its file states one, is white: as laid on a white background."""
    from PIL import Image

    colour = image.info.get("transparency")
    if not isinstance(colour, tuple):
        return image
    pixels = numpy.array(image)
    pixels[(pixels == numpy.asarray(colour)).all(-1)] = 255
    return Image.fromarray(pixels)


def draw(width: int, height: int) -> str:
    """The data URL of a coloured test image, always the same for a size."""
    from PIL import Image

    across, down = numpy.meshgrid(numpy.arange(width), numpy.arange(height))
    pixels = numpy.stack([across * 255 // width, down * 255 // height, (across * down) % 256], axis=-1)
    file = BytesIO()
    Image.fromarray(pixels.astype(numpy.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def compare_pixels(processor: "ProcessorMixin", contract: Contract) -> str | None:
    """Where the pixels of test images differ from those of transformers' `processor`, and what to do; or None."""
    import torch

    reader = ImageReader(contract)
    for width, height in ((48, 32), (80, 120), (700, 500)):
        drawn = draw(width, height)
        own = collate_images([reader.encode(drawn, "").to_row(0, 0.0)], contract)["pixel_values"]
        pixels = normalise(torch.from_numpy(own), contract, torch.float32).numpy()
        expected = processor(images=_open(_decode(drawn)), return_tensors="np")["pixel_values"]
        if expected.shape != pixels.shape or not numpy.allclose(pixels, expected, atol=1e-5):
            return (
                f"{type(processor).__name__} makes other pixels of an image of {width} x {height} than resizing, "
                "cropping, scaling and normalising by its settings do, which is all that this release does: choose a "
                "processor of that kind"
            )
    return None


def _open(data: bytes) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's bounds
        raise TooLarge(
            f"inputs holds an image of too many pixels, at most {MAX_PIXELS:,} are read: shrink it"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise Unprocessable(f"inputs holds no image: send one of {', '.join(FORMATS)}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"inputs holds an image of {width} x {height} pixels, at most {MAX_PIXELS:,} are read: shrink it"
        )
    if image.format == "TIFF":
        check_tiff(image, data)
    is_jpeg = image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression"))  # MPO: several JPEGs
    if is_jpeg and (scans := data.count(SCAN)) > MAX_SCANS:
        raise TooLarge(
            f"inputs holds a JPEG of {scans:,} scans, at most {MAX_SCANS} are read: save it as a baseline JPEG"
        )
    return image


def _decode(text: str) -> bytes:
    """Decode base64, which may have ASCII whitespace in it, or a data URL."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or head[-7:].lower() != ";base64":
            raise Unprocessable("inputs holds a data URL without base64: write data:image/png;base64,…")
    try:
        return _from_base64(text)
    except ValueError as error:
        if text[:8].lower().startswith(("http://", "https://", "file:", "/")):  # only now: a JPEG begins with /9j/
            raise Unprocessable(
                "inputs holds an address; this server fetches nothing: send the image itself, as base64"
            ) from error
        raise Unprocessable("inputs is not base64: send the file's bytes as the body, base64, or a data URL") from error


def _from_base64(text: str) -> bytes:
    """Decode base64. Whitespace is removed only where decoding stops at it, in one pass. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        data = text.encode("ascii")
        bare = data.translate(None, WHITESPACE)
        if len(bare) == len(data):
            raise
        return base64.b64decode(bare, validate=True)


def _crop(image: "Image", height: int, width: int) -> "Image":
    """Crop the centre; a smaller image is padded with black. As `center_crop` of transformers 5.23."""
    top, left = (image.height - height) // 2, (image.width - width) // 2
    if top >= 0 and left >= 0:
        return image.crop((left, top, left + width, top + height))
    from PIL import Image

    canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)))
    canvas.paste(image, (-((image.width - canvas.width) // 2), -((image.height - canvas.height) // 2)))
    return _crop(canvas, height, width)
