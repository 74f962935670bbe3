"""Rules for the fields of every request body. A name has a length. A field that is null counts as absent. A field of a
published interface that this server does not support is refused by its name.
"""

from collections.abc import Mapping, MutableMapping
from typing import Annotated

import msgspec

from serving.errors import Unprocessable

MAX_NAME = 520
"""Characters of a name. A model's may have an alias behind it, each of at most 256 in MLflow (3.17). Labels and
languages have far less."""
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
"""A name in a request. What is no name is a text, which a task's cost counts."""

MAX_INTEGER = 2**31 - 1
"""The largest whole number of a request. Larger ones fit neither into msgpack's messages nor into tensors."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]

MAX_DEPTH = 8
"""Objects nested deeper keep their nulls, so that no body can exhaust the stack. No published body nests as deep."""


def without_nulls(value: object, depth: int = MAX_DEPTH) -> object:
    """Decoded JSON without the fields that are null, in all objects and lists of objects."""
    if depth and isinstance(value, dict):
        return {name: without_nulls(each, depth - 1) for name, each in value.items() if each is not None}
    if depth and isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [without_nulls(each, depth - 1) for each in value]
    return value


def drop_unsupported(
    fields: MutableMapping[str, object], unsupported: Mapping[str, tuple[object, ...]], prefix: str = ""
) -> None:
    """Remove the fields whose values ask for nothing. Raises Unprocessable for one that asks for what is not supported.

    unsupported: field → the values that ask for nothing. prefix: of the field's name in the message.
    """
    for name in [name for name in unsupported if name in fields]:
        value = fields.pop(name)
        if value is not None and value not in unsupported[name]:
            raise Unprocessable(f"{prefix}{name} is not supported by this server: leave it out", field=name)
