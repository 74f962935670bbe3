"""The image processor's part of the contract: how an image becomes pixels."""

from typing import Any

from registry.contract import ImageSettings, Processor
from registry.errors import IncompleteArtifact


def reads_images(model: Any) -> bool:
    """Whether the model's input is an image."""
    return bool(model.main_input_name == "pixel_values")


def describe_images(processor: Any) -> Processor:
    """The image processor's part of the contract; raises IncompleteArtifact for a processor with unsupported steps."""
    if not hasattr(processor, "image_mean"):
        raise IncompleteArtifact(
            f"{type(processor).__name__} is no image processor: pass the one that the model was trained with"
        )
    size = _entries(processor.size) if processor.do_resize else {}
    crop = _entries(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    resize = _size(size)
    result = (crop["height"], crop["width"]) if crop else resize
    if len(result) != 2:
        raise IncompleteArtifact(
            f"the image processor's size {size} gives images of different shapes, which cannot share a batch: "
            "set size to height and width, or do_center_crop with crop_size"
        )
    normalises = bool(processor.do_normalize)
    settings = ImageSettings(
        resize=resize,
        resample=int(processor.resample),
        crop=(crop["height"], crop["width"]) if crop else (),
        scale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(map(float, processor.image_mean)) if normalises else (),
        std=tuple(map(float, processor.image_std)) if normalises else (),
        height=result[0],
        width=result[1],
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
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return max(1, settings.height // height) * max(1, settings.width // width) + 1


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
