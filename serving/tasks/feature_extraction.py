"""feature-extraction: a vector for each text, or for each of its tokens; or how similar sentences are to another.

Pooling follows sentence-transformers (`1_Pooling/config.json` of a checkpoint): the mean over real tokens, the first
token, or the last real token. Normalised vectors have Euclidean length 1. Fewer dimensions are the first ones of the
vector, as in models trained for that (Matryoshka); vectors are cut before they are normalised. The similarity of two
sentences is the cosine of their vectors, as in the Hugging Face inference API's sentence-similarity.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.images import ImageReader, collate_images, draw, normalise, probe_image
from serving.processors.tokenizer import TextEncoder, TextParameters
from serving.tasks.base.task import Batch, Task, VersionContext, probe_text, upload
from serving.wire.messages import AnyArray, Encoded, EncodedRow, Row, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Pooling = Literal["raw", "mean", "cls", "last"]
Dimensions = Annotated[int, msgspec.Meta(ge=1)]


class Parameters(TextParameters, frozen=True):
    """pooling, normalize, dimensions: instead of the contract's. prompt_name: of the contract's prompts."""

    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: Dimensions | None = None
    prompt_name: str | None = None


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request without parameters gets. prompts: prefixes of a text, by name."""

    pooling: Pooling = "raw"
    normalize: bool = False
    dimensions: Dimensions | None = None
    prompts: dict[str, str] = {}


class Comparison(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A sentence, and those that are compared with it."""

    source_sentence: str
    sentences: Annotated[list[str], msgspec.Meta(min_length=1)]


class FeatureExtraction(Task[str | Comparison, Parameters, bool]):
    """(rows, tokens, hidden) states → (rows, hidden) float32, or (rows, tokens, hidden) when raw.

    The decode context says whether the item is a comparison.
    """

    name = "feature-extraction"
    item_type = str | Comparison
    unsupported = {"encoding_format": ("float",)}
    parameters_type = Parameters
    defaults_type = Defaults
    embeds = True
    example = ("A short text.", "Another text, with a few more words in it than the first one has.")

    def folder_settings(self, folder: Path) -> dict[str, object]:
        """Pooling, normalisation and prompts of a sentence-transformers folder."""
        return _sentence_transformer(folder)

    def has_tokens(self, batch_key: str) -> bool:
        """Only raw states have a tokens dimension."""
        return batch_key == "raw"

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A text or image with the contract's pooling."""
        pooling = msgspec.convert(contract.defaults, Defaults).pooling
        return probe_image(contract, pooling) if contract.processor.image else probe_text(contract, length, pooling)

    def make_encoder(self, folder: Path, contract: Contract) -> "TextEncoder | ImageReader":
        """The image reader of an image model, or the tokenizer."""
        return ImageReader(contract) if contract.processor.image else super().make_encoder(folder, contract)

    def make_example(self, version: VersionContext) -> list[object]:
        """Texts or images."""
        return [draw(48, 32), draw(80, 120)] if version.contract.processor.image else list(self.example)

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, AnyArray]:
        """Token ids or pixels."""
        return collate_images(rows, contract) if contract.processor.image else super().collate(rows, contract)

    def encode(self, item: str | Comparison, parameters: Parameters, version: VersionContext) -> Encoded[bool]:
        """One row per text; its batch key is the pooling."""
        if isinstance(item, str):
            return Encoded([self._row(item, parameters, version)], False)
        if (parameters.pooling or version.defaults.pooling) == "raw":
            raise Unprocessable(
                "inputs has sentences to compare, but the contract pools nothing, so there is a vector for each "
                'token: pass "parameters": {"pooling": "mean"}, or log the model with --default pooling=mean'
            )
        texts = (item.source_sentence, *item.sentences)
        return Encoded([self._row(text, parameters, version) for text in texts], True)

    def _row(self, text: str, parameters: Parameters, version: VersionContext) -> EncodedRow:
        defaults: Defaults = version.defaults
        if parameters.prompt_name is not None:
            if parameters.prompt_name not in defaults.prompts:
                known = ", ".join(defaults.prompts) or "none"
                raise Unprocessable(f"parameters.prompt_name {parameters.prompt_name!r} is unknown; known: {known}")
            text = defaults.prompts[parameters.prompt_name] + text
        batch_key = parameters.pooling or defaults.pooling
        if version.contract.processor.image:
            return version.image_reader.encode(text, batch_key)
        return version.tokenizer.row(text, parameters=parameters, batch_key=batch_key)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Pooled, in float32 on the device."""
        import torch

        if batch.contract.processor.image:
            pixels = normalise(batch.inputs["pixel_values"], batch.contract, model.dtype)
            states = model(pixel_values=pixels).last_hidden_state.float()
        else:
            states = _text_half(model)(**batch.inputs).last_hidden_state.float()
        if batch.key == "mean" and batch.contract.processor.image:
            states = states.mean(1)
        elif batch.key == "mean":
            mask = batch.mask().unsqueeze(-1).to(states.dtype)
            states = (states * mask).sum(1) / mask.sum(1)
        elif batch.key == "cls":
            states = states[:, 0]
        elif batch.key == "last":
            rows = torch.arange(len(batch.lengths), device=states.device)
            states = states[rows, upload(numpy.asarray(batch.lengths) - 1, states.device)]
        return (states,)

    def decode(
        self, rows: Sequence[RowArrays], is_comparison: bool, parameters: Parameters, version: VersionContext
    ) -> list[float] | list[list[float]]:
        """A list of floats; for raw states a list of them per token, special tokens included.

        Of a comparison the similarity of each sentence, -1 to 1.
        """
        states = [self._vectors(row, parameters, version) for row in rows]
        if is_comparison:
            first, *others = (vector / max(float(numpy.linalg.norm(vector)), 1e-12) for vector in states)
            return [float(first @ other) for other in others]
        vectors: list[float] | list[list[float]] = states[0].tolist()
        return vectors

    def _vectors(self, row: RowArrays, parameters: Parameters, version: VersionContext) -> AnyArray:
        """A row's states, cut to the dimensions and normalised."""
        (states,) = row
        dimensions = parameters.dimensions or version.defaults.dimensions
        if dimensions is not None:
            if dimensions > states.shape[-1]:
                raise Unprocessable(f"parameters.dimensions is {dimensions}, this model has {states.shape[-1]}")
            states = states[..., :dimensions]
        if version.defaults.normalize if parameters.normalize is None else parameters.normalize:
            states = states / numpy.maximum(numpy.linalg.norm(states, axis=-1, keepdims=True), 1e-12)
        return states


def _text_half(model: "PreTrainedModel") -> "PreTrainedModel":
    """The encoder of a model whose decoder does not accept the text alone (T5), else the model itself."""
    return model.get_encoder() if hasattr(model, "_shift_right") else model


def _sentence_transformer(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    pooling = _read(folder / "1_Pooling" / "config.json")
    for key, value in (("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")):
        if pooling.get(f"pooling_mode_{key}"):
            found["pooling"] = value
    modules = folder / "modules.json"
    if modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8"):
        found["normalize"] = True
    settings = _read(folder / "config_sentence_transformers.json")
    if isinstance(settings.get("prompts"), dict) and any(settings["prompts"].values()):
        found["prompts"] = {name: text for name, text in settings["prompts"].items() if text}
    return found


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


TASK = FeatureExtraction()
