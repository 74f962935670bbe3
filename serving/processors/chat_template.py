"""Messages of a chat → the model's prompt, by the tokenizer's own template and without transformers.

The environment is that of transformers' `render_jinja_template` (5.23). Templates come with a checkpoint, so they run
in Jinja's immutable sandbox and see plain data only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from registry.checkpoint_files import AddedToken, NamedTemplate, SpecialTokensMap, TokenizerKeys, one_line, read_json
from registry.errors import UnreadableArtifact
from registry.redaction import describe_error
from serving.errors import Unprocessable

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.nodes import Node
    from jinja2.parser import Parser

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

    def render(self, messages: Sequence[Mapping[str, object]], **variables: object) -> str:
        """The prompt up to the start of the assistant's message. Raises Unprocessable where the template refuses."""
        try:
            given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
            return str(self._template.render(self._special | variables | given))
        except Exception as error:  # a template is a program: on odd messages it may raise anything
            raise Unprocessable(
                f"messages do not fit the model's chat template ({describe_error(error)})", field="messages"
            ) from error


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

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
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
