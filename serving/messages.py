"""What crosses from a front to an engine and back, as msgpack over ZeroMQ. Token ids travel as int32 bytes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy


class Row(msgspec.Struct, array_like=True, gc=False):
    """One row that wants a forward pass.

    id: chosen by the front, unique in its connection. length: number of tokens, special ones included; of an image,
    its patches. tokens: int32 bytes, 4 per token. types: int8 bytes, 1 per token, empty where all are 0. kind: rows of
    one kind share a batch; a task's own word. deadline: seconds of the machine's monotonic clock after which nobody
    waits. extra: what else the task's `forward` needs of this row, in its own form.
    """

    id: int
    length: int
    tokens: bytes
    types: bytes
    kind: str
    deadline: float
    extra: bytes = b""


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


class Failure(msgspec.Struct, array_like=True, tag=1):
    """Rows that got no answer. reason: "failed", "deadline" or "stopping"."""

    ids: list[int]
    reason: str
    message: str


ToEngine = Submit | Cancel
FromEngine = Outputs | Failure


def pack(array: numpy.ndarray[Any, Any], indexes: Sequence[int]) -> Array:
    """Those rows of an array as a message; all of them in order without a copy of the index."""
    part = array if len(indexes) == array.shape[0] else array[indexes]
    return Array(part.dtype.name, list(part.shape), part.tobytes())


def unpack(array: Array) -> numpy.ndarray[Any, Any]:
    """The array of a message, read-only, without a copy."""
    return numpy.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)
