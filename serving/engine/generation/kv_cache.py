"""The key-value cache of running rows. Rows are inserted and removed between steps without copying the others.

Rows share columns and end at the same column. So distances between columns are distances between tokens, which is all
that relative positions and sliding windows depend on. A row's newest token is in the last column, and padding precedes
its first token.
"""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

SPARE_ROWS = 8
SPARE_COLUMNS = 64
"""Rows and columns added when the buffers are full. Untuned: a few steps' worth of either."""


class Layout:
    """The rows and columns of the buffers in use, shared by all layers.

    rows: number in use, the first ones. start, end: columns in use, [start, end). lengths: tokens of each row.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.start = 0
        self.end = 0
        self.lengths: list[int] = []

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.end - self.start

    @property
    def tokens(self) -> int:
        """Positions in use, padding included."""
        return self.rows * self.width


class RowLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values, (rows, heads, columns, size) each, as views of larger buffers."""

    is_sliding = False

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.is_initialized = False
        self._buffers: list[torch.Tensor] = []

    @property
    def keys(self) -> torch.Tensor:
        """Keys in use."""
        return self.view(0)

    @property
    def values(self) -> torch.Tensor:
        """Values in use."""
        return self.view(1)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: `insert` makes the buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write each row's newest token into the column after the last; it counts once `RowCache.advance` is called."""
        end = self.layout.end
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self.layout.rows, :, end : end + 1] = states
        return self.view(0, 1), self.view(1, 1)

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.layout.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the step attends to, and the first of them."""
        return self.layout.width + query_length, 0

    def get_max_length(self) -> int:
        """No bound."""
        return -1

    def reserve(self, rows: int, columns: int, at: int, like: Sequence[torch.Tensor]) -> None:
        """Enlarge the buffers; what is in use then begins at column `at`. like: keys, values, for other sizes."""
        layout, old = self.layout, self._buffers
        self._buffers = [states.new_empty((rows, states.shape[1], columns, states.shape[3])) for states in like]
        for buffer, before in zip(self._buffers, old, strict=False):
            buffer[: layout.rows, :, :at] = 0  # padding must be finite; `put` sees to that of new rows
            buffer[: layout.rows, :, at : at + layout.width] = before[: layout.rows, :, layout.start : layout.end]

    def put(self, first: int, end: int, states: Sequence[torch.Tensor]) -> None:
        """Write new rows, whose states end before column `end`."""
        for buffer, part in zip(self._buffers, states, strict=True):
            buffer[first : first + part.shape[0], :, : end - part.shape[2]] = 0
            buffer[first : first + part.shape[0], :, end - part.shape[2] : end] = part

    def move(self, source: list[int], target: list[int]) -> None:
        """Copy rows over others."""
        for buffer in self._buffers:
            buffer[target, :, self.layout.start : self.layout.end] = buffer[
                source, :, self.layout.start : self.layout.end
            ]

    def free(self) -> None:
        """Free the buffers."""
        self._buffers = []

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the buffers."""
        return (self._buffers[0].shape[0], self._buffers[0].shape[2]) if self._buffers else (0, 0)

    def view(self, which: int, more: int = 0) -> torch.Tensor:
        """Keys (0) or values (1) in use, with `more` columns behind them."""
        layout = self.layout
        return self._buffers[which][: layout.rows, :, layout.start : layout.end + more]


class RowCache(Cache):  # type: ignore[misc]  # as above
    """All layers. `remove` returns how the order of the rows changes. token_bytes: of a position."""

    def __init__(self, layers: int) -> None:
        self.layout = Layout()
        self.token_bytes = 0
        self.rows_layers = [RowLayer(self.layout) for _ in range(layers)]
        super().__init__(layers=list(self.rows_layers))

    def insert(self, states: Sequence[Sequence[torch.Tensor]], lengths: Sequence[int], *, spare: int = 1) -> None:
        """Add rows at the end. states: keys and values of each layer, padded on the left. lengths: tokens of each row.

        spare: least columns for the next steps.
        """
        layout, count, longest = self.layout, len(lengths), max(lengths)
        self.token_bytes = sum(part.shape[1] * part.shape[3] * part.element_size() for pair in states for part in pair)
        rows, columns = self.rows_layers[0].size
        width = max(layout.width, longest)
        if not layout.rows:
            layout.start = layout.end = min(width, columns)
        if layout.rows + count > rows or layout.end < width or layout.end + spare > columns:
            rows = max(rows, -(-(layout.rows + count) // SPARE_ROWS) * SPARE_ROWS)
            columns = width + (max(SPARE_COLUMNS, width // 4) if spare else 0)
            for layer, like in zip(self.rows_layers, states, strict=True):
                layer.reserve(rows, columns, width - layout.width, like)
            layout.start, layout.end = width - layout.width, width
        for layer, part in zip(self.rows_layers, states, strict=True):
            layer.put(layout.rows, layout.end, [each[:, :, each.shape[2] - longest :] for each in part])
        layout.start = layout.end - width
        layout.rows += count
        layout.lengths += lengths

    def views(self, more: int = 1) -> list[torch.Tensor]:
        """Keys and values of each layer, with the column that the next step writes, or `more` columns."""
        return [layer.view(which, more) for layer in self.rows_layers for which in (0, 1)]

    def advance(self) -> None:
        """Count the step's column: each row has one token more."""
        layout = self.layout
        layout.end += 1
        layout.lengths = [length + 1 for length in layout.lengths]
        if layout.end == self.rows_layers[0].size[1]:
            rows = self.rows_layers[0].size[0]
            width = layout.width
            for layer in self.rows_layers:
                layer.reserve(rows, width + max(SPARE_COLUMNS, width // 4), 0, (layer.keys, layer.values))
            layout.start, layout.end = 0, width

    def remove(self, gone: set[int]) -> list[int]:
        """Remove rows; the old numbers of the remaining ones, in their new order."""
        layout = self.layout
        count = layout.rows - len(gone)
        movers = [index for index in range(count, layout.rows) if index not in gone]
        holes = [index for index in range(count) if index in gone]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            for layer in self.rows_layers:
                layer.move(movers, holes)
        layout.rows = count
        layout.lengths = [layout.lengths[index] for index in order]
        if count:
            layout.start = layout.end - max(layout.lengths)
        else:
            self.clear()
        return order

    def clear(self) -> None:
        """Remove all rows and free their memory."""
        layout = self.layout
        layout.rows, layout.start, layout.end, layout.lengths = 0, 0, 0, []
        for layer in self.rows_layers:
            layer.free()

    def mask(self, more: int, device: torch.device) -> torch.Tensor | None:
        """(rows, columns + more) int64, 1 where a row has a token, its next ones included; None where all have."""
        layout = self.layout
        if min(layout.lengths) == layout.width:
            return None
        positions = torch.arange(layout.width + more, device=device)
        first = layout.width - torch.tensor(layout.lengths, device=device)
        return (positions >= first[:, None]).to(torch.int64)
