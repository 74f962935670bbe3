"""Packed sequences: the tokens of rows of unequal length are concatenated, without padding between them.

Arrives: the rows' lengths. Leaves: indices that move tokens between the padded rows (rows, longest) and the packed
sequence (tokens,), which `unpadded` uses.
"""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

IntArray = NDArray[numpy.signedinteger]

BLOCK_SIZES = (32, 64)
"""Tokens of an attention block: the smaller size where no row is longer, else the larger; tuned, see bench/NOTES.md,
"Attention and memory on a CPU". Longer rows are in no block."""
BUCKET_STEPS = 16
"""A bucket size is at most this many steps of a power of two, so 8 of them lie between neighbouring powers of two;
tuned, see bench/NOTES.md, "Products on a CPU"."""
MIN_BLOCK_ROWS = 4
"""Fewer short rows attend without blocks; tuned, see bench/NOTES.md, "Attention and memory on a CPU"."""


def pack_rows(lengths: Sequence[int], *, blocks: bool = False, bucketed: bool = False) -> dict[str, IntArray]:
    """How rows of these lengths are packed, shortest first.

    indices: (tokens,) int64, each packed token's index in the flattened padded rows. positions: (tokens,) int64, its
    position within its row. cu_seqlens: (rows + 1,) int32, the offset of each row in the packed sequence, then its end.

    blocks: also assign short rows to attention blocks. segment_ids: (blocks, size) int32, the row of each slot, -1 for
    an empty one. slot_index: (tokens of short rows,) int64, the slot of each token.

    bucketed: pad tokens and rows to bucket sizes. Padding tokens come last and have the index behind the padded rows;
    padding rows are empty and start at the end of the packed sequence.
    """
    sizes = numpy.asarray(lengths)
    order = sizes.argsort(kind="stable")
    ordered = sizes[order]
    cu_seqlens = numpy.concatenate(([0], ordered.cumsum()))
    positions = numpy.arange(cu_seqlens[-1]) - cu_seqlens[:-1].repeat(ordered)
    indices = (order * sizes.max()).repeat(ordered) + positions
    packed: dict[str, IntArray] = {
        "indices": indices,
        "positions": positions,
        "cu_seqlens": cu_seqlens.astype(numpy.int32),
    }
    if blocks:
        packed |= _assign_blocks(ordered, positions)
    if bucketed:
        tokens, rows = (bucket_size(count) - count for count in (indices.size, sizes.size))
        packed["indices"] = numpy.pad(indices, (0, tokens), constant_values=sizes.size * sizes.max())
        packed["positions"] = numpy.pad(positions, (0, tokens))
        packed["cu_seqlens"] = numpy.pad(packed["cu_seqlens"], (0, rows), mode="edge")
    return packed


def find_head_indices(lengths: Sequence[int], positions: IntArray, *, bucketed: bool = False) -> IntArray:
    """The indices in the packed sequence of the tokens that the head reads, (tokens,) int64.

    lengths: of the rows, packed as by `pack_rows`, or all equal and flattened. positions: (2, tokens), the row and the
    position in it of each token. bucketed: pad to a bucket size, with the first token of all.
    """
    sizes = numpy.asarray(lengths)
    order = sizes.argsort(kind="stable")
    starts = numpy.empty_like(sizes)
    starts[order] = sizes[order].cumsum() - sizes[order]
    indices = starts[positions[0]] + positions[1]
    return numpy.pad(indices, (0, bucket_size(indices.size) - indices.size)) if bucketed else indices


def bucket_size(count: int, steps: int = BUCKET_STEPS) -> int:
    """Round `count` up to a bucket size, at most 1/8 larger. Scriptable by TorchScript.

    oneDNN compiles and caches one kernel for each size of a matrix product, and compiling takes as long as a small
    product.
    """
    step = 1
    while step * steps < count:
        step *= 2
    return (count + step - 1) // step * step


def has_bucket_sizes(lengths: Sequence[int]) -> bool:
    """Whether both the tokens and the number of these rows are bucket sizes already."""
    return all(bucket_size(count) == count for count in (sum(lengths), len(lengths)))


def _assign_blocks(lengths: IntArray, positions: IntArray) -> dict[str, IntArray]:
    """Put short rows, ascending, into blocks one behind the other; a row never crosses the end of a block."""
    size = BLOCK_SIZES[0] if lengths[-1] <= BLOCK_SIZES[0] else BLOCK_SIZES[1]
    short = lengths[: numpy.searchsorted(lengths, size, "right")]
    if len(short) < MIN_BLOCK_ROWS:
        short = short[:0]
    starts, end = [], 0
    for length in short.tolist():
        if end % size + length > size:
            end = -(-end // size) * size
        starts.append(end)
        end += length
    slot_index = numpy.asarray(starts, dtype=numpy.int64).repeat(short) + positions[: short.sum()]
    segment_ids = numpy.full(-(-end // size) * size, -1, dtype=numpy.int32)
    segment_ids[slot_index] = numpy.arange(len(short)).repeat(short)
    return {"segment_ids": segment_ids.reshape(-1, size), "slot_index": slot_index}
