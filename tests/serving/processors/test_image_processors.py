"""Every image processor gives the pixels that transformers gives, or is refused with the step that is not done."""

from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
import torch
import transformers
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from registry.artifact import read_contract
from registry.contract import Contract
from registry.errors import ContractError, IncompleteArtifact
from registry.flavor import log_model
from registry.heads import architectures
from registry.image_settings import describe_images
from registry.settings import RegistrySettings
from serving.processors.images import compare_pixels, normalise, shape
from tests.alike import assert_alike

pytestmark = pytest.mark.sweep

FIXTURE = Path(__file__).parents[2] / "fixtures" / "artifact-of-format-1"
SIZES = ((32, 48), (120, 81), (64, 64), (333, 257), (20, 300))
"""(width, height) of the images; the last is narrower than what is cut out of it."""
REFUSED = {
    "DonutImageProcessorPil": "has do_pad",
    "ImageGPTImageProcessorPil": "has do_color_quantize",
    "PerceiverImageProcessorPil": "makes other pixels",
    "Siglip2ImageProcessorPil": "has patch_size=16",
    "TextNetImageProcessorPil": "has size_divisor=32",
}
EDGE, SQUARE, CROP = {"shortest_edge": 64}, {"height": 64, "width": 64}, {"height": 48, "width": 56}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("ConvNext", {"size": EDGE}),
    ("ConvNext", {"size": {"shortest_edge": 33}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 1.0}),
    ("ConvNext", {"size": EDGE, "do_resize": False, "do_center_crop": True, "crop_size": CROP}),
    ("MobileViT", {"size": EDGE, "crop_size": CROP}),
    ("MobileViT", {"size": EDGE, "crop_size": CROP, "do_flip_channel_order": False, "do_normalize": True}),
    ("EfficientNet", {"size": SQUARE}),
    ("EfficientNet", {"size": SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
    ("EfficientNet", {"size": SQUARE, "rescale_offset": True, "do_normalize": False, "image_std": [0.2, 0.3, 0.4]}),
    ("EfficientNet", {"size": SQUARE, "do_center_crop": True, "crop_size": CROP, "do_rescale": False}),
    ("Levit", {"size": EDGE, "crop_size": SQUARE}),
    ("Levit", {"size": SQUARE, "crop_size": CROP}),
    ("PoolFormer", {"size": EDGE, "crop_size": SQUARE, "crop_pct": 0.9}),
    ("PoolFormer", {"size": SQUARE, "crop_size": CROP, "crop_pct": 0.95}),
    ("PoolFormer", {"size": {"height": 64, "width": 70}, "crop_size": CROP, "crop_pct": 0.8}),
    ("DeiT", {"size": {"height": 72, "width": 72}, "crop_size": CROP}),
    ("Beit", {"size": SQUARE, "do_center_crop": True, "crop_size": CROP, "do_reduce_labels": True}),
    ("Bit", {"size": EDGE, "crop_size": CROP}),
    ("ViT", {"size": SQUARE, "image_mean": 0.5, "image_std": 0.25}),
    ("ViT", {"size": SQUARE, "do_normalize": False}),
    ("Siglip", {"size": SQUARE, "resample": 0}),
]


def contract_of(processor: Any) -> Contract:
    contract = read_contract(FIXTURE)
    return msgspec.structs.replace(contract, processor=describe_images(processor), max_tokens=9)


def check(processor: Any) -> None:
    """Images of noise come out as the processor's, to 1e-5."""
    contract = contract_of(processor)
    settings = contract.processor.image
    assert settings is not None
    draw = numpy.random.default_rng(0)
    for width, height in SIZES:
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=numpy.uint8))
        pixels = normalise(torch.from_numpy(shape(image, settings)[None]), contract, torch.float32).numpy()
        expected = processor(images=image, return_tensors="np")["pixel_values"]
        assert pixels.shape == expected.shape == (1, 3, settings.height, settings.width)
        numpy.testing.assert_allclose(pixels, expected, rtol=1e-5, atol=1e-5)


def processors_of_families() -> list[str]:
    """Names of the classes that draw with Pillow, of every architecture that classifies images."""
    families = architectures("image-classification")
    names = {(IMAGE_PROCESSOR_MAPPING_NAMES.get(family) or {}).get("pil") for family in families}
    return sorted(name for name in names if name and name.endswith("Pil"))


@pytest.mark.parametrize("name", processors_of_families())
def test_the_processor_of_every_family_as_it_is_made_without_options(name: str) -> None:
    processor = getattr(transformers, name)()
    if name not in REFUSED:
        check(processor)
        assert compare_pixels(processor, contract_of(processor)) is None
        return
    try:
        problem = compare_pixels(processor, contract_of(processor))
    except IncompleteArtifact as error:
        problem = str(error)
    assert problem is not None
    assert REFUSED[name] in problem


@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_step_by_its_options(kind: str, options: dict[str, Any]) -> None:
    check(getattr(transformers, f"{kind}ImageProcessorPil")(**options))


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("ConvNext", {"size": EDGE, "do_center_crop": True, "crop_size": CROP}, "crops twice"),
        ("ViT", {"size": SQUARE, "do_pad": True, "pad_size": SQUARE}, "has do_pad"),
        ("Gemma3", {"size": SQUARE, "do_pan_and_scan": True}, "has do_pan_and_scan"),
        ("Bit", {"size": EDGE, "do_center_crop": False}, "size .* leaves images in different shapes"),
        ("ViT", {"size": SQUARE, "image_mean": [0.5]}, "preprocessor_config.json: image_mean has 1 values"),
        ("ViT", {"size": SQUARE, "image_std": [0.5] * 4}, "preprocessor_config.json: image_std has 4 values"),
        ("ViT", {"size": SQUARE, "do_resize": False}, "preprocessor_config.json: do_resize false leaves images in"),
        ("ViT", {"size": {"shortest_edge": 64, "longest_edge": 90}}, "longest_edge"),
        ("ViT", {"size": {"height": 4_000_000, "width": 64}}, "of 4000000 x 64 pixels, edges of 1 to 4096 are"),
        ("Bit", {"size": {"shortest_edge": 10**9}, "crop_size": CROP}, "size makes images of 1000000000 pixels"),
        ("Bit", {"size": EDGE, "crop_size": {"height": 5000, "width": 8}}, "crop_size makes images of 5000 x 8 pixels"),
        ("ConvNext", {"size": EDGE, "crop_pct": 1e-6}, "size makes images of 64000000 pixels"),
    ],
)
def test_a_step_that_is_not_done_is_named(kind: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(IncompleteArtifact, match=match):
        describe_images(getattr(transformers, f"{kind}ImageProcessorPil")(**options))


def test_a_contract_with_a_size_in_millions_is_refused() -> None:
    record = contract_of(transformers.ViTImageProcessorPil(size=SQUARE)).to_record()
    assert Contract.parse(record).processor.image is not None
    record["processor"]["image"]["height"] = 4_000_000
    with pytest.raises(ContractError, match=r"`int` <= 4096 - at `\$.processor.image.height`; log the model again"):
        Contract.parse(record)


def files_with_transparency() -> dict[str, Image.Image]:
    """Images as their files are read, by kind."""
    draw = numpy.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 8, (40, 60, 3), dtype=numpy.uint8) * 30)
    alpha = Image.fromarray(draw.integers(0, 256, (40, 60), dtype=numpy.uint8))
    palette = colours.convert("P")
    files: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "palette": (palette, "PNG", {"transparency": palette.getpixel((5, 5))}),
        "palette with alpha": (palette, "PNG", {"transparency": bytes(range(256))}),
        "gif": (palette, "GIF", {"transparency": palette.getpixel((5, 5))}),
        "grey": (colours.convert("L"), "PNG", {"transparency": colours.convert("L").getpixel((5, 5))}),
        "colour": (colours, "PNG", {"transparency": colours.getpixel((5, 5))}),
        "alpha": (Image.merge("RGBA", (*colours.split(), alpha)), "PNG", {}),
        "none": (colours, "PNG", {}),
    }
    found = {}
    for kind, (image, form, options) in files.items():
        file = BytesIO()
        image.save(file, form, **options)
        found[kind] = Image.open(BytesIO(file.getvalue()))
    return found


def test_a_missing_mean_is_named() -> None:
    processor = transformers.ViTImageProcessorPil(size=SQUARE)
    processor.image_mean = None
    with pytest.raises(IncompleteArtifact, match=r"image_mean is missing, and do_normalize is on"):
        describe_images(processor)
    processor.do_normalize = False
    assert describe_images(processor).image is not None


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("converts", [True, False, None])
def test_transparency_is_what_a_pipeline_makes_of_it(converts: bool | None) -> None:
    processor = transformers.ViTImageProcessorPil(size=SQUARE, do_convert_rgb=converts)
    contract = contract_of(processor)
    settings = contract.processor.image
    assert settings is not None
    for kind, image in files_with_transparency().items():
        expected = processor(images=load_image(image.copy()), return_tensors="np")["pixel_values"]
        pixels = normalise(torch.from_numpy(shape(image, settings)[None]), contract, torch.float32).numpy()
        numpy.testing.assert_allclose(pixels, expected, rtol=1e-5, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("task", ["image-classification", "feature-extraction"])
def test_a_convolutional_network_is_logged_with_its_processor(
    tmp_path: Path, settings: RegistrySettings, task: str
) -> None:
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    config = transformers.ConvNextConfig(**sizes, id2label={0: "cat", 1: "dog"}, initializer_range=0.5)
    auto = transformers.AutoModelForImageClassification if "class" in task else transformers.AutoModel
    model = auto.from_config(config).eval()
    model.save_pretrained(tmp_path / "m")
    processor = transformers.ConvNextImageProcessorPil(size=EDGE)
    processor.save_pretrained(tmp_path / "m")
    raw = {"pooling": "raw"} if task == "feature-extraction" else None
    example = log_model(tmp_path / "m", task=task, name="m", parameters=raw, settings=settings).contract.example
    assert example is not None
    from serving.processors.images import _decode, _open

    pixels = processor(images=_open(_decode(example.inputs[0])), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = model(pixel_values=pixels)
    if task == "feature-extraction":
        assert_alike(example.output[0], output.last_hidden_state[0])
    else:
        scores = {entry["label"]: entry["score"] for entry in example.output[0]}
        assert_alike([scores["cat"], scores["dog"]], output.logits.softmax(-1)[0])
