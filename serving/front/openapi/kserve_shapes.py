"""The shapes of the Open Inference Protocol's answers; see `shapes`."""

from typing import Literal, NotRequired, TypedDict

from serving.front.openapi.shapes import JsonRecord


class Server(TypedDict):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Live(TypedDict):
    """The server is alive."""

    live: Literal[True]


class Ready(TypedDict):
    """The server is ready."""

    ready: Literal[True]


class ModelReady(TypedDict):
    """The model answers."""

    name: str
    ready: Literal[True]


class TensorForm(TypedDict):
    """A tensor of a model. A dimension of -1 is of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """A model's tensors. parameters: what a client must know to write an input, such as the mask token."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorForm]
    outputs: list[TensorForm]
    parameters: dict[str, str]


class ModelConfiguration(TypedDict):
    """Triton's model configuration, as far as it applies. max_batch_size: 0, because the server makes the batches.

    instance_group: for operators, as is `model_class` among the parameters.
    """

    name: str
    platform: str
    backend: str
    version_policy: JsonRecord
    max_batch_size: int
    input: list[JsonRecord]
    output: list[JsonRecord]
    dynamic_batching: JsonRecord
    instance_group: NotRequired[list[JsonRecord]]
    parameters: dict[str, dict[str, str]]


class ModelStatistics(TypedDict):
    """The statistics of one version; durations in nanoseconds."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, dict[str, int]]
    batch_stats: list[JsonRecord]


class AllStatistics(TypedDict):
    """Triton's statistics."""

    model_stats: list[ModelStatistics]


class IndexEntry(TypedDict):
    """A version in Triton's index of the repository."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(TypedDict):
    """The answer. data: absent where it follows in binary form."""

    name: Literal["output"]
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    data: NotRequired[list[float | str]]
    parameters: NotRequired[dict[str, int]]


class Inference(TypedDict):
    """The answer to an inference request. id: the request's."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: NotRequired[str]
