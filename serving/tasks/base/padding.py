"""Rows of unequal length become arrays of one shape: token ids, attention mask, token types. Engine side."""

from collections.abc import Sequence

import numpy

from registry.contract import Side
from serving.wire.messages import AnyArray, Row


def pad_rows(rows: Sequence[Row], pad_id: int, *, side: Side = "right") -> dict[str, AnyArray]:
    """The model's arguments, each (rows, longest) int64. No mask when nothing is padded, no token types when all are 0.

    side: where the padding goes; "left" for models that generate at the right end.
    """
    mask = find_real(rows, side)
    inputs = {"input_ids": _fill([row.tokens for row in rows], numpy.int32, mask, pad_id)}
    if not mask.all():
        inputs["attention_mask"] = mask.astype(numpy.int64)
    if any(row.types for row in rows):
        types = [row.types or bytes(row.length) for row in rows]
        inputs["token_type_ids"] = _fill(types, numpy.int8, mask, 0)
    return inputs


def find_real(rows: Sequence[Row], side: Side = "right") -> AnyArray:
    """Which positions hold a token rather than padding: (rows, longest) bool."""
    lengths = numpy.asarray([row.length for row in rows])[:, None]
    places = numpy.arange(lengths.max())
    real: AnyArray = places < lengths if side == "right" else places >= places.size - lengths
    return real


def _fill(parts: Sequence[bytes], dtype: type[numpy.generic], mask: AnyArray, filler: int) -> AnyArray:
    flat = numpy.frombuffer(b"".join(parts), dtype=dtype)
    if flat.size == mask.size:
        return flat.reshape(mask.shape).astype(numpy.int64)
    filled = numpy.full(mask.shape, filler, dtype=numpy.int64)
    filled[mask] = flat
    return filled
