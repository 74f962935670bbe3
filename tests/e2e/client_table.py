"""The table of client methods in docs/http.md, and whether an answer fits a published type."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
            for field in fields(hint)
            for each in misfits(value.get(field.name), hints[field.name], f"{where}.{field.name}")
        ]
    fits = isinstance(value, (int, float) if hint is float else kind or hint)
    return [] if fits and (hint is bool or not isinstance(value, bool)) else [f"{where} is {value!r}, not {hint}"]
