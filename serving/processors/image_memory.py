"""What an image takes in memory while it is read and shaped, known from its header; too much is refused unread."""

from typing import TYPE_CHECKING

from registry.contract import ImageSettings
from serving.errors import TooLarge

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""An image of more pixels is refused by its header, before it is decoded. Untuned."""
BYTES_OF_COLOUR, BYTES_OF_GREY = 4, 1
"""Of a pixel in Pillow's memory."""
WHITENING_COPIES = 3
"""Of a pixel while transparent ones become white: its bytes, what of them is the colour, and the result."""
GREY_MODES = ("1", "L", "P")
MAX_IMAGE_BYTES = BYTES_OF_COLOUR * MAX_PIXELS + 2**22
"""Memory of an image and its copies: converting, turning, resizing and cropping make one each. So an image of most
pixels is read if it needs no copy beside the small one that the model takes."""
LARGE_IMAGE_BYTES = MAX_IMAGE_BYTES // 8
"""Of images that take more, one is read at a time."""
SCAN = b"\xff\xda"
"""What a scan of a JPEG begins with (ITU-T T.81, B.1.1.3); within a scan it cannot occur."""
MAX_SCANS = 64
"""Scans of a JPEG. Progressive ones have about ten. Each takes a pass over all pixels, and may have 31 bytes: a file of
1 MB could be made to take minutes."""
ORIENTATION = 0x0112
"""The EXIF tag (CIPA DC-008) that says how an image is turned."""
UPRIGHT = 1
"""Not at all; 2 to 8: mirrored or turned."""
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 278, 322, 323
"""The TIFF tags (TIFF 6.0)."""
BYTES_OF_COEFFICIENT, BYTES_OF_SAMPLE = 2, 2
"""Of a JPEG's component at a pixel; of a TIFF's, at most."""


def memory_of(image: "Image", settings: ImageSettings) -> int:
    """The bytes that an image's pixels and their copies take while `shape` works, by what is known of its file."""
    width, height = image.size
    pixels = width * height
    size_bytes = pixels * (BYTES_OF_GREY if image.mode in GREY_MODES else BYTES_OF_COLOUR)
    has_exif = image.format != "PNG" or "exif" in image.info  # else Pillow (12) would read the whole file for it
    copies = (image.mode != "RGB") + (has_exif and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT)
    copies += WHITENING_COPIES * (settings.whitens_transparent is True and "transparency" in image.info)
    size_bytes += copies * pixels * BYTES_OF_COLOUR
    if settings.resize:
        width, height = resized(image.size, settings.resize)
        size_bytes += BYTES_OF_COLOUR * width * (max(image.size) + height)  # rows are resized first, then columns
    if settings.crop:
        size_bytes += BYTES_OF_COLOUR * max(width, settings.crop[1]) * max(height, settings.crop[0])
    return size_bytes


def decoder_bytes(image: "Image", scans: int) -> int:
    """The bytes that Pillow's decoder (12) takes beside the pixels while it reads the file. scans: of a JPEG."""
    width, height = image.size
    match image.format:
        case "WEBP":  # two canvases of libwebp's, and the frame that Python gets
            return 3 * BYTES_OF_COLOUR * width * height
        case "JPEG" | "MPO" if scans > 1:  # libjpeg keeps the coefficients of all blocks
            return BYTES_OF_COEFFICIENT * len(image.getbands()) * width * height
        case "TIFF":  # libtiff decodes a strip or tile at a time, and a file may be one strip
            tags = getattr(image, "tag_v2", {})
            rows = int(tags.get(ROWS_PER_STRIP, height))
            strip = width * (min(rows, height) if rows > 0 else height)
            tile = max(0, int(tags.get(TILE_WIDTH, 0))) * max(0, int(tags.get(TILE_LENGTH, 0)))  # of any size
            return BYTES_OF_SAMPLE * len(image.getbands()) * max(strip, tile)
        case _:
            return 0


def check_memory(image: "Image", settings: ImageSettings) -> int:
    """The image's `memory_of`; raises TooLarge for too much."""
    size_bytes = memory_of(image, settings)
    if size_bytes > MAX_IMAGE_BYTES:
        raise TooLarge(
            f"inputs holds an image of {image.width} x {image.height} pixels, which takes {size_bytes:,} bytes of "
            f"memory to resize for this model, at most {MAX_IMAGE_BYTES:,} are taken: shrink it, or cut it less narrow"
        )
    return size_bytes


def check_decoding(image: "Image", data: bytes) -> int:
    """The memory of the image's pixels and of its decoder; raises TooLarge for too much."""
    size_bytes = BYTES_OF_COLOUR * image.width * image.height + decoder_bytes(image, data.count(SCAN))
    if size_bytes > MAX_IMAGE_BYTES:
        raise TooLarge(
            f"inputs holds a {image.format} of {image.width} x {image.height} pixels, which takes {size_bytes:,} bytes "
            f"of memory to decode, at most {MAX_IMAGE_BYTES:,} are taken: shrink it, or send a PNG or a baseline JPEG"
        )
    return size_bytes


def resized(size: tuple[int, int], wanted: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) after resizing. One wanted number is the shorter edge's, at the same aspect ratio.

    The rounding is that of `get_resize_output_image_size` of transformers 5.23.
    """
    if len(wanted) == 2:
        return wanted[1], wanted[0]
    width, height = size
    short, long = min(size), max(size)
    other = int(wanted[0] * long / short)
    return (wanted[0], other) if width <= height else (other, wanted[0])
