"""How many fields a message has, told by its bytes before it is parsed.

Parsed, a field takes some dozens of bytes, however few it has on the wire: a message of 8 MiB may come to hundreds. As
with `body_values`, a bound on the bytes alone bounds neither time nor memory. Source of the encoding: protobuf.dev,
Encoding.
"""

from collections.abc import Mapping
from functools import cache

from google.protobuf.descriptor import FieldDescriptor

from serving.errors import TooLarge
from serving.front.rpc.messages import message_class
from serving.tasks.base.body_values import MAX_VALUES

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Types on the wire."""
MAX_VARINT = 10
"""Bytes of a number."""
CONTINUED = bytes(range(128, 256))
"""Bytes of a varint but for its last one."""
SIZES: Mapping[int, int] = {
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_DOUBLE: 8,
}
"""Type of a field → bytes of a number, where that is no varint; of the types that `MESSAGES` has."""


def check_fields(message: bytes, name: str, limit: int) -> None:
    """Raise TooLarge for a message with more fields, in all messages within it, than `limit`.

    name: of `MESSAGES`. One of no more bytes than MAX_VALUES is not looked at. What is no message, the parser refuses.
    """
    if len(message) <= MAX_VALUES:
        return
    count, left = 0, [(0, len(message), name)]
    while left:
        at, end, name = left.pop()
        inner, packed = _messages_in(name), _numbers_in(name)
        try:
            while at < end:
                count += 1
                if count > limit:
                    raise _too_many(limit)
                key, at = _varint(message, at)
                number, kind = key >> 3, key & 7
                if kind == LENGTH:
                    size, at = _varint(message, at)
                    if number in inner:
                        left.append((at, min(at + size, end), inner[number]))
                    elif number in packed:
                        elements = _elements(message[at : min(at + size, end)], packed[number])
                        count += max(0, elements - 1)  # the field counts already
                    at += size
                elif kind == VARINT:
                    _, at = _varint(message, at)
                elif kind in (FIXED32, FIXED64):
                    at += 4 if kind == FIXED32 else 8
        except IndexError:  # of `_varint`
            return
    if count > limit:
        raise _too_many(limit)


def _too_many(limit: int) -> TooLarge:
    return TooLarge(f"the message has more than {limit:,} fields and elements: send less at a time")


def _elements(content: bytes, size: int) -> int:
    """How many numbers a packed field has. size: bytes of each, 0 for varints, whose last bytes alone are below 128."""
    return len(content) // size if size else len(content.translate(None, CONTINUED))


@cache
def _numbers_in(name: str) -> Mapping[int, int]:
    """Number → bytes of an element of the fields of a message that repeat numbers, and so may come packed."""
    fields = message_class(name).DESCRIPTOR.fields
    return {
        each.number: SIZES.get(each.type, 0)
        for each in fields
        if each.is_repeated and each.type not in (each.TYPE_MESSAGE, each.TYPE_STRING, each.TYPE_BYTES)
    }


@cache
def _messages_in(name: str) -> Mapping[int, str]:
    """Number → name of the fields of a message that are messages, maps included."""
    fields = message_class(name).DESCRIPTOR.fields
    return {each.number: each.message_type.full_name.partition(".")[2] for each in fields if each.message_type}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError where the data end within it, or it is longer than one may be."""
    value = 0
    for place in range(MAX_VARINT):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError
