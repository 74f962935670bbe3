"""image-classification: a label for an image, sent as the file's bytes, as base64 or as a data URL.

The scores are those of transformers' `ImageClassificationPipeline` (5.23), with the rules of text-classification.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from registry.contract import Contract
from serving.processors.images import ImageReader, collate_images, compare_pixels, draw, normalise, probe_image
from serving.tasks.base.agreement import Agreement, of_labels
from serving.tasks.base.answers import LabelScore, best_labels, best_scores
from serving.tasks.base.cost import OBJECT_BYTES, ItemCost
from serving.tasks.base.scoring import Activation, Scoring, of_classes
from serving.tasks.base.task import Batch, Task
from serving.tasks.base.version_context import VersionContext
from serving.tasks.text_classification import activation
from serving.wire.messages import AnyArray, Encoded, EncodedRow, Row, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

MAX_LABELS = 1000

TopK = Annotated[int, msgspec.Meta(ge=1, le=MAX_LABELS)]


class Parameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """top_k: labels in the answer, best first. function_to_apply: instead of the contract's."""

    top_k: TopK | None = None
    function_to_apply: Activation | None = None


class Defaults(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What a request without parameters gets; None: the activation of the problem type."""

    function_to_apply: Activation | None = None
    top_k: TopK = 5


class ImageClassification(Task[str | bytes, Parameters, None]):
    """(rows, labels) logits → the best labels' scores (rows, k) float32 and indices (rows, k) int32, best first."""

    name = "image-classification"
    parameters_type = Parameters
    defaults_type = Defaults
    example = ()
    takes_files = True
    item_hint = "send the image file's bytes as the body, or base64 or a data URL as inputs"

    def make_encoder(self, folder: Path, contract: Contract) -> ImageReader:
        """The image reader."""
        return ImageReader(contract)

    def compare(self, processor: "ProcessorMixin", contract: Contract) -> str | None:
        """Compare the pixels of test images with the processor's."""
        return compare_pixels(processor, contract)

    def make_example(self, version: VersionContext) -> list[object]:
        """Two small drawn images."""
        return [draw(48, 32), draw(80, 120)]

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """An image."""
        return probe_image(contract, activation(contract))

    def predictions(self, answer: list[LabelScore]) -> Sequence[tuple[str, float]]:
        """The best label."""
        return ((answer[0]["label"], answer[0]["score"]),) if 0.0 <= answer[0]["score"] <= 1.0 else ()

    def scoring(self, contract: Contract) -> Scoring:
        """By the best label, the labels above one half, or the number."""
        return of_classes(contract, activation(contract))

    def agreement(self, one: list[LabelScore], other: list[LabelScore], contract: Contract) -> Agreement:
        """By the label, the labels above one half or the number."""
        return of_labels(one, other, self.scoring(contract).read)

    def cost(self, item: str | bytes, parameters: Parameters, version: VersionContext) -> ItemCost:
        """One row per image. Its file is no text."""
        return ItemCost(1, 0, version.image_reader.pixel_bytes)

    def answer_bytes(self, encoded: Encoded[None], parameters: Parameters, version: VersionContext) -> int:
        """An object per label."""
        return OBJECT_BYTES * min(len(version.contract.labels), parameters.top_k or version.defaults.top_k)

    def encode(self, item: str | bytes, parameters: Parameters, version: VersionContext) -> Encoded[None]:
        """One row per image."""
        key = parameters.function_to_apply or activation(version.contract)
        return Encoded([version.image_reader.encode(item, key)], None)

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, AnyArray]:
        """(rows, 3, height, width) uint8."""
        return collate_images(rows, contract)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Scaled and normalised in float32, then in the model's dtype; scores in float32, sorted on the device."""
        import torch

        pixels = normalise(batch.inputs["pixel_values"], batch.contract, model.dtype)
        logits = model(pixel_values=pixels).logits.float()
        if batch.key == "softmax":
            logits = logits.softmax(-1)
        elif batch.key == "sigmoid":
            logits = logits.sigmoid()
        scores, labels = best_scores(logits, MAX_LABELS)
        return scores, labels.to(torch.int32)

    def decode(
        self, rows: Sequence[RowArrays], decode_context: None, parameters: Parameters, version: VersionContext
    ) -> list[LabelScore]:
        """`[{"label": …, "score": …}, …]`, best first."""
        return best_labels(rows[0], version.contract.labels, parameters.top_k or version.defaults.top_k)


TASK = ImageClassification()
