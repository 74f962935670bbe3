"""The front's side of generating tasks: the request's settings and the rows of its texts.

Each text is a row, whose settings are its `Row.payload`. Settings that a request leaves open are the checkpoint's
(`serving.tasks.base.generation_settings`). The engine's side is `serving.engine.generation`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, NoReturn, Self, TypeVar

import msgspec

from registry.checkpoint_files import SpecificKeys, read_json
from registry.contract import Contract
from registry.errors import CheckpointWarning
from serving.errors import Unprocessable
from serving.processors.token_ids import TokenIds
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement, mean, tokens
from serving.tasks.base.cost import CHARACTER_BYTES, CHARACTERS_OF_A_TOKEN, OBJECT_BYTES, ItemCost
from serving.tasks.base.fields import Natural, Positive
from serving.tasks.base.generation_settings import DEFAULT_NEW_TOKENS, forget_lengths, state_defaults
from serving.tasks.base.task import Batch, Context, Task, probe_text
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, EncodedRow, SamplingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TEXTS = 16
"""Most texts for one input. Untuned: bounds what one request may cost."""
MAX_LOGPROBS = 20
"""Most likeliest tokens for each position, as in OpenAI's API."""


PROBE_TOKENS = 16
"""New tokens of a row for measuring. Untuned: enough that steps outweigh the prefill."""

PositiveNumber = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
TextCount = Annotated[int, msgspec.Meta(ge=1, le=MAX_TEXTS)]
Top = Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], msgspec.Meta(max_length=16)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class GenerationParameters(TextParameters, frozen=True):
    """max_new_tokens: at most this many; default: the contract's. do_sample: draw tokens, do not take the likeliest.

    temperature, top_k, top_p, seed: of the draw; any of them implies do_sample. repetition_penalty: above 1
    discourages repetition. min_new_tokens: no end token comes before; default: the checkpoint's. stop: strings that
    end a text and are not part of it. n, num_return_sequences: texts for each input. logprobs, top_n_tokens: number
    of the likeliest tokens to report for each position, beside the chosen one. details: whether the answer has the
    tokens and the finish reason. add_special_tokens: whether the tokenizer adds its special tokens; a chat template
    already has them.
    """

    max_new_tokens: Positive | None = None
    do_sample: bool | None = None
    temperature: PositiveNumber | None = None
    top_k: Positive | None = None
    top_p: Share | None = None
    repetition_penalty: PositiveNumber | None = None
    min_new_tokens: Natural | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    n: TextCount | None = None
    num_return_sequences: TextCount | None = None
    logprobs: Top | None = None
    top_n_tokens: Top | None = None
    details: bool = False
    add_special_tokens: bool = True

    def with_scores(self) -> Self:
        """The same parameters, with the scores of the tokens; unchanged where the search has none."""
        return msgspec.structs.replace(self, details=True)

    @property
    def texts(self) -> int:
        """Number of texts for each input."""
        return self.n or self.num_return_sequences or 1

    @property
    def top(self) -> int | None:
        """Number of the likeliest tokens to report for each position; None for no scores at all."""
        wanted = self.top_n_tokens if self.logprobs is None else self.logprobs
        return 0 if wanted is None and self.details else wanted


class GenerationDefaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request without parameters gets, as `generate` gives it.

    max_new_tokens: if set. max_length: else of the text with what is before it, the prompt or the start token of a
    model with an encoder. limit_new_tokens: the most that a request may ask for. stop_strings: end a text and are part
    of it; a request's `stop` replaces them.
    """

    max_new_tokens: Positive | None = None
    max_length: Positive | None = None
    limit_new_tokens: Positive = 2048
    stop_strings: tuple[str, ...] = ()


Parameters = TypeVar("Parameters", bound=GenerationParameters)


class GeneratingTask(Task[str | TokenIds, Parameters, Context], Generic[Parameters, Context]):
    """A task whose rows are generated token by token, by the engine's scheduler instead of the task's `forward`."""

    generates = True
    specific_keys: ClassVar[frozenset[str]] = frozenset()
    """What is used of the task's entry in `task_specific_params` of config.json."""
    unsupported = {
        "adapter_id": (),
        "best_of": (1,),
        "decoder_input_details": (False,),
        "frequency_penalty": (0,),
        "grammar": (),
        "typical_p": (1,),
        "watermark": (False,),
    }
    example_parameters: ClassVar[Mapping[str, object]] = {"max_new_tokens": 8, "do_sample": False}

    def make_example_parameters(self, contract: Contract) -> dict[str, object]:
        """Few new tokens, which leave room for the prompt."""
        most = max(1, min(int(str(self.example_parameters["max_new_tokens"])), contract.max_tokens // 2))
        return {**self.example_parameters, "max_new_tokens": most}

    def defaults(self, folder: Path, given: Mapping[str, object]) -> dict[str, object]:
        """Where nobody states a length it is that of `generate`. Warns of one that a request gets only in part."""
        found = super().defaults(folder, given)
        if found["max_new_tokens"] is None and found["max_length"] is None:
            found["max_new_tokens"] = DEFAULT_NEW_TOKENS
        name = "max_length" if found["max_new_tokens"] is None else "max_new_tokens"
        if found[name] > found["limit_new_tokens"]:
            _warn(
                f"{name} is {found[name]:,}, and a request gets at most {found['limit_new_tokens']:,} "
                f"new tokens: log it with --default limit_new_tokens={found[name]} for longer texts"
            )
        return found

    def folder_settings(self, folder: Path) -> dict[str, object]:
        """The lengths and stop strings of the checkpoint's generation settings. Raises ContractError.

        Warns of settings of the task in config.json that nobody applies.
        """
        path = folder / "config.json"
        stated = (read_json(path, SpecificKeys).task_specific_params or {}) if path.is_file() else {}
        others = [name for name in stated.get(self.name) or () if name not in self.specific_keys]
        if others:
            _warn(
                f"task_specific_params.{self.name} in config.json sets {', '.join(others)}; neither "
                "transformers 5 nor this server applies that: set it in generation_config.json"
            )
        return state_defaults(folder)

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A prompt and new tokens, `length` together."""
        new = min(PROBE_TOKENS, length // 2)
        row = probe_text(contract, length - new, payload=SamplingSettings(max(1, new), do_sample=False).pack())
        return msgspec.structs.replace(row, new_tokens=max(1, new))

    def cost(self, item: str | TokenIds, parameters: Parameters, version: VersionContext) -> ItemCost:
        """One row per text, each with the whole prompt."""
        return ItemCost(parameters.texts, parameters.texts * len(item))

    def agreement(
        self, one: Sequence[Mapping[str, object]], other: Sequence[Mapping[str, object]], contract: Contract
    ) -> Agreement:
        """The share of positions with the same word."""
        texts = [[str(next(iter(entry.values()))).split() for entry in answer] for answer in (one, other)]
        return mean([Agreement(tokens(first, second)) for first, second in zip(*texts, strict=True)])

    def is_repeatable(self, parameters: Parameters) -> bool:
        """Where a request asks for the likeliest tokens; what the checkpoint does by itself is not known here."""
        return parameters.do_sample is False

    def answer_bytes(self, encoded: Encoded[Context], parameters: Parameters, version: VersionContext) -> int:
        """Every new token is some text, and where scores were requested an object with one for each of the likeliest.

        A text with the prompt in it has that again.
        """
        tokens = sum([row.new_tokens for row in encoded.rows])
        scored = 0 if parameters.top is None else OBJECT_BYTES * (1 + parameters.top)
        before = sum([row.length for row in encoded.rows])
        return (tokens + before) * CHARACTER_BYTES * CHARACTERS_OF_A_TOKEN + tokens * scored

    def prepare(self, model: "PreTrainedModel", contract: Contract) -> None:
        """Pad finished rows with the contract's token, and leave to requests what they decide."""
        model.generation_config.pad_token_id = contract.processor.pad_token_id
        forget_lengths(model.generation_config)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> NoReturn:
        """Never called."""
        raise TypeError(f"{self.name} is written token by token: serving.engine.generation does it")


def requested_new_tokens(parameters: GenerationParameters, defaults: GenerationDefaults) -> int | None:
    """The most new tokens that the request names, or None; raises Unprocessable above the contract's limit."""
    count = parameters.max_new_tokens
    if count is not None and count > defaults.limit_new_tokens:
        raise Unprocessable(
            f"parameters.max_new_tokens is {count:,}, this model writes at most {defaults.limit_new_tokens:,} a request"
        )
    return count


def default_new_tokens(defaults: GenerationDefaults, before: int) -> int:
    """The most new tokens of a request that names no number; raises Unprocessable where none are left.

    before: the number of tokens that `max_length` counts beside the new ones.
    """
    count = defaults.max_new_tokens or (defaults.max_length or 0) - before
    if count < 1:
        raise Unprocessable(
            f"inputs has {before:,} tokens, the checkpoint's max_length is {defaults.max_length:,}, new tokens "
            "included: shorten the text, or pass parameters.max_new_tokens"
        )
    return min(count, defaults.limit_new_tokens)


def _warn(problem: str) -> None:
    warnings.warn(problem, CheckpointWarning, stacklevel=4)


def make_rows(row: EncodedRow, parameters: GenerationParameters, count: int, **search: Any) -> list[EncodedRow]:
    """The rows of an input's texts: one copy of `row` per text, with its settings. Raises Unprocessable.

    search: `SamplingSettings` of a beam search, whose best texts the rows are. With a seed, each text has the seed
    after the previous text's.
    """
    if (parameters.min_new_tokens or 0) > count:
        raise Unprocessable(
            f"parameters.min_new_tokens is {parameters.min_new_tokens:,}, and max_new_tokens is {count:,}: "
            "raise max_new_tokens, or lower the other"
        )
    drawn = {name: getattr(parameters, name) for name in ("temperature", "top_k", "top_p", "seed")}
    given = next((name for name, value in drawn.items() if value is not None), None)
    if given and parameters.do_sample is False:
        raise Unprocessable(f"parameters.{given} needs do_sample: leave it out, or let do_sample be true")
    if None not in (parameters.n, parameters.num_return_sequences) and parameters.n != parameters.num_return_sequences:
        raise Unprocessable("parameters.n and num_return_sequences are two names of one number: leave one out")
    seed = drawn.pop("seed")
    settings = SamplingSettings(
        max_new_tokens=count,
        do_sample=True if given else parameters.do_sample,
        repetition_penalty=parameters.repetition_penalty,
        stop=tuple(parameters.stop or ()),
        top=parameters.top,
        min_new_tokens=parameters.min_new_tokens,
        **drawn,
        **search,
    )
    rows = []
    for index in range(parameters.texts):
        own = msgspec.structs.replace(settings, rank=index, seed=None if seed is None else (seed + index) % 2**63)
        rows.append(EncodedRow(row.length, row.tokens, batch_key=row.batch_key, payload=own.pack(), new_tokens=count))
    return rows
