"""Settings that a record declares once: each field says its variable, type, default, bounds and meaning.

A field `workers: Annotated[int, Meta(ge=1, le=256, description="Front processes.")] = 1` is read from
`HEADWAITER_WORKERS`. `extra` in its Meta may name another "variable", "derive" the default from the environment, and
say the "default" in words. What reads, refuses, documents or offers a setting as a flag derives from that declaration.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, assert_never, get_args, get_origin, get_type_hints

import msgspec

from registry.errors import RegistryError

PREFIX = "HEADWAITER_"
_NUMBER = re.compile(r"[-+]?[0-9.]{1,400}(e[-+]?[0-9]{1,3})?", re.IGNORECASE)
"""Python also reads 1_000, the digits of other scripts, and what is no finite number."""
SettingKind = Literal["whole number", "number", "switch", "choice", "text"]


class InvalidSetting(RegistryError):
    """A setting's value breaks its rule."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One declared field. minimum, maximum: bounds of a number, both allowed. choices: of a choice. meaning: one line.

    default: of the field; "" where it has none of its own. shown_default: it in words, for people. derive: computes the
    default from the environment, or None.
    """

    field: str
    variable: str
    kind: SettingKind
    default: Any
    shown_default: str
    meaning: str
    minimum: float = 0
    maximum: float = 0
    choices: tuple[str, ...] = ()
    derive: Callable[[Mapping[str, str]], Any] | None = None

    @property
    def rule(self) -> str:
        """The rule for a value, in words that follow "give" or "choose"."""
        match self.kind:
            case "whole number" | "number":
                return f"give a {self.kind} from {self.minimum} to {self.maximum}"
            case "switch" | "choice":
                return f"choose one of {', '.join(self.choices)}"
            case "text":
                return "give text"
            case other:
                assert_never(other)

    def read(self, environ: Mapping[str, str]) -> Any:
        """The value in the environment; the default where it is empty or missing. Raises InvalidSetting."""
        text = environ.get(self.variable, "")
        if self.kind != "text":  # a secret may begin with a space
            text = text.strip()
        if not text:
            return self.default if self.derive is None else self.derive(environ)
        value = self._parse(text)
        if value is None:
            raise InvalidSetting(f"{self.variable}={text!r} is not allowed: {self.rule}")
        return value

    def _parse(self, text: str) -> Any:
        """The value, None for one that breaks the rule."""
        match self.kind:
            case "whole number" | "number":
                if not _NUMBER.fullmatch(text):
                    return None
                try:
                    number = int(text) if self.kind == "whole number" else float(text)
                except ValueError:
                    return None
                return number if self.minimum <= number <= self.maximum else None
            case "switch":
                return text == "1" if text in self.choices else None
            case "choice":
                return text if text in self.choices else None
            case "text":
                return text
            case other:
                assert_never(other)


@cache
def settings_of(record: type[msgspec.Struct]) -> Mapping[str, Setting]:
    """Field → setting, of the fields whose Meta has a description, in their order."""
    hints = get_type_hints(record, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(record):
        hint = hints[field.name]
        meta = hint.__metadata__[0] if get_origin(hint) is Annotated else None
        if meta is not None and meta.description is not None:
            found[field.name] = _declared(field, get_args(hint)[0], meta)
    return found


def read_settings(record: type[msgspec.Struct], environ: Mapping[str, str]) -> dict[str, Any]:
    """Field → value from the environment or by default; raises InvalidSetting."""
    return {name: setting.read(environ) for name, setting in settings_of(record).items()}


def _declared(field: Any, kind: Any, meta: msgspec.Meta) -> Setting:
    extra = meta.extra or {}
    default = "" if field.default is msgspec.NODEFAULT else field.default
    return Setting(
        field=field.name,
        variable=extra.get("variable", PREFIX + field.name.upper()),
        kind=_kind(kind),
        default=default,
        shown_default=extra.get("default", _show(default)),
        derive=extra.get("derive"),
        meaning=str(meta.description),
        minimum=0 if meta.ge is None else meta.ge,
        maximum=0 if meta.le is None else meta.le,
        choices=("0", "1") if kind is bool else get_args(kind) if get_origin(kind) is Literal else (),
    )


def _kind(kind: Any) -> SettingKind:
    if get_origin(kind) is Literal:
        return "choice"
    kinds: dict[Any, SettingKind] = {int: "whole number", float: "number", bool: "switch"}
    return kinds.get(kind, "text")


def _show(default: Any) -> str:
    if isinstance(default, bool):
        return str(int(default))
    return f"{default:g}" if isinstance(default, float) else str(default)
