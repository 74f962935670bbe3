"""feature-extraction: a vector for each text, or for each of its tokens; or how similar sentences are to another.

Pooling follows sentence-transformers, and so does what a pooled vector passes in a checkpoint that was saved by it
(`registry.sentence_folder`). Normalised vectors have Euclidean length 1. Fewer dimensions are the first ones of the
vector, as in models trained for that (Matryoshka); vectors are cut before they are normalised. The similarity of two
sentences is the cosine of their vectors, as in the Hugging Face inference API's sentence-similarity.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
import numpy

from registry.contract import Contract
from registry.sentence_folder import read_sentence_folder
from serving.errors import Unprocessable
from serving.processors.images import ImageReader, collate_images, compare_pixels, draw, normalise, probe_image
from serving.processors.token_ids import TokenIds, encode_ids
from serving.processors.tokenizer import TextEncoder, TextParameters
from serving.tasks.base.agreement import Agreement, of_vectors
from serving.tasks.base.cost import NUMBER_BYTES, ItemCost
from serving.tasks.base.fields import Name, Positive
from serving.tasks.base.pooling import counted_positions, pool
from serving.tasks.base.task import Batch, Task, probe_text
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import AnyArray, Encoded, EncodedRow, Row, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

PoolingMode = Literal["mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean"]
Modes = Annotated[tuple[PoolingMode, ...], msgspec.Meta(min_length=1, max_length=len(get_args(PoolingMode)))]
"""Their vectors one after another."""
Pooling = Literal["raw", "mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean"] | Modes
RAW = "raw"
MAP = "map"
"""The batch key of raw states of images, which are not cut to a row's tokens."""
NEEDS_ENCODER = "headwaiter_needs_encoder"
"""The attribute of a loaded model whose encoder alone reads the text."""
Dimensions = Positive


class Parameters(TextParameters, frozen=True):
    """pooling, normalize, dimensions: instead of the contract's. prompt_name: of the contract's prompts."""

    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: Dimensions | None = None
    prompt_name: Name | None = None


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request without parameters gets.

    prompts: prefixes of a text, by name. prompt_name: of the one that a request gets which names none. include_prompt:
    whether a prompt's own tokens are pooled.
    """

    pooling: Pooling = "raw"
    normalize: bool = False
    dimensions: Dimensions | None = None
    prompts: dict[str, str] = {}
    prompt_name: Name | None = None
    include_prompt: bool = True


class Comparison(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A sentence, and those that are compared with it."""

    source_sentence: str
    sentences: Annotated[list[str], msgspec.Meta(min_length=1)]


class FeatureExtraction(Task[str | TokenIds | Comparison, Parameters, bool]):
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
        """Pooling, normalisation, prompts and length of vectors of a sentence-transformers folder."""
        found = read_sentence_folder(folder)
        if found is None:
            return {}
        return {
            "pooling": found.pooling[0] if len(found.pooling) == 1 else found.pooling,
            "normalize": found.normalizes,
            "dimensions": found.dimensions,
            "prompts": found.prompts,
            "prompt_name": found.prompt_name,
            "include_prompt": found.include_prompt,
        }

    def has_tokens(self, batch_key: str) -> bool:
        """Only raw states of texts have a tokens dimension."""
        return batch_key == RAW

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A text or image with the contract's pooling."""
        key = _batch_key(msgspec.convert(contract.defaults, Defaults).pooling, contract)
        return probe_image(contract, key) if contract.processor.image else probe_text(contract, length, key)

    def compare(self, processor: "ProcessorMixin", contract: Contract) -> str | None:
        """Compare the pixels of test images with an image processor's."""
        return compare_pixels(processor, contract) if contract.processor.image else None

    def make_encoder(self, folder: Path, contract: Contract) -> "TextEncoder | ImageReader":
        """The image reader of an image model, or the tokenizer."""
        return ImageReader(contract) if contract.processor.image else super().make_encoder(folder, contract)

    def make_example(self, version: VersionContext) -> list[object]:
        """Texts or images."""
        return [draw(48, 32), draw(80, 120)] if version.contract.processor.image else list(self.example)

    def make_example_parameters(self, contract: Contract) -> dict[str, Any]:
        """One vector per image: a contract has no room for one per patch."""
        is_raw = contract.processor.image and msgspec.convert(contract.defaults, Defaults).pooling == RAW
        return {"pooling": "mean"} if is_raw else {}

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, AnyArray]:
        """Token ids or pixels."""
        return collate_images(rows, contract) if contract.processor.image else super().collate(rows, contract)

    def prepare(self, model: "PreTrainedModel", contract: Contract) -> None:
        """Find out whether a model with an encoder and a decoder takes the text alone."""
        if contract.is_encoder_decoder and not _takes_text_alone(model, probe_text(contract, 3)):
            setattr(model, NEEDS_ENCODER, True)

    def cost(self, item: str | TokenIds | Comparison, parameters: Parameters, version: VersionContext) -> ItemCost:
        """One row per text, with its prompt, or per image."""
        rows = 1 + len(item.sentences) if isinstance(item, Comparison) else 1
        if version.contract.processor.image:
            return ItemCost(rows, 0, rows * version.image_reader.pixel_bytes)
        prompt = len(self._prompt(parameters, version))
        if not isinstance(item, Comparison):
            return ItemCost(1, prompt + len(item))
        return ItemCost(rows, rows * prompt + len(item.source_sentence) + sum(map(len, item.sentences)))

    def agreement(self, one: Any, other: Any, contract: Contract) -> Agreement:
        """The cosine of the vectors, or of the similarities; of raw states the mean of the tokens' cosines."""
        return of_vectors(one, other)

    def answer_bytes(self, encoded: Encoded[bool], parameters: Parameters, version: VersionContext) -> int:
        """A vector, or a vector per token; of a comparison the vectors count, too."""
        pooling = self._pooling(parameters, version)
        width = version.answer_width * (1 if isinstance(pooling, str) else len(pooling))
        width = min(width, parameters.dimensions or version.defaults.dimensions or width)
        vectors = sum([row.length for row in encoded.rows]) if pooling == RAW else len(encoded.rows)
        return NUMBER_BYTES * width * vectors

    def encode(
        self, item: str | TokenIds | Comparison, parameters: Parameters, version: VersionContext
    ) -> Encoded[bool]:
        """One row per text; its batch key is the pooling, its payload how many tokens of a prompt are not pooled."""
        if not isinstance(item, Comparison):
            return Encoded([self._row(item, parameters, version)], False)
        if self._pooling(parameters, version) == RAW:
            raise Unprocessable(
                "inputs has sentences to compare, but the contract pools nothing, so there is a vector for each "
                'token: pass "parameters": {"pooling": "mean"}, or log the model with --default pooling=mean'
            )
        texts = (item.source_sentence, *item.sentences)
        return Encoded([self._row(text, parameters, version) for text in texts], True)

    def _row(self, text: str | TokenIds, parameters: Parameters, version: VersionContext) -> EncodedRow:
        key = _batch_key(self._pooling(parameters, version), version.contract)
        if isinstance(text, TokenIds):
            if version.contract.processor.image:
                raise Unprocessable("inputs has token ids, and this model reads images: send an image")
            if parameters.prompt_name is not None:
                raise Unprocessable("parameters.prompt_name goes with texts, and inputs has token ids: leave it out")
            return encode_ids(text, version.tokenizer, parameters=parameters, batch_key=key)
        if version.contract.processor.image:
            return version.image_reader.encode(text, key)
        prompt = self._prompt(parameters, version)
        row = version.tokenizer.row(prompt + text if text else text, parameters=parameters, batch_key=key)
        if prompt and not version.defaults.include_prompt and key != RAW:
            row = msgspec.structs.replace(row, payload=_tokens_of(prompt, row, version))
        return row

    def _pooling(self, parameters: Parameters, version: VersionContext) -> Pooling:
        own: Pooling = version.defaults.pooling
        pooling = parameters.pooling or own
        if version.contract.layers and pooling not in (own, RAW):
            raise Unprocessable(
                f"parameters.pooling {pooling!r} does not go with this model, whose own layers follow its pooling "
                f"{own!r}: leave it out, or ask for {RAW!r}, the states of the tokens"
            )
        return pooling

    def _prompt(self, parameters: Parameters, version: VersionContext) -> str:
        defaults: Defaults = version.defaults
        if parameters.prompt_name is not None and parameters.prompt_name not in defaults.prompts:
            known = ", ".join(defaults.prompts) or "none"
            raise Unprocessable(f"parameters.prompt_name {parameters.prompt_name!r} is unknown; known: {known}")
        name = parameters.prompt_name if parameters.prompt_name is not None else defaults.prompt_name
        return "" if name is None else defaults.prompts[name]

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Pooled, and passed through the contract's layers, in float32 on the device."""
        if batch.contract.processor.image:
            pixels = normalise(batch.inputs["pixel_values"], batch.contract, model.dtype)
            states = model(pixel_values=pixels).last_hidden_state.float()
            if states.ndim == 4 and batch.key != MAP:  # (rows, size, height, width) of a convolutional network
                states = states.flatten(2).transpose(1, 2)
        else:
            states = _text_half(model)(**batch.inputs).last_hidden_state.float()
        if batch.key in (RAW, MAP):
            return (states,)
        counted = None
        if not batch.contract.processor.image:
            skipped = [int.from_bytes(payload, "little") for payload in batch.payloads]
            counted = counted_positions(batch, skipped, states.device)
        vectors = pool(states, batch.key.split("+"), counted)
        return (vectors if batch.layers is None else batch.layers(vectors),)

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


def _takes_text_alone(model: "PreTrainedModel", row: EncodedRow) -> bool:
    """Whether the whole model runs on a text without tokens of a decoder, as BART does and T5 does not.

    A copy that shares the weights runs: a forward pass changes some models, which is looked for later.
    """
    import torch

    ids = torch.tensor([numpy.frombuffer(row.tokens, dtype=numpy.int32).tolist()], device=model.device)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        with torch.inference_mode():
            deepcopy(model, shared)(input_ids=ids)
    except Exception:  # each family raises its own; what is wrong with the encoder, too, it raises again
        return False
    return True


def _text_half(model: "PreTrainedModel") -> "PreTrainedModel":
    """The encoder of a model that does not take the text alone, else the model itself."""
    return model.get_encoder() if getattr(model, NEEDS_ENCODER, False) else model


def _batch_key(pooling: Pooling, contract: Contract) -> str:
    """The modes joined by "+"."""
    if pooling == RAW:
        return MAP if contract.processor.image else RAW
    return pooling if isinstance(pooling, str) else "+".join(pooling)


def _tokens_of(prompt: str, row: EncodedRow, version: VersionContext) -> bytes:
    """The number of a prompt's tokens, int32 bytes: without a special token at its end, which follows the text."""
    alone, encoding = version.tokenizer.encode(prompt, parameters=TextParameters(truncate=True))
    count = alone.length - encoding.special_tokens_mask[-1]
    if count >= row.length:
        raise Unprocessable("inputs has no token beside its prompt that could be pooled: shorten the prompt")
    return numpy.int32(count).tobytes()


TASK = FeatureExtraction()
