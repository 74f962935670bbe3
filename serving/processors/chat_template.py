"""Messages of a chat → the model's prompt, by the tokenizer's own template and without transformers.

A template is a program that comes with a checkpoint, and a single line of it can ask for all memory and for hours. So
templates are compiled and rendered in processes with limits of their own; see template_process and template_renderer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

from registry.checkpoint_files import AddedToken, NamedTemplate, SpecialTokensMap, TokenizerKeys, one_line, read_json
from registry.errors import UnreadableArtifact
from serving.errors import NotReady, TooLarge, Unprocessable
from serving.processors.template_process import Broken, Job, Oversized, TemplateFailed, run_job
from serving.settings import DEFAULT_BODY_BYTES

MAX_RENDER_SECONDS = 2.0
"""Untuned: a template takes about a millisecond for a long chat. Some take more than linear time."""
SPECIAL_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
RETRY_SECONDS = 1.0


class ChatTemplate:
    """A version's template. special: its special tokens by name, for the template."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._source = source
        self._special = dict(special)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read the template in a `save_pretrained` folder, the default one of several; None where there is none.

        Raises UnreadableArtifact, and OSError where it cannot be compiled now.
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
            run_job(Job(source, None, max_seconds=MAX_RENDER_SECONDS))
        except (UnicodeDecodeError, TemplateFailed) as error:
            raise UnreadableArtifact(
                f"{path.name if path.is_file() else 'tokenizer_config.json: chat_template'} is no chat template "
                f"({one_line(error)}): correct it there, or remove it"
            ) from error
        named = {name: _text(getattr(settings, name) or getattr(others, name)) for name in SPECIAL_TOKENS}
        return cls(source, {name: text for name, text in named.items() if text})

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        variables: Mapping[str, object] = MappingProxyType({}),
        *,
        max_characters: int = DEFAULT_BODY_BYTES,
        max_seconds: float = MAX_RENDER_SECONDS,
    ) -> str:
        """The prompt up to the start of the assistant's message. Blocks.

        variables: further ones of the template. Raises Unprocessable where the template refuses, or takes more than
        `max_seconds` or too much memory, TooLarge for a prompt of more than `max_characters`, NotReady where no process
        can be started. Safe for several threads.
        """
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return run_job(Job(self._source, self._special | dict(variables) | given, max_characters, max_seconds))
        except OverflowError as error:
            raise Unprocessable(
                "messages have a whole number of more than 64 bits: send it as a text", field="messages"
            ) from error
        except Oversized as error:
            why = f"messages make a prompt of more than {max_characters:,} characters: send fewer or shorter"
            raise TooLarge(why, field="messages") from error
        except Broken as error:
            raise Unprocessable(
                f"messages take the model's chat template {error}: send fewer or shorter ones", field="messages"
            ) from error
        except TemplateFailed as error:
            raise Unprocessable(
                f"messages do not fit the model's chat template ({error}): change them, or ask /v1/completions",
                field="messages",
            ) from error
        except OSError as error:
            raise NotReady("no chat template can be rendered now: try again", retry_seconds=RETRY_SECONDS) from error


def _default(found: str | dict[str, str] | list[NamedTemplate] | None) -> str | None:
    """The default template of: one template, templates by name, or a list of names and templates."""
    if isinstance(found, list):
        found = {entry.name: entry.template for entry in found}
    return found.get("default") if isinstance(found, dict) else found


def _text(token: str | AddedToken | None) -> str:
    """A special token's text. transformers saves it as a text or as an object that has it."""
    return token.content if isinstance(token, AddedToken) else token or ""
