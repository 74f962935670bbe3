"""Rows of unequal length as one line without padding: where each token of the padded rows stands in it."""

from collections.abc import Sequence
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]

BLOCKS = (32, 64)
"""Tokens of a block: so many where no row is longer, else the larger; longer rows are in none. Ours."""
SIZES = 16
"""Half as many sizes are between one that is a power of two and the next; ours."""
LEAST_IN_BLOCKS = 4
"""Rows that are worth blocks; ours."""


def pack_rows(lengths: Sequence[int], *, blocks: bool = False, filled: bool = False) -> dict[str, Array]:
    """Where the tokens of padded rows (rows, longest) stand in the line, which has its shortest rows first.

    places: (tokens,) int64, in the flat padded rows. positions: (tokens,) int64, within the row. cuts: (rows + 1,)
    int32, where each row begins in the line, and its end. blocks: also how its short rows fill blocks: owners, (blocks,
    size) int32, the row of each slot, -1 for none; slots, (tokens of short rows,) int64, where each stands in them.
    filled: `round_up` tokens and rows; tokens that are nobody's are at the end, their place behind all others, and rows
    that are not there begin after all others.
    """
    sizes = numpy.asarray(lengths)
    order = sizes.argsort(kind="stable")
    ordered = sizes[order]
    cuts = numpy.concatenate(([0], ordered.cumsum()))
    positions = numpy.arange(cuts[-1]) - cuts[:-1].repeat(ordered)
    places = (order * sizes.max()).repeat(ordered) + positions
    line = {"places": places, "positions": positions, "cuts": cuts.astype(numpy.int32)}
    if blocks:
        line |= _fill_blocks(ordered, positions)
    if filled:
        tokens, rows = (round_up(count) - count for count in (places.size, sizes.size))
        line["places"] = numpy.pad(places, (0, tokens), constant_values=sizes.size * sizes.max())
        line["positions"] = numpy.pad(positions, (0, tokens))
        line["cuts"] = numpy.pad(line["cuts"], (0, rows), mode="edge")
    return line


def round_up(count: int, sizes: int = SIZES) -> int:
    """The next one of few sizes, up to an eighth larger. In a script, too.

    oneDNN compiles a kernel for each size of a product, which takes as long as a small product, and keeps it.
    """
    step = 1
    while step * sizes < count:
        step *= 2
    return (count + step - 1) // step * step


def is_round(lengths: Sequence[int]) -> bool:
    """Whether a line of these rows would not be filled up."""
    return all(round_up(count) == count for count in (sum(lengths), len(lengths)))


def _fill_blocks(lengths: Array, positions: Array) -> dict[str, Array]:
    size = BLOCKS[0] if lengths[-1] <= BLOCKS[0] else BLOCKS[1]
    short = lengths[: numpy.searchsorted(lengths, size, "right")]
    if len(short) < LEAST_IN_BLOCKS:
        short = short[:0]
    starts, filled = [], 0
    for length in short.tolist():
        if filled % size + length > size:  # never over the end of a block
            filled = -(-filled // size) * size
        starts.append(filled)
        filled += length
    slots = numpy.asarray(starts, dtype=numpy.int64).repeat(short) + positions[: short.sum()]
    owners = numpy.full(-(-filled // size) * size, -1, dtype=numpy.int32)
    owners[slots] = numpy.arange(len(short)).repeat(short)
    return {"owners": owners.reshape(-1, size), "slots": slots}
