"""What the generating tasks share: the request's settings, checked, and `generate`, which runs rows of one setting.

Rows with a seed are generated one by one, each from its own seed, so that the same seed gives the same text whatever
else is in the batch.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from serving.errors import Unprocessable
from serving.tasks.base import Batch, TextParameters

if TYPE_CHECKING:
    import torch

Positive = Annotated[int, msgspec.Meta(ge=1)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class GenerationParameters(TextParameters, frozen=True):
    """max_new_tokens: at most this many; default: the contract's. do_sample: draw tokens, do not take the likeliest.

    temperature, top_k, top_p, seed: of the draw; any of them implies it. repetition_penalty: above 1 discourages.
    """

    max_new_tokens: Positive | None = None
    do_sample: bool | None = None
    temperature: PositiveNumber | None = None
    top_k: Positive | None = None
    top_p: Share | None = None
    repetition_penalty: PositiveNumber | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class GenerationDefaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """max_new_tokens: of a request that names no number. limit_new_tokens: the most that one may ask for."""

    max_new_tokens: Positive = 64
    limit_new_tokens: Positive = 2048


def settle(parameters: GenerationParameters, defaults: Any, **more: Any) -> tuple[int, str]:
    """The number of new tokens, and the kind of the row: `generate`'s arguments as JSON. Raises Unprocessable.

    What is not said is left to the checkpoint's own generation_config.json.
    """
    count = parameters.max_new_tokens or min(defaults.max_new_tokens, defaults.limit_new_tokens)
    if count > defaults.limit_new_tokens:
        raise Unprocessable(
            f"parameters.max_new_tokens is {count:,}, this model writes at most {defaults.limit_new_tokens:,} a request"
        )
    names = ("temperature", "top_k", "top_p", "seed")
    drawn = {name: value for name in names if (value := getattr(parameters, name)) is not None}
    if drawn and parameters.do_sample is False:
        raise Unprocessable(f"parameters.{next(iter(drawn))} needs do_sample: leave it out, or let do_sample be true")
    settings = {"max_new_tokens": count, **drawn, **{name: value for name, value in more.items() if value is not None}}
    if drawn or parameters.do_sample is not None:
        settings["do_sample"] = bool(drawn) or parameters.do_sample
    if parameters.repetition_penalty is not None:
        settings["repetition_penalty"] = parameters.repetition_penalty
    return count, msgspec.json.encode(settings, order="sorted").decode()


def prepare(model: Any, pad_token_id: int) -> None:
    """Let finished rows be filled with the contract's padding."""
    model.generation_config.pad_token_id = pad_token_id
    model.generation_config.max_length = None  # the request's number of new tokens is the only limit


def generate(model: Any, batch: Batch) -> "torch.Tensor":
    """The new tokens of each row, (rows, tokens) int32; after a row's end come padding tokens.

    Rows that may not be padded for their neighbours' sake run in groups of their own.
    """
    import torch

    settings = msgspec.json.decode(batch.kind)
    seed = settings.pop("seed", None)
    written: dict[int, torch.Tensor] = {}
    for group in _groups(model, batch, is_seeded=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        inputs = {"input_ids": batch.inputs["input_ids"][group], "attention_mask": batch.mask()[group]}
        if len(group) < len(batch.lengths):
            inputs = _without_padding(inputs)
        written.update(zip(group, _generate(model, inputs, settings), strict=True))
    return torch.nn.utils.rnn.pad_sequence(
        [written[index] for index in range(len(batch.lengths))],
        batch_first=True,
        padding_value=model.generation_config.pad_token_id,
    )


def read_texts(rows: Sequence[Any], encoder: Any) -> str:
    """The text of an item's one row, without special tokens."""
    return str(encoder.read(rows[0][0].tolist()))


def _generate(model: Any, inputs: dict[str, "torch.Tensor"], settings: dict[str, Any]) -> "torch.Tensor":
    import torch

    written = model.generate(**inputs, **settings)
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    new: torch.Tensor = written[:, start:].to(torch.int32)
    return new


def _groups(model: Any, batch: Batch, *, is_seeded: bool) -> list[list[int]]:
    """Indexes of rows that run together: all; or with a seed each by itself; or those of one length.

    The last for a decoder that takes no `position_ids` (BART's, transformers 5.23): it counts the padding on the left.
    """
    rows = range(len(batch.lengths))
    if is_seeded:
        return [[index] for index in rows]
    if model.config.is_encoder_decoder or "position_ids" in inspect.signature(model.forward).parameters:
        return [list(rows)]
    lengths = sorted(set(batch.lengths))
    return [[index for index in rows if batch.lengths[index] == length] for length in lengths]


def _without_padding(inputs: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The columns in which any of the rows has a token."""
    used = inputs["attention_mask"].bool().any(0)
    return {name: tensor[:, used] for name, tensor in inputs.items()}
