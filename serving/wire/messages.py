"""The messages between a front and an engine, as msgpack over ZeroMQ, and their forms on either side.

Token ids travel as int32 bytes.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, cast

import msgspec
import numpy

AnyArray = numpy.ndarray[Any, Any]
"""An array whose shape and dtype its user states."""

FailureReason = Literal["failed", "deadline", "refused"]
"""Why a row got no answer: the model failed on it, its deadline passed, or its settings do not fit the model."""
FinishReason = Literal["length", "eos_token", "stop_sequence"]
"""Why a text ended: `max_new_tokens` were generated, an end token came, or a stop string came. Named as in the Hugging
Face inference API."""
Finish = FinishReason | Literal[""]
"""A finish reason, or "" while more tokens follow."""
FINISH_REASONS: tuple[FinishReason, ...] = ("length", "eos_token", "stop_sequence")
"""The finish reasons in the order of their numbers in `RowArrays`."""


ROW_BYTES = 512
"""Memory of a row beside its arrays, in a front and again in an engine: 380 and 460 bytes, measured by tracemalloc."""
DType = Literal["bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"]
"""What an array may hold. numpy parses any other name as a description, some of them as Python's syntax."""


Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Row(msgspec.Struct, array_like=True, gc=False):
    """One row for the model.

    id: chosen by the front, unique in its connection. length: number of tokens, special tokens included; of an
    image, its patches. tokens: int32 bytes, 4 per token. types: int8 bytes, 1 per token, empty where all are 0.
    batch_key: rows share a batch only with rows of the same key; a task defines its values. deadline: seconds of
    the machine's monotonic clock, after which the answer is no longer wanted. payload: what else the task's
    `forward` needs of this row, in the task's own encoding. new_tokens: the most tokens to generate for it.
    streams: whether tokens are sent as they are generated. is_suspect: whether no other row may share its forward
    pass, because an engine ended while it computed this one. caller: the name of the API key that asks, of a row
    to generate for; what an engine knows of the first tokens of one caller's prompts is used for no other's.
    """

    id: int
    length: Count
    tokens: bytes
    types: bytes
    batch_key: str
    deadline: float
    payload: bytes = b""
    new_tokens: Count = 0
    streams: bool = False
    is_suspect: bool = False
    caller: str = ""

    @property
    def tokens_in_all(self) -> int:
        """The row's length with all its new tokens; the queue's bound counts it."""
        return self.length + self.new_tokens

    @property
    def size_bytes(self) -> int:
        """Its memory while it waits; the queue's bound in bytes counts it."""
        return len(self.tokens) + len(self.types) + len(self.payload) + ROW_BYTES


class Submit(msgspec.Struct, array_like=True, tag=0):
    """Rows to answer."""

    rows: list[Row]


class Cancel(msgspec.Struct, array_like=True, tag=1):
    """Rows whose answer is no longer wanted: the client disconnected or the deadline passed."""

    ids: list[int]


class Array(msgspec.Struct, array_like=True, gc=False):
    """A dense array: numpy dtype name, shape, C-ordered bytes."""

    dtype: DType
    shape: list[int]
    data: bytes


class Compute(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a forward pass took of its processor, whatever else that did meanwhile.

    seconds: that the pass's thread had a processor; 0 where it is not told: of a pass of more than two threads, and of
    a GPU, whose time includes what the pass waited for others. tokens, pairs: what the pass computed, see `Cost.work`.
    """

    seconds: float = 0.0
    tokens: int = 0
    pairs: int = 0


NOT_TOLD = Compute()
"""Of an engine of another release, or a pass that was repeated."""


class Outputs(msgspec.Struct, array_like=True, tag=0):
    """The head's arrays for some rows of one batch; each array's first dimension is the rows, in the order of ids.

    lengths: tokens of each row; a per-token array is padded to the batch's longest row. forward_seconds: duration of
    the batch's forward pass. compute: what that took.
    """

    ids: list[int]
    lengths: list[int]
    arrays: list[Array]
    forward_seconds: float
    compute: Compute = NOT_TOLD


class TokenDelta(msgspec.Struct, array_like=True, gc=False):
    """Newly generated tokens of one row: those of one step of a stream, or all tokens of the row.

    tokens: int32 bytes. written: tokens generated for the row so far. logprobs:
    float32 bytes, one per token, empty unless requested. top_ids, top_logprobs: int32 and float32 bytes, the likeliest
    tokens at each position, best first; as many as were requested. forward_seconds: from the row's first forward pass
    until now. reused: tokens of the prompt that were not computed, because an earlier prompt began with them.
    """

    id: int
    tokens: bytes
    finish: Finish
    written: int
    logprobs: bytes = b""
    top_ids: bytes = b""
    top_logprobs: bytes = b""
    forward_seconds: float = 0.0
    reused: int = 0


class TokenDeltas(msgspec.Struct, array_like=True, tag=2):
    """New tokens of some rows, at most one delta per row."""

    deltas: list[TokenDelta]


class Failure(msgspec.Struct, array_like=True, tag=1):
    """Rows that get no answer."""

    ids: list[int]
    reason: FailureReason
    message: str


ToEngine = Submit | Cancel
FromEngine = Outputs | Failure | TokenDeltas


def pack(array: AnyArray, indexes: Sequence[int]) -> Array:
    """Pack some rows of an array. All rows are packed without copying the array first."""
    part = array if len(indexes) == array.shape[0] else array[indexes]
    return Array(cast(DType, part.dtype.name), list(part.shape), part.tobytes())


def unpack(array: Array) -> AnyArray:
    """View a message's array, read-only, without a copy."""
    return numpy.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)


RowArrays = Sequence[AnyArray]
"""One row of each array that `forward` returned, in that order, without the rows dimension."""

Context = TypeVar("Context")
"""What a task's `decode` needs of an item beside its rows' arrays."""


class EncodedRow(msgspec.Struct, frozen=True, gc=False):
    """A row before it has an id and a deadline; the fields are those of `Row`."""

    length: int
    tokens: bytes
    types: bytes = b""
    batch_key: str = ""
    payload: bytes = b""
    new_tokens: int = 0
    streams: bool = False
    is_suspect: bool = False
    caller: str = ""

    def to_row(self, row_id: int, deadline: float) -> Row:
        """Complete the row for sending."""
        row = (row_id, self.length, self.tokens, self.types, self.batch_key, deadline, self.payload)
        return Row(*row, self.new_tokens, self.streams, self.is_suspect, self.caller)


class Encoded(msgspec.Struct, Generic[Context], frozen=True):
    """An item as rows. decode_context: what `decode` needs beside the rows' arrays (offsets, the text, …)."""

    rows: list[EncodedRow]
    decode_context: Context


class SamplingSettings(msgspec.Struct, array_like=True, frozen=True):
    """How one row's tokens are generated; None leaves a setting to the checkpoint's `generation_config`.

    top: see `GenerationParameters.top`. rank: which of the texts of a beam search without draws, from 0, best first.
    """

    max_new_tokens: int
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None
    forced_bos_token_id: int | None = None
    min_new_tokens: int | None = None
    rank: int = 0

    def pack(self) -> bytes:
        """Encode as a `Row.payload`."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Decode a `Row.payload`."""
        return msgspec.msgpack.decode(payload, type=cls)
