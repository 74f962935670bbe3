"""Messages of a chat → the model's prompt, by the tokenizer's own template and without transformers.

The environment is that of transformers' `render_jinja_template` (5.23). Templates come with a checkpoint, so they run
in Jinja's immutable sandbox and see plain data only.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from registry.checkpoint_files import AddedToken, NamedTemplate, SpecialTokensMap, TokenizerKeys, one_line, read_json
from registry.errors import UnreadableArtifact
from registry.redaction import describe_error
from serving.errors import ServingError, TooLarge, Unprocessable
from serving.settings import DEFAULT_BODY_BYTES

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.nodes import Node
    from jinja2.parser import Parser

MAX_RENDER_SECONDS = 2.0
"""Untuned: a template takes about a millisecond for a long chat. Some take more than linear time."""
SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class ChatTemplate:
    """A version's template. special: its special tokens by name, for the template. Raises jinja2.TemplateError."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._template = _environment().from_string(source)
        self._special = dict(special)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read the template in a `save_pretrained` folder, the default one of several; None where there is none.

        Raises UnreadableArtifact.
        """
        path = folder / "tokenizer_config.json"
        settings = read_json(path, TokenizerKeys) if path.is_file() else TokenizerKeys()
        path = folder / "special_tokens_map.json"
        others = read_json(path, SpecialTokensMap) if path.is_file() else SpecialTokensMap()
        path = folder / "chat_template.jinja"
        try:
            source = path.read_text(encoding="utf-8") if path.is_file() else _default(settings.chat_template)
            if source is None:
                return None
            named = {name: _text(getattr(settings, name) or getattr(others, name)) for name in SPECIAL_TOKENS}
            return cls(source, {name: text for name, text in named.items() if text})
        except Exception as error:  # jinja2's own errors and Python's compiler's
            raise UnreadableArtifact(
                f"{path.name if path.is_file() else 'tokenizer_config.json: chat_template'} is no chat template "
                f"({one_line(error)}): correct it there, or remove it"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        variables: Mapping[str, object] = MappingProxyType({}),
        *,
        max_characters: int = DEFAULT_BODY_BYTES,
        max_seconds: float = MAX_RENDER_SECONDS,
    ) -> str:
        """The prompt up to the start of the assistant's message.

        variables: further ones of the template. Raises Unprocessable where the template refuses or takes longer than
        `max_seconds`, TooLarge for a prompt of more than `max_characters`. Safe for several threads.
        """
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        parts, size = [], 0
        token = _deadline.set(time.monotonic() + max_seconds)
        try:
            for part in self._template.generate(self._special | dict(variables) | given):
                _check_deadline()
                parts.append(part)
                size += len(part)
                if size > max_characters:
                    raise TooLarge(
                        f"messages make a prompt of more than {max_characters:,} characters: send fewer or shorter",
                        field="messages",
                    )
            return "".join(parts)
        except ServingError:
            raise
        except Exception as error:  # a template is a program: on odd messages it may raise anything
            raise Unprocessable(
                f"messages do not fit the model's chat template ({describe_error(error)})", field="messages"
            ) from error
        finally:
            _deadline.reset(token)


_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
"""Of the template that is being rendered, in monotonic seconds."""


def _check_deadline() -> None:
    if time.monotonic() > _deadline.get():
        raise Unprocessable(
            "messages take the model's chat template too long: send fewer or shorter ones", field="messages"
        )


def _environment() -> "Environment":
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Ignores `{% generation %}`, which marks the assistant's messages for training."""

        tags = {"generation"}

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller: Callable[[], str]) -> str:
            return str(caller())

    class Namespace(jinja2.utils.Namespace):
        """Refuses names that begin with an underscore, which would reach Python's internals."""

        def __setitem__(self, name: str, value: object) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
            super().__setitem__(name, value)

    def namespace(*args: Mapping[str, object], **given: object) -> Namespace:
        found = Namespace()
        for name, value in dict(*args, **given).items():
            found[name] = value
        return found

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Looks at the deadline whenever a template reads or calls something, as every loop that works does."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            _check_deadline()
            return super().getattr(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            _check_deadline()
            return super().getitem(obj, argument)

        def call(self, /, *args: Any, **given: Any) -> Any:
            _check_deadline()
            return super().call(*args, **given)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=refuse,
        strftime_now=lambda form: datetime.now().strftime(form),  # noqa: DTZ005  # the local day, as in transformers
        dict=lambda *args, **given: dict(*args, **given),
        namespace=namespace,
    )
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _default(found: str | dict[str, str] | list[NamedTemplate] | None) -> str | None:
    """The default template of: one template, templates by name, or a list of names and templates."""
    if isinstance(found, list):
        found = {entry.name: entry.template for entry in found}
    return found.get("default") if isinstance(found, dict) else found


def _text(token: str | AddedToken | None) -> str:
    """A special token's text. transformers saves it as a text or as an object that has it."""
    return token.content if isinstance(token, AddedToken) else token or ""
