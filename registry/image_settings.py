"""The image processor's part of the contract: how an image becomes pixels."""

from typing import Any

import msgspec

from registry.contract import MAX_EDGE, ImageSettings, Processor
from registry.errors import IncompleteArtifact

BILINEAR = 2
"""Pillow's number of the filter that a processor without one uses."""
READ = frozenset(
    {"do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size", "do_convert_rgb"}
    | {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"}
    | {"crop_pct", "do_flip_channel_order", "rescale_offset", "include_top"}
    | {"do_reduce_labels", "pad_size", "device", "disable_grouping", "return_tensors"}
    | {"data_format", "input_data_format", "image_seq_length"}
)
"""Options of transformers' image processors (5.23) that are read here, or that change no pixel of one image."""


def reads_images(model: Any) -> bool:
    """Whether the model's input is an image."""
    return bool(model.main_input_name == "pixel_values")


def describe_images(processor: Any) -> Processor:
    """The image processor's part of the contract; raises IncompleteArtifact for unsupported steps or sizes."""
    if not hasattr(processor, "image_mean"):
        raise IncompleteArtifact(
            f"{type(processor).__name__} is no image processor: pass the one that the model was trained with"
        )
    _check_steps(processor)
    resize, crop = _geometry(processor)
    result = crop or resize
    if len(result) != 2:
        cause = f"size {_entries(processor.size)}" if processor.do_resize else "do_resize false"
        raise IncompleteArtifact(
            f"preprocessor_config.json: {cause} leaves images in different shapes, which cannot share a batch: set "
            "do_resize, and size to height and width; or do_center_crop with crop_size"
        )
    for option, edges in (("size", resize), ("crop_size", crop)):
        if not all(1 <= edge <= MAX_EDGE for edge in edges):
            raise IncompleteArtifact(
                f"preprocessor_config.json: {option} makes images of {' x '.join(map(str, edges))} pixels, edges of 1 "
                f"to {MAX_EDGE} are served: set it to what the model was trained with"
            )
    scale, mean, std = _values(processor)
    settings = ImageSettings(
        resize=resize,
        resample=BILINEAR if processor.resample is None else int(processor.resample),
        crop=crop,
        scale=scale,
        mean=mean,
        std=std,
        height=result[0],
        width=result[1],
        flips_channels=bool(getattr(processor, "do_flip_channel_order", False)),
        whitens_transparent=True if getattr(processor, "do_convert_rgb", False) else msgspec.UNSET,
    )
    return Processor(
        class_name=type(processor).__name__,
        inputs=("pixel_values",),
        pad_token_id=0,
        unk_token_id=None,
        vocabulary=0,
        image=settings,
    )


def image_patches(model: Any, processor: Any) -> int:
    """The number of tokens that an image is to the model: its patches and one; without patches, as if they were 16."""
    settings = describe_images(processor).image
    assert settings is not None
    patch = getattr(model.config, "patch_size", None) or 16
    height, width = (patch, patch) if isinstance(patch, int) else tuple(patch) if len(patch) == 2 else (16, 16)
    return int(max(1, settings.height // height) * max(1, settings.width // width) + 1)


def _check_steps(processor: Any) -> None:
    """Raise IncompleteArtifact for an option that is on and that this module does not read."""
    for name in getattr(processor, "_valid_kwargs_names", ()):
        value = getattr(processor, name, None)
        if name not in READ and value not in (None, False):
            shown = "" if value is True else f"={value}"
            raise IncompleteArtifact(
                f"{_kind(processor)} has {name}{shown}, a step that this release does not do: choose an image "
                "processor that resizes, crops, scales and normalises, or switch the step off before training"
            )


def _geometry(processor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What an image is resized and then cropped to, as `ImageSettings`; by the `resize` of transformers 5.23."""
    size = _entries(processor.size) if processor.do_resize else {}
    crop = _entries(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    cropped = (crop["height"], crop["width"]) if crop else ()
    edge = size.get("shortest_edge", 0)
    share: Any = getattr(processor, "crop_pct", None)
    kind = _kind(processor)
    if kind == "ConvNextImageProcessor" and edge:
        if edge >= 384:
            return (edge, edge), cropped
        if cropped:
            raise IncompleteArtifact(f"{kind} crops twice: set do_center_crop to False, as it crops by crop_pct")
        return (int(edge / share),), (edge, edge)
    if kind == "LevitImageProcessor" and edge:
        return (int(256 / 224 * edge),), cropped
    if kind == "PoolFormerImageProcessor" and share is not None and size:
        sides = [int(value / share) for value in ([edge] if edge else _size(size))]
        return (tuple(sides[:1]) if len(set(sides)) == 1 else tuple(sides)), cropped
    return _size(size), cropped


def _values(processor: Any) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """What a pixel is multiplied with, then the mean and standard deviation of each channel; all steps in one."""
    scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    offset = 1.0 if processor.do_rescale and getattr(processor, "rescale_offset", False) else 0.0
    normalises = processor.do_normalize and _kind(processor) != "MobileViTImageProcessor"  # which ignores the option
    again = bool(getattr(processor, "include_top", False))  # EfficientNet then divides a second time
    if not (normalises or offset or again):
        return scale, (), ()
    mean, std = (_channels(name, getattr(processor, name)) for name in ("image_mean", "image_std"))
    first = std if normalises else (1.0,) * 3
    mean = tuple(offset + value for value in mean) if normalises else (offset,) * 3
    return scale, mean, tuple(one * other for one, other in zip(first, std, strict=True)) if again else first


def _channels(name: str, values: Any) -> tuple[float, ...]:
    """A value for each of an image's three channels. Raises IncompleteArtifact for another number of them, or none."""
    if values is None:
        raise IncompleteArtifact(
            f"preprocessor_config.json: {name} is missing, and do_normalize is on: set it, or do_normalize to false"
        )
    found = (float(values),) * 3 if isinstance(values, int | float) else tuple(map(float, values))
    if len(found) != 3:
        raise IncompleteArtifact(
            f"preprocessor_config.json: {name} has {len(found)} values, images are read in 3 channels: set it to one "
            "number, or one for each channel"
        )
    return found


def _kind(processor: Any) -> str:
    """The class' name, whatever library it draws with."""
    return type(processor).__name__.removesuffix("Pil").removesuffix("Fast")


def _entries(size: Any) -> dict[str, int]:
    found = size if isinstance(size, dict) else dict(vars(size))
    return {name: int(value) for name, value in found.items() if value is not None}


def _size(size: dict[str, int]) -> tuple[int, ...]:
    if not size:
        return ()
    if size.keys() == {"height", "width"}:
        return size["height"], size["width"]
    if size.keys() == {"shortest_edge"}:
        return (size["shortest_edge"],)
    raise IncompleteArtifact(
        f"the image processor resizes to {size}, which this release does not do: set size to height and width, or to "
        "shortest_edge with do_center_crop"
    )
