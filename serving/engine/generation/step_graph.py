"""A step of a generating model as a TorchScript graph on a CPU: the same kernels without Python between them.

The graph's arguments are a token of each row, its position, a complete attention mask, and the keys and values of each
layer as views. A view has one more column than is in use, into which the graph writes. Where an encoder has read the
prompts, its mask, keys and values come as well; nothing is written to these.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from serving.engine.optimizations.int8_products import precision
from serving.engine.optimizations.torchscript import NotTraceable, TracedModule, are_alike, check_operations, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS, COLUMNS = 3, 11
"""Shape of the traced step. No size that a model treats in a special way, as 1."""
SOURCE_COLUMNS = 6
"""In the traced step the keys and values of an encoder's output have this many more columns than the decoder's own."""


class _ViewLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values, (rows, heads, columns, size) each; the last column is the step's."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: keys and values exist."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's column."""
        self.keys[:, :, -1:] = key_states
        self.values[:, :, -1:] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns before the step."""
        return self.keys.shape[2] - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the step attends to, and the first of them."""
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        """No bound."""
        return -1


class _SourceLayer(_ViewLayer):
    """One layer's keys and values of the encoder's output."""

    def get_seq_length(self) -> int:
        """All columns."""
        return self.keys.shape[2]


class StepModule(torch.nn.Module):
    """A model as a function of tensors. run: from positions and the model's arguments to logits (rows, vocabulary)."""

    def __init__(self, module: "PreTrainedModel", run: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self._run = run


class CausalStep(StepModule):
    """Of a decoder alone."""

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **views: torch.Tensor,
    ) -> object:
        """views: see `name_views`."""
        cache = _cache(_ViewLayer, list(views.values()))
        logits = self._run(position_ids, input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache)
        return CausalLMOutput(logits=logits)


class Seq2SeqStep(StepModule):
    """Of a decoder that attends to an encoder's output."""

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        **views: torch.Tensor,
    ) -> object:
        """views: see `name_views`, the decoder's own before the encoder's."""
        parts = list(views.values())
        own, sources = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        logits = self._run(
            position_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=sources[0][:, 0, :, :1]),  # only its shape is needed
            attention_mask=source_mask,
            decoder_input_ids=input_ids,
            decoder_attention_mask=attention_mask,
            past_key_values=EncoderDecoderCache(_cache(_ViewLayer, own), _cache(_SourceLayer, sources)),
        )
        return CausalLMOutput(logits=logits)


def _cache(kind: type[_ViewLayer], views: Sequence[torch.Tensor]) -> Cache:
    return Cache(layers=[kind(*pair) for pair in zip(views[::2], views[1::2], strict=True)])


def name_views(views: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name each layer's keys and values, in order, as the step's arguments."""
    return {f"view_{index}": view for index, view in enumerate(views)}


def trace_step(
    step: StepModule, like: Mapping[str, Sequence[torch.Tensor]], vocabulary: int, max_tokens: int
) -> TracedModule:
    """Trace a step and compare it with the model.

    The graph takes `input_ids` and `position_ids` (rows, 1), all masks, (rows, 1, 1, columns) bool, where a row does
    not fill all columns of one, and views. like: by the name of their mask, keys and values of each layer, for the
    other sizes. max_tokens: the model's positions, up to which both are compared. Raises NotTraceable where the graph
    differs from the model, and whatever tracing raises.
    """
    module = step.module
    config = module.config.get_text_config(decoder=True)
    bounds = [name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None) is not None]
    if bounds or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        raise NotTraceable("a ready mask would pass over its windows or chunks")
    if module.config._attn_implementation != "sdpa":
        raise NotTraceable("its attention may not take a ready mask")

    def inputs(rows: int, columns: int, last: int, *, masked: bool) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(rows * columns)
        ids = torch.randint(0, vocabulary, (rows, 1), generator=draw)
        given = {"input_ids": ids, "position_ids": last - torch.arange(rows)[:, None].clamp(max=last)}
        views = list[torch.Tensor]()
        for mask, parts in like.items():
            if masked:
                given[mask] = (torch.arange(columns) >= torch.arange(rows)[:, None])[:, None, None]
            sizes = [(rows, each.shape[1], columns, each.shape[3]) for each in parts]
            views += [torch.randn(size, generator=draw).to(parts[0].dtype) for size in sizes]
            columns += SOURCE_COLUMNS
        return given | name_views(views)

    most = max_tokens - 1
    for masked in (False, True):
        check_operations(
            step,
            inputs(ROWS, COLUMNS, COLUMNS, masked=masked),
            inputs(1, 2, 1, masked=masked),
            inputs(9, 70, most, masked=masked),
        )
    traced = trace(step, *(inputs(ROWS, COLUMNS, COLUMNS, masked=masked) for masked in (False, True)))
    for rows, columns, last in ((1, 2, 1), (1, COLUMNS, most), (ROWS, 40, 20), (9, 70, most)):
        for masked in (False, True):
            given, same = (inputs(rows, columns, last, masked=masked) for _ in range(2))  # each writes into its views
            if masked:
                given |= {mask: given[mask][:, 0, 0].to(torch.int64) for mask in like}  # as transformers takes it
            if not are_alike(traced(**same).logits, step(**given).logits, precision(module)):
                raise NotTraceable(f"its logits differ for {rows} rows at position {last}")
    return traced
