"""The table of client methods in docs/http.md, the call of a method with every parameter, and published types."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from tests.e2e.test_tasks import form

SENTENCE = "the quick brown fox"
MESSAGES: Any = [{"role": "user", "content": SENTENCE, "name": None, "tool_calls": None}]
PAGE = Path(__file__).resolve().parents[2] / "docs/http.md"
STATE = re.compile(r"works|works but for (?P<parameters>`\w+`(?:, `\w+`)*)|refused")


@dataclass(frozen=True)
class Row:
    """A method's row. refused: the parameters that are refused for some values. is_refused: the whole method is."""

    is_refused: bool
    refused: frozenset[str]


def read_table(client: str) -> Mapping[str, Row]:
    """Method → row, of the table below the heading with the client's name. A row may have several methods."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n### {client}\n")
    assert section, f"docs/http.md has no heading {client!r}"
    found: dict[str, Row] = {}
    for line in section.partition("\n#")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        state = STATE.fullmatch(cells[1])
        assert state, f"{line!r}: the state is 'works', 'works but for `parameter`' or 'refused'"
        assert state[0] == "works" or cells[2], f"{line!r} does not say why"
        row = Row(state[0] == "refused", frozenset(re.findall(r"`(\w+)`", state["parameters"] or "")))
        for name in re.findall(r"`([\w.]+)`", cells[0]):
            assert name not in found, f"{name} has two rows"
            found[name] = row
    return found


def misfits(value: Any, hint: Any, where: str = "answer") -> list[str]:
    """Where plain data does not fit a type; an object needs every field of a dataclass that is not optional."""
    kind, members = get_origin(hint), get_args(hint)
    if hint is Any:
        return []
    if kind in (Union, UnionType):
        tried = [misfits(value, member, where) for member in members]
        return [] if [] in tried else min(tried, key=len)
    if kind is Literal:
        return [] if value in members else [f"{where} is {value!r}"]
    if kind is list or hint is list:
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [each for at, entry in enumerate(value) for each in misfits(entry, (*members, Any)[0], f"{where}[{at}]")]
    if is_dataclass(hint):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        hints = get_type_hints(hint)
        return [
            each
            for each_field in fields(hint)
            for each in misfits(value.get(each_field.name), hints[each_field.name], f"{where}.{each_field.name}")
        ]
    fits = isinstance(value, (int, float) if hint is float else kind or hint)
    return [] if fits and (hint is bool or not isinstance(value, bool)) else [f"{where} is {value!r}, not {hint}"]


def public(kind: type) -> set[str]:
    """The public methods and properties of a client."""
    found = {**dict(inspect.getmembers(kind, inspect.isfunction))}
    found |= dict(inspect.getmembers(kind, lambda member: isinstance(member, property)))
    return {name for name in found if not name.startswith("_")}


@dataclass(frozen=True)
class Method:
    """How a method that works is called. given: arguments that every call has. values: parameter → a value that is
    applied. refused: parameter → a value that is refused by name. more: parameter → what its value needs beside it.
    says: parameter → what the refusal names, where that may be another one.
    """

    model: str
    given: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)


def sweep(call: Callable[..., Any], method: Method, ignored: set[str], refusals: Any) -> list[Any]:
    """The results of a call without parameters, with all of them None, and with each of them applied.

    Each refused value must be refused with its parameter's name.
    """
    known = set(inspect.signature(call).parameters) - method.given.keys() - ignored
    assert known == method.values.keys() | method.refused.keys()
    plain = call(**method.given)
    nothing = call(**method.given, **dict.fromkeys(known))
    assert form(plain) == form(nothing)
    for name, value in method.refused.items():
        with pytest.raises(refusals, match=method.says.get(name, name)):
            call(**method.given, **method.more.get(name, {}), **{name: value})
    applied = (
        call(**method.given, **method.more.get(name, {}), **{name: value}) for name, value in method.values.items()
    )
    return [plain, *applied]
