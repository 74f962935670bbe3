"""The shapes of answers, and of the few bodies that no struct parses, for the OpenAPI document.

What a protocol parses into a struct is described by that struct, and a task's answer by what its `decode` returns. The
rest is plain data; these types state its fields. A test compares them with real answers. Those of OpenAI and of the
Open Inference Protocol have files of their own.
"""

from typing import Literal, NotRequired, TypedDict

from serving.front.protocols.mlflow import SplitTable
from serving.runtime.limits import Limits
from serving.wire.routing_table import Swap
from serving.wire.version_state import State

JsonRecord = dict[str, object]
"""An object of JSON whose fields are not described here."""


# Errors


class HuggingFaceError(TypedDict):
    """The error of Hugging Face's routes, of webhooks, and of a connection. error_type: the reason."""

    error: str
    error_type: str


class PlainError(TypedDict):
    """The error of the Open Inference Protocol and of BentoML."""

    error: str


class RerankError(HuggingFaceError):
    """The error of the routes that rank texts. message: as `error`, where Cohere's client expects it."""

    message: str


class OpenAIErrorFields(TypedDict):
    """param: the field that broke a rule."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(TypedDict):
    """The error of OpenAI's routes."""

    error: OpenAIErrorFields


class MLflowError(TypedDict):
    """The error of the scoring protocol."""

    error_code: str
    message: str


# Headwaiter and Hugging Face


class Moves(TypedDict):
    """The recorded moves of a model's aliases, oldest first."""

    moves: list[JsonRecord]


class RolloutAnswer(TypedDict):
    """A model's latest rollout: phase, step, steps, weight, plan, progress, order, stop and done."""

    rollout: JsonRecord | None


class EngineDescription(TypedDict):
    """One engine of a version."""

    pid: int
    device: str
    dtype: str
    dtype_note: str | None
    execution: str
    batching: str
    notes: list[str]
    split: str | None
    budget_tokens: int
    tokens_per_second: int


class VersionDescription(TypedDict):
    """One version of a model."""

    state: State
    error: str | None
    attempt: int
    memory_bytes: int
    restarts: int
    engines: list[EngineDescription]
    contract: JsonRecord | None


class RolloutDescription(TypedDict):
    """A rollout that is under way. step: counted from 0. weight: the candidate's share of requests, 0 to 1.

    verdicts: metric of a guard → pass, inconclusive or fail.
    """

    alias: str
    stable: str
    candidate: str
    phase: str
    steps: list[str]
    step: int
    weight: float
    verdicts: dict[str, str]
    waiting_seconds: float


class ModelDescription(TypedDict):
    """One model. aliases: alias → version. previous: reference → the versions that it served before, latest first."""

    name: str
    live: str | None
    aliases: dict[str, str | None]
    error: str | None
    previous: dict[str, list[str]]
    swaps: list[Swap]
    rollout: RolloutDescription | None
    versions: dict[str, VersionDescription]


class EngineMemory(TypedDict):
    """What engines may take of the machine's memory together, and what counts as taken."""

    limit_bytes: int
    taken_bytes: int


class Models(TypedDict):
    """All models."""

    models: list[ModelDescription]
    registry_error: str | None
    named: list[str]
    deployments: bool
    machine: Limits
    engine_memory: EngineMemory


class Info(TypedDict):
    """A model in the fields of text-generation-inference."""

    model_id: str
    model_sha: str
    model_pipeline_tag: str
    model_type: str
    max_input_tokens: int
    max_client_batch_size: int
    router: str
    version: str


class Health(TypedDict):
    """The model answers."""

    status: Literal["ok"]


class HookAnswer(TypedDict):
    """The registered model of a webhook, and whether this server has it."""

    model: str
    served: bool


# Rerank


class TokensUsed(TypedDict):
    """Token counts of a request."""

    prompt_tokens: int
    total_tokens: int


class RankedDocument(TypedDict):
    """A ranked document. index: its place in the request. relevance_score: from 0 to 1."""

    index: int
    relevance_score: float
    document: NotRequired[JsonRecord]


class Reranked(TypedDict):
    """The ranked documents, best first. id: of the request."""

    id: str
    model: str
    usage: TokensUsed
    results: list[RankedDocument]


# Tokenizer


class Tokenized(TypedDict):
    """A text's tokens. max_model_len: the most tokens of an input. token_strs: as the vocabulary has them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class TokenPlace(TypedDict):
    """A token. start, stop: its place in the text, in characters; None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Detokenized(TypedDict):
    """The text of token ids."""

    prompt: str


# MLflow and BentoML


class InputsForm(TypedDict):
    """Inputs in the task's own form: one, a list of them, or their columns."""

    inputs: object
    params: NotRequired[JsonRecord | None]


class InstancesForm(TypedDict):
    """As `inputs`."""

    instances: object
    params: NotRequired[JsonRecord | None]


class SplitForm(TypedDict):
    """A table."""

    dataframe_split: SplitTable
    params: NotRequired[JsonRecord | None]


class RecordsForm(TypedDict):
    """A table, row by row."""

    dataframe_records: list[JsonRecord]
    params: NotRequired[JsonRecord | None]


class Predictions(TypedDict):
    """One answer for each row."""

    predictions: list[object]
