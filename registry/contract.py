"""The contract: everything about a model that serving must know, so that nothing is guessed.

It is written once, at logging, into the MLflow flavor's configuration, and pinned by its digest in a tag of the
registered version. Light to import: the front workers read contracts without torch, transformers or mlflow.
"""

import hashlib
from typing import Annotated, Any, Literal, Self

import msgspec

from registry.errors import ContractError
from registry.heads import get_head

FORMAT = 2
"""Of the records that this release writes. Those of earlier formats are read, too: `registry.contract_upgrade`."""

INT8 = "int8"
"""The dtype of a model whose layers multiply in int8; all else of it is float32."""
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Side = Literal["left", "right"]
"""Where a tokenizer pads a row, or cuts an over-long text."""
Batching = Literal["any lengths", "any lengths, padded on the left", "equal lengths", "one row"]
"""Which rows may share a forward pass without changing each other's answers, from the least strict on."""
MAX_EDGE = 4096
"""Pixels on an edge of what an image is resized or cropped to. Such a row takes 50 MB, 200 MB as float32. Untuned."""
Edge = Annotated[int, msgspec.Meta(ge=1, le=MAX_EDGE)]


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes the model's pixels: resized, cropped around its centre, scaled and normalised.

    resize: (height, width) in pixels, or (shortest edge,) with the aspect kept, or empty for no resizing. resample:
    Pillow's number of the filter. crop: (height, width), or empty. scale: what a pixel value is multiplied with.
    mean, std: of each channel; empty for no normalising. height, width: of the result. flips_channels: whether the
    model reads blue, green, red; mean and std are in the model's order. whitens_transparent: whether a colour that the
    file states to be transparent becomes white (`convert_to_rgb`, transformers 5.23); unset where it stays.
    """

    resize: tuple[Edge, ...]
    resample: int
    crop: tuple[Edge, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    height: Edge
    width: Edge
    flips_channels: bool = False
    whitens_transparent: bool | msgspec.UnsetType = msgspec.UNSET


LANGUAGE = -1
"""Stands for the source language's id in `Languages.before` and `after`."""


class Languages(msgspec.Struct, frozen=True, kw_only=True):
    """The languages of a tokenizer for translation.

    ids: language → id of its token, with which a text in that language begins when it is generated. before, after: the
    ids around the tokens of a source text, with LANGUAGE for that of its language.
    """

    ids: dict[str, int]
    before: tuple[int, ...]
    after: tuple[int, ...]


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """How text becomes rows of token ids.

    class_name: the transformers class that saved it. inputs: names of the arrays that the model takes.
    pad_token_id: the id that fills a batch's shorter rows, >= 0. unk_token_id, cls_token_id, eos_token_id,
    mask_token_id: special ids, None for one that the tokenizer lacks. vocabulary: upper bound of a row's ids; special
    tokens may have ids above it, for which the model has no embedding. padding_side: of the tokenizer. On the left, the
    context stands before the question, as in transformers' former question answering pipeline (4.57). truncation_side:
    where an over-long text is cut unless a request says otherwise. languages: of a tokenizer for translation, None of
    others. token_types: how many the model has embeddings for; unset where it has no table of them or takes none.
    cleans_up: whether spaces before punctuation are taken out of the texts that are read from ids; unset where not.
    image: how images become pixels; then there is no text, and pad_token_id and vocabulary mean nothing.
    """

    class_name: str
    inputs: tuple[str, ...]
    pad_token_id: int
    unk_token_id: int | None
    vocabulary: int
    cls_token_id: int | None = None
    eos_token_id: int | None = None
    mask_token_id: int | None = None
    padding_side: Side = "right"
    truncation_side: Side = "right"
    languages: Languages | None = None
    image: ImageSettings | None = None
    token_types: int | msgspec.UnsetType = msgspec.UNSET
    cleans_up: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def takes_pair_types(self) -> bool:
        """Whether the second text of a pair may have token type 1."""
        return "token_type_ids" in self.inputs and not (isinstance(self.token_types, int) and self.token_types < 2)


class VectorLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A module of a sentence-transformers folder that a pooled vector passes.

    folder: of its weights, relative to the model's; empty for one that has none. inputs, outputs: how many numbers a
    vector has before and after it. activation: name of a class of `torch.nn`; bias, residual: whether it adds a bias,
    and its input or a projection of that to its output; all three of a dense layer only.
    """

    kind: Literal["dense", "layer_norm", "normalize"]
    inputs: int
    outputs: int
    folder: str = ""
    activation: str = ""
    bias: bool = False
    residual: bool = False


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A request and the answer that the model gave to it in float32 when it was logged."""

    inputs: Any
    parameters: dict[str, Any]
    output: Any


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The model's answers to an evaluation sample when it was logged: the baseline against which drift is measured.

    rows: how many inputs the sample had. labels: label → share of the answered labels. confidence, row_tokens: upper
    bound of a bucket, as Prometheus writes it → share of the scores, or of the rows by their number of tokens.
    """

    rows: int
    labels: dict[str, float]
    confidence: dict[str, float]
    row_tokens: dict[str, float]


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """The adapter that was merged into its base before the model was logged, and that base.

    config: what `adapter_config.json` holds. peft: the version that merged it. files, base: name → sha256 in hex, of
    the configuration and the weights of the adapter and of its base.
    """

    config: dict[str, Any]
    peft: str
    files: dict[str, str]
    base: dict[str, str]


class Int8(msgspec.Struct, frozen=True, kw_only=True):
    """What int8 cost in answers when the model was logged.

    inputs: how many were compared, of the evaluation sample, or generated where there is none. agreement: 0..1, the
    mean share of each answer that stayed the same; of vectors the mean cosine. float_layers: linear layers that lose
    too much in int8, and stay in float. refusal: why int8 is not used; empty where it may be.
    """

    inputs: int = 0
    agreement: float = 0.0
    float_layers: int = 0
    refusal: str = ""


class Derived(msgspec.Struct, frozen=True, kw_only=True):
    """How a contract came from a record of an earlier format.

    digest: of that record, by which registry and cache know the version. notes: what the record lacks and what logging
    the model again would change, a sentence each.
    """

    digest: str
    notes: tuple[str, ...]


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a logged model, by which it is served.

    format: version of this record. task, auto_class: a row of `registry.heads.HEADS`. model_class: the transformers
    class that the checkpoint was saved with. model_type: the architecture. is_encoder_decoder: whether it has both
    halves. problem_type: of a sequence classifier, one of transformers' three names, else None. labels: label of each
    output index, in order; empty without labels.
    max_tokens: longest row that the model takes, special tokens included. dtype: "auto", or the only one allowed
    ("float32", "bfloat16", "float16", "int8"). defaults: the task's own settings (pooling, aggregation, …).
    transformers, torch: the versions that logged it. files: path relative to the artifact → sha256 in hex.
    layers: what a pooled vector passes, in order; of a model whose answers are vectors.
    batching: found at logging, by `serving.engine.batch_invariance`; each load finds its own anew.
    baseline: unset without an evaluation sample; then it is left out of the record, as before there were any.
    adapter: unset where none was merged; then it is left out of the record, too.
    int8: unset unless int8 was chosen as the dtype, or allowed beside those of "auto".
    derived: unset in what is logged, else how this was made from a record of an earlier format.
    """

    format: int
    task: str
    auto_class: str
    model_class: str
    model_type: str
    problem_type: str | None
    labels: tuple[str, ...]
    max_tokens: int
    dtype: str
    is_encoder_decoder: bool = False
    processor: Processor
    defaults: dict[str, Any]
    transformers: str
    torch: str
    files: dict[str, str]
    layers: tuple[VectorLayer, ...] = ()
    example: Example | None = None
    batching: Batching = "any lengths"
    baseline: Baseline | msgspec.UnsetType = msgspec.UNSET
    adapter: Adapter | msgspec.UnsetType = msgspec.UNSET
    int8: Int8 | msgspec.UnsetType = msgspec.UNSET
    derived: Derived | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def parse(cls, record: Any) -> Self:
        """The contract in `record`, plain data as `to_record` made it; raises ContractError."""
        found = record.get("format") if isinstance(record, dict) else None
        if found != FORMAT:
            raise ContractError(
                f"the contract has format {str(found)[:100]!r}, this release reads formats 1 to {FORMAT}: "
                "log the model again, or install the release that logged it"
            )
        try:
            contract = msgspec.convert(record, cls)
        except msgspec.ValidationError as error:
            raise ContractError(f"the contract is damaged: {error}; log the model again") from error
        head = get_head(contract.task)
        if contract.auto_class != head.auto_class:
            raise ContractError(
                f"the contract serves {contract.task} with {contract.auto_class}, this release with "
                f"{head.auto_class}: log the model again"
            )
        return contract

    @property
    def allows_int8(self) -> bool:
        """Whether int8 may be chosen where it is the fastest: it was allowed, and passed the gate at logging."""
        return isinstance(self.int8, Int8) and not self.int8.refusal

    def to_record(self) -> dict[str, Any]:
        """Plain data (dict, list, str, int, float, None) for YAML or JSON."""
        record: dict[str, Any] = msgspec.to_builtins(self)
        return record

    @property
    def digest(self) -> str:
        """sha256 in hex of the record that was logged, as `digest_record`. It covers every file through `files`."""
        return self.derived.digest if self.derived else digest_record(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a record of an earlier format lacks, and what logging the model again would change."""
        return self.derived.notes if self.derived else ()


def digest_record(record: Any) -> str:
    """sha256 in hex of a contract, or of its record, as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(record, order="sorted")).hexdigest()
