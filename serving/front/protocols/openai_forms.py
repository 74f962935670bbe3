"""What OpenAI's two routes that write texts share: settings → the task's parameters, and texts gathered whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from serving.errors import Unprocessable
from serving.front.protocols.forms import pick_parameters
from serving.front.text_stream import TextStream
from serving.tasks.base.generated_text import TokenScore
from serving.tasks.base.task import AnyTask

MEANINGLESS: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that mean something which this server does not do, and the values of theirs that ask for nothing."""


class StreamOptions(msgspec.Struct, frozen=True):
    """include_usage: whether a last chunk tells how many tokens there were."""

    include_usage: bool = False


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What both routes' bodies have. A temperature of 0 takes the likeliest tokens."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def has_usage(self) -> bool:
        """Whether the stream ends with one."""
        return self.stream_options is not None and self.stream_options.include_usage


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Raise Unprocessable for a field that asks for what is not done here; others that are unknown mean nothing."""
    for name, harmless in MEANINGLESS.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise Unprocessable(f"{name} is not supported by this server: leave it out", field=name)


def to_parameters(form: Form, fields: Mapping[str, Any], task: AnyTask, **more: Any) -> dict[str, Any]:
    """The task's parameters. Those that OpenAI has no name for, as `top_k`, stand in the body under the task's own."""
    is_greedy = form.temperature == 0
    parameters = pick_parameters(fields, task)
    for name in ("logprobs", "stop", "temperature"):  # have another form here
        parameters.pop(name, None)
    given = {"max_new_tokens": form.max_tokens, "temperature": form.temperature, **more}
    if form.stop:
        given["stop"] = [form.stop] if isinstance(form.stop, str) else form.stop
    parameters |= {name: value for name, value in given.items() if value is not None}
    if is_greedy:
        for name in ("temperature", "top_p", "top_k", "seed"):
            parameters.pop(name, None)
        parameters["do_sample"] = False
    return parameters


@dataclass
class WholeText:
    """A text that was gathered from its pieces. finish_reason: as OpenAI has it."""

    text: str = ""
    finish_reason: str = "stop"
    tokens: list[TokenScore] = field(default_factory=list)


async def gather(stream: TextStream) -> Sequence[WholeText]:
    """All texts of a stream, by index; raises what the stream raises."""
    texts = [WholeText() for _ in range(stream.rows)]
    async for piece in stream:
        found = texts[piece.index]
        found.text += piece.text
        found.tokens += shown(piece.logprobs)
        found.finish_reason = piece.finish_reason or found.finish_reason
    return texts


def shown(tokens: Sequence[TokenScore]) -> list[TokenScore]:
    """Without those that texts leave out, as the one that ends them."""
    return [token for token in tokens if not token.is_special]


def usage(stream: TextStream) -> dict[str, int]:
    """How many tokens there were."""
    used = stream.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.generated_tokens,
        "total_tokens": used.prompt_tokens + used.generated_tokens,
    }
