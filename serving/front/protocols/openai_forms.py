"""Shared by OpenAI's two completion routes: their fields as the task's parameters, and complete texts."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Annotated

import msgspec

from serving.errors import Unprocessable
from serving.front.asgi import JsonObject
from serving.front.protocols.forms import pick_parameters
from serving.front.text_stream import TextDelta, TextStream
from serving.tasks.base.fields import Name
from serving.tasks.base.generated_text import TokenScore
from serving.tasks.base.generation import Stop, Stops
from serving.tasks.base.task import AnyTask

UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({}, []),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tool_prompt": ("",),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields for features that this server lacks, with the values that do not ask for the feature."""
WITHOUT_EFFECT = (
    *("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "user"),
)
"""Fields that tell OpenAI about the request and change no answer."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """include_usage: whether a last chunk has the token counts. include_obfuscation: must be false."""

    include_usage: bool = False
    include_obfuscation: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not done."""
        if self.include_obfuscation:
            raise ValueError("include_obfuscation is not supported by this server: leave it out")


class GenerationForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of both routes. A temperature of 0 means greedy decoding."""

    model: Name | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: float | None = None
    n: int | None = None
    stop: Stop | Stops | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def has_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


def to_parameters(form: GenerationForm, fields: Mapping[str, object], task: AnyTask, **more: object) -> JsonObject:
    """The task's parameters. Those without an OpenAI name, such as `top_k`, have the task's own names in the body.

    more: parameters that the route sets. Raises Unprocessable where the body sets one otherwise by the task's name.
    """
    is_greedy = form.temperature == 0
    parameters = pick_parameters(fields, task)
    for name in ("logprobs", "stop", "temperature"):  # these have another form in OpenAI's bodies
        parameters.pop(name, None)
    given = {"max_new_tokens": form.max_tokens, "temperature": form.temperature, **more}
    if form.stop:
        given["stop"] = [form.stop] if isinstance(form.stop, str) else form.stop
    given = {name: value for name, value in given.items() if value is not None}
    twice = next((name for name in given if name in parameters and parameters[name] != given[name]), None)
    if twice is not None:
        raise Unprocessable(
            f"{twice} differs from what this route sets by a field of its own: leave it out", field=twice
        )
    parameters |= given
    if is_greedy:
        for name in ("temperature", "top_p", "top_k", "seed"):
            parameters.pop(name, None)
        parameters["do_sample"] = False
    return parameters


class WholeText:
    """A complete text, put together delta by delta. finish_reason: as OpenAI has it. tokens: with scores."""

    def __init__(self) -> None:
        self.finish_reason = "stop"
        self.tokens: list[TokenScore] = []
        self._written = StringIO()

    @property
    def text(self) -> str:
        """What all deltas say together."""
        return self._written.getvalue()

    def append(self, delta: TextDelta) -> None:
        """Take the text's next delta, of which nothing else is kept."""
        self._written.write(delta.text)
        self.tokens += shown(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason


class WholeTexts(list[WholeText]):
    """All texts of a stream, by index."""

    def __init__(self, count: int) -> None:
        super().__init__(WholeText() for _ in range(count))

    def take(self, delta: TextDelta) -> None:
        """Append a delta to its text."""
        self[delta.index].append(delta)


async def gather(stream: TextStream) -> Sequence[WholeText]:
    """All texts of a stream, by index; raises what the stream raises."""
    return await stream.collect(WholeTexts)


def shown(tokens: Sequence[TokenScore]) -> list[TokenScore]:
    """The tokens without special ones, such as the end token."""
    return [token for token in tokens if not token.is_special]


def usage(stream: TextStream) -> dict[str, object]:
    """The token counts of a stream."""
    used = stream.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.generated_tokens,
        "total_tokens": used.prompt_tokens + used.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": used.reused_tokens},
    }
