"""The tensors of the Open Inference Protocol v2, as JSON or in the binary extension: columns of inputs, and answers.

Source: kserve/open-inference-protocol, and the binary tensor data extension of NVIDIA Triton. A BYTES element in binary
form is its length in 4 bytes, little-endian, and then the bytes.
"""

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy
from msgspec import Meta
from numpy.typing import NDArray

from serving.errors import Malformed, TooLarge, Unprocessable
from serving.front.asgi import JsonObject, encode_answer, encode_json, read_number
from serving.front.protocols.kserve_datatypes import NUMBERS, check_datatype
from serving.tasks.base.body_values import max_values
from serving.tasks.base.columns import lists_of, parts_of, to_inputs, unread_column
from serving.tasks.base.fields import Name, drop_unsupported
from serving.tasks.base.task import AnyTask

MAX_DIMENSIONS = 8
"""Of a tensor. Untuned: rows of texts have one or two, and clients may add some of size 1."""
BINARY = "binary_data_size"
SEND_TEXT = "send text as BYTES; the server tokenizes it"
ONE_VALUE = "differs between rows: it holds for the whole request, so give every row the same value"
BINARY_TEXT = "an element is its length in 4 bytes, little-endian, and then its bytes"
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "shared_memory_region": (),
    "shared_memory_byte_size": (),
    "shared_memory_offset": (0,),
    "content_type": ("str", "np"),
}
"""Parameters of a tensor that are refused, Triton's and MLServer's, with the values that ask for nothing."""


TensorValues = NDArray[numpy.float32] | list[bytes]
"""The elements of an output."""


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input. data: nested or flat lists, or bytes in binary form; unset where that follows the JSON."""

    name: Name
    shape: Annotated[list[Annotated[int, Meta(ge=-1, lt=2**31)]], Meta(max_length=MAX_DIMENSIONS)]
    datatype: Name
    data: object = msgspec.UNSET
    parameters: JsonObject = {}


def split_body(body: bytes, header_length: str) -> tuple[bytes, bytes]:
    """Split a body into JSON and binary data. Raises Malformed.

    header_length: the value of `Inference-Header-Content-Length`, decoded as latin-1, or "".
    """
    if not header_length:
        return body, b""
    size = read_number(header_length.encode("latin-1", "replace"), "Inference-Header-Content-Length")
    if size > len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {size}, the body has {len(body)} bytes: give the length of its JSON"
        )
    return body[:size], body[size:]


def read_columns(tensors: Sequence[Tensor], binary: bytes, max_rows: int = 0) -> dict[str, list[object]]:
    """The elements of each tensor by its name, one per row, or one list per row if there is a second dimension, of any
    size.

    max_rows: of a request. Raises Malformed, Unprocessable, TooLarge.
    """
    columns: dict[str, list[object]] = {}
    room = max_values(max_rows)
    for tensor in tensors:
        where = f"inputs {tensor.name!r}"
        size = _binary_size(tensor, where)
        if tensor.datatype != "BYTES" and tensor.datatype not in NUMBERS:
            raise Unprocessable(f"{where} has datatype {tensor.datatype!r}: {SEND_TEXT}")
        if tensor.name in columns:
            raise Malformed(f"{where} comes twice: send it once")
        count = _count(tensor.shape, where)
        room -= count
        if room < 0:
            raise TooLarge(f"inputs have more than {max_values(max_rows):,} elements: send less at a time")
        data = tensor.data
        if data is msgspec.UNSET:
            if not isinstance(size, int) or not 0 <= size <= len(binary):
                raise Malformed(
                    f"{where} has neither data nor {BINARY} within the body, of which {len(binary)} bytes are left: "
                    "give one of them"
                )
            data, binary = binary[:size], binary[size:]
        elif size is not None and not (isinstance(data, bytes) and size == len(data)):
            raise Malformed(f"{where} has data and {BINARY}: give one of them")
        elements = _read(data, tensor.datatype, count, where)
        columns[tensor.name] = _shaped(elements, tensor.shape, where)
    if binary:
        raise Malformed(
            f"{len(binary)} bytes follow after the last tensor: give each tensor's {BINARY}, or send no more"
        )
    return columns


def take_inputs(columns: dict[str, list[object]], task: AnyTask) -> tuple[list[object], JsonObject]:
    """One input per row, and the task's parameters among the columns. Raises Unprocessable.

    A parameter that is a list of texts, or a number, may be a column. It holds for all rows: where it has rows, they
    must be equal. A row of one element is that element, where no list is wanted.
    """
    parts = parts_of(task)
    lists = lists_of(task) - parts.keys()
    columns = {
        name: values if name in lists or parts.get(name) else _without_lists(values) for name, values in columns.items()
    }
    parameters = _take_numbers(columns, task)
    for name in lists & columns.keys():
        values = columns.pop(name)
        if values and isinstance(values[0], list):
            if any(value != values[0] for value in values):
                raise Unprocessable(f"inputs {name!r} {ONE_VALUE}")
            values = values[0]
        parameters[name] = values
    unread = unread_column(columns, task)
    if unread is not None:
        raise Unprocessable(f"inputs {unread!r} is unknown to {task.name} beside the others: leave it out")
    return to_inputs(columns, task), parameters


def _without_lists(rows: list[object]) -> list[object]:
    """The rows, with the element of each that is a list of one instead of the list."""
    return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]


def _take_numbers(columns: dict[str, list[object]], task: AnyTask) -> JsonObject:
    """Take the columns of numbers out, all of which must be parameters of the task. Raises Unprocessable."""
    found: JsonObject = {}
    for name in [name for name, values in columns.items() if values and isinstance(values[0], int | float)]:
        values = columns.pop(name)
        if name not in task.parameters_type.__struct_fields__:
            raise Unprocessable(f"inputs {name!r} has numbers, and is no parameter of {task.name}: {SEND_TEXT}")
        if any(value != values[0] for value in values):
            raise Unprocessable(f"inputs {name!r} {ONE_VALUE}")
        found[name] = values[0]
    return found


def write_output(answers: Sequence[object], *, binary: bool) -> tuple[JsonObject, bytes]:
    """The output tensor as JSON, and its binary data.

    Data in JSON is encoded here, answer by answer, because a list is encoded without letting other threads run.
    """
    head, values = to_output(answers)
    if binary:
        data = pack(values)
        return head | {"parameters": {BINARY: len(data)}}, data
    if isinstance(values, numpy.ndarray):
        rows = [encode_json(row.tolist())[1:-1] for row in values.reshape(len(values), -1)]
        return head | {"data": msgspec.Raw(b"[%b]" % b",".join(rows))}, b""
    return head | {"data": msgspec.Raw(encode_answer([text.decode() for text in values]))}, b""


def to_output(answers: Sequence[object]) -> tuple[JsonObject, TensorValues]:
    """The output's name, datatype and shape, and its elements: FP32 if the answers are vectors, else JSON in BYTES."""
    if not answers or not _is_numeric(answers[0]):
        texts = [encode_json(answer) for answer in answers]
        return {"name": "output", "datatype": "BYTES", "shape": [len(texts)]}, texts
    try:
        array = numpy.stack([numpy.asarray(answer, dtype="<f4") for answer in answers])
    except ValueError as error:
        raise Unprocessable(
            "the answers differ in shape, so they make no tensor: send one input a request, or let them be pooled"
        ) from error
    return {"name": "output", "datatype": "FP32", "shape": list(array.shape)}, array


def pack(values: TensorValues) -> bytes:
    """Elements of an output in binary form."""
    if isinstance(values, numpy.ndarray):
        return values.tobytes()
    return b"".join(struct.pack("<I", len(text)) + text for text in values)


def output_form(example: object) -> JsonObject:
    """The output's metadata. example: an answer of the model, or a list of answers."""
    depth, first = 0, example
    while isinstance(first, list) and first:
        first, depth = first[0], depth + 1
    if depth and isinstance(first, float):
        return {"name": "output", "datatype": "FP32", "shape": [-1] * depth}
    return {"name": "output", "datatype": "BYTES", "shape": [-1]}


def _is_numeric(answer: object) -> bool:
    while isinstance(answer, list) and answer:
        answer = answer[0]
    return isinstance(answer, float)


def _read(data: object, datatype: str, count: int, where: str) -> list[object]:
    """The elements of a tensor: of JSON, or of the binary form."""
    if isinstance(data, bytes):
        return _numbers(data, count, NUMBERS[datatype], where) if datatype in NUMBERS else _unpack(data, count, where)
    elements = _flatten(data, where)
    check_datatype(elements, datatype, where)
    return elements


def _binary_size(tensor: Tensor, where: str) -> object:
    """The tensor's `binary_data_size`, None without one. Raises Unprocessable for a parameter that has no effect."""
    parameters = dict(tensor.parameters)
    drop_unsupported(parameters, UNSUPPORTED, f"{where} parameters.")
    size = parameters.pop(BINARY, None)
    if parameters:
        raise Unprocessable(f"{where} parameters.{next(iter(parameters))} is unknown: leave it out")
    return size


def _count(shape: Sequence[int], where: str) -> int:
    """The elements of a tensor with this shape."""
    if not shape or shape[0] < 0 or any(size < 1 for size in shape[1:]):
        raise Malformed(f"{where} has shape {list(shape)}: it needs a number of rows, and sizes of at least 1")
    return math.prod(shape)


def _unpack(data: bytes, count: int, where: str) -> list[object]:
    """The elements in binary form; no more than one beyond `count` are read."""
    elements: list[object] = []
    at = 0
    while at < len(data) and len(elements) <= count:
        if at + 4 > len(data):
            raise Malformed(f"{where} ends within an element's length: {BINARY_TEXT}")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + size > len(data):
            raise Malformed(f"{where} ends within an element of {size} bytes: {BINARY_TEXT}")
        elements.append(to_text(data[at : at + size]))
        at += size
    return elements


def _numbers(data: bytes, count: int, kind: numpy.dtype[Any], where: str) -> list[object]:
    """The numbers in binary form."""
    if len(data) != count * kind.itemsize:
        raise Malformed(f"{where} has {len(data)} bytes, its shape and datatype need {count * kind.itemsize}")
    found: list[object] = numpy.frombuffer(data, kind).tolist()
    return found


def to_text(element: bytes) -> str | bytes:
    """An element of a BYTES tensor: its text, or the bytes where they are none."""
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element  # a file; tasks that take no files refuse it


def _flatten(data: object, where: str, depth: int = MAX_DIMENSIONS) -> list[object]:
    if not isinstance(data, list):
        return [data]
    if not any(isinstance(each, list) for each in data):
        return data
    if not depth:
        raise Malformed(f"{where} has data in more than {MAX_DIMENSIONS} dimensions")
    return [element for entry in data for element in _flatten(entry, where, depth - 1)]


def _shaped(elements: list[object], shape: Sequence[int], where: str) -> list[object]:
    if (count := math.prod(shape)) != len(elements):
        raise Malformed(
            f"{where} has shape {list(shape)} and {len(elements)} elements: send {count}, or correct the shape"
        )
    if len(shape) == 1:
        return elements
    width = math.prod(shape[1:])
    return [elements[start : start + width] for start in range(0, len(elements), width)]
