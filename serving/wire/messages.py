"""What crosses from a front to an engine and back, as msgpack over ZeroMQ; and what becomes of it on either side.

Token ids travel as int32 bytes.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec
import numpy


class Row(msgspec.Struct, array_like=True, gc=False):
    """One row that wants a forward pass.

    id: chosen by the front, unique in its connection. length: number of tokens, special ones included; of an image,
    its patches. tokens: int32 bytes, 4 per token. types: int8 bytes, 1 per token, empty where all are 0. kind: rows of
    one kind share a batch; a task's own word. deadline: seconds of the machine's monotonic clock after which nobody
    waits. extra: what else the task's `forward` needs of this row, in its own form. new_tokens: the most that are
    written after it. streams: whether they are sent as they come.
    """

    id: int
    length: int
    tokens: bytes
    types: bytes
    kind: str
    deadline: float
    extra: bytes = b""
    new_tokens: int = 0
    streams: bool = False

    @property
    def tokens_in_all(self) -> int:
        """What the row may come to, its new tokens included; the queue's bound counts it."""
        return self.length + self.new_tokens


class Submit(msgspec.Struct, array_like=True, tag=0):
    """Rows that want an answer."""

    rows: list[Row]


class Cancel(msgspec.Struct, array_like=True, tag=1):
    """Rows whose client left or whose deadline passed."""

    ids: list[int]


class Array(msgspec.Struct, array_like=True, gc=False):
    """A dense array: numpy dtype name, shape, C-ordered bytes."""

    dtype: str
    shape: list[int]
    data: bytes


class Outputs(msgspec.Struct, array_like=True, tag=0):
    """What the head gave for some rows of one batch; each array's first dimension is the rows, in the order of ids.

    lengths: tokens of each row; a per-token array is padded to the batch's longest. forward_seconds: of the batch.
    last: whether these rows are done, as all but streamed ones are.
    """

    ids: list[int]
    lengths: list[int]
    arrays: list[Array]
    forward_seconds: float
    last: bool = True


class Part(msgspec.Struct, array_like=True, gc=False):
    """Tokens that were written for a row: the newest ones of a stream, or all.

    tokens: int32 bytes. finish: "" while more come, else a word of `FINISHES`. written: tokens of the row so far.
    logprobs: float32 bytes, one a token, empty unless asked for. top_ids, top_logprobs: int32 and float32 bytes, the
    likeliest tokens at each place, best first; as many as were asked for. forward_seconds: from the row's first forward
    pass until now.
    """

    id: int
    tokens: bytes
    finish: str
    written: int
    logprobs: bytes = b""
    top_ids: bytes = b""
    top_logprobs: bytes = b""
    forward_seconds: float = 0.0


class Written(msgspec.Struct, array_like=True, tag=2):
    """Parts of some rows, at most one a row."""

    parts: list[Part]


FINISHES = ("length", "eos_token", "stop_sequence")
"""Why a text ended: it has all the tokens that it may have, the model ended it, or a stop string came. As in the
Hugging Face inference API."""


FailureReason = Literal["failed", "deadline", "stopping"]
"""Why a row got no answer: the model failed on it, its deadline passed, or the engine stops."""


class Failure(msgspec.Struct, array_like=True, tag=1):
    """Rows that get no answer."""

    ids: list[int]
    reason: FailureReason
    message: str


ToEngine = Submit | Cancel
FromEngine = Outputs | Failure | Written


def pack(array: numpy.ndarray[Any, Any], indexes: Sequence[int]) -> Array:
    """Those rows of an array as a message; all of them in order without a copy of the index."""
    part = array if len(indexes) == array.shape[0] else array[indexes]
    return Array(part.dtype.name, list(part.shape), part.tobytes())


def unpack(array: Array) -> numpy.ndarray[Any, Any]:
    """The array of a message, read-only, without a copy."""
    return numpy.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)


RowArrays = Sequence[numpy.ndarray[Any, Any]]
"""One row's part of each array that `forward` returned, in that order, without the rows dimension."""


class EncodedRow(msgspec.Struct, frozen=True, gc=False):
    """A row before it has an id; the fields are those of `Row`."""

    length: int
    tokens: bytes
    types: bytes = b""
    kind: str = ""
    extra: bytes = b""
    new_tokens: int = 0
    streams: bool = False

    def to_row(self, row_id: int, deadline: float) -> Row:
        """The row as it travels."""
        row = (row_id, self.length, self.tokens, self.types, self.kind, deadline, self.extra)
        return Row(*row, self.new_tokens, self.streams)


class Encoded(msgspec.Struct, frozen=True):
    """An item as rows, and what `decode` needs to know of it (offsets, the text, …)."""

    rows: list[EncodedRow]
    plan: Any = None


class SamplingSettings(msgspec.Struct, array_like=True, frozen=True):
    """How one row is written; None leaves a setting to the checkpoint. top: of `GenerationParameters`."""

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

    def pack(self) -> bytes:
        """For `Row.extra`."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, extra: bytes) -> Self:
        """From `Row.extra`."""
        return msgspec.msgpack.decode(extra, type=cls)
