"""Columns of a table or named tensors → a task's inputs. Used by MLflow's and KServe's protocols."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import get_args, get_origin, get_type_hints

import msgspec

from registry.layout import TEXT_COLUMNS
from serving.errors import Unprocessable
from serving.tasks.base.task import AnyTask


@cache
def parts_of(task: AnyTask) -> Mapping[str, bool]:
    """An input's fields (as question, context) and whether each is a list; empty where an input is a text."""
    forms = get_args(task.item_type) or (task.item_type,)
    return {
        field.name: any(get_origin(each) is list for each in (field.type, *get_args(field.type)))
        for form in forms
        if isinstance(form, type) and issubclass(form, msgspec.Struct)
        for field in msgspec.structs.fields(form)
    }


@cache
def takes_text(task: AnyTask) -> bool:
    """Whether an input may be one text."""
    return str in (get_args(task.item_type) or (task.item_type,))


@cache
def lists_of(task: AnyTask) -> frozenset[str]:
    """The parameters that are lists of texts."""
    hints = get_type_hints(task.parameters_type).items()
    return frozenset(
        name for name, hint in hints if any(get_origin(each) in (list, tuple) for each in (hint, *get_args(hint)))
    )


def to_inputs(columns: Mapping[str, Sequence[object]], task: AnyTask) -> list[object]:
    """One input per row, of the columns that are read. Raises Unprocessable."""
    names, are_parts = _read_names(columns, task)
    if not are_parts:
        return list(columns[names[0]])
    return [dict(zip(names, values, strict=True)) for values in zip(*(columns[n] for n in names), strict=True)]


def unread_column(columns: Mapping[str, Sequence[object]], task: AnyTask) -> str | None:
    """The first column that `to_inputs` leaves out although it has a value. Raises Unprocessable."""
    names, _ = _read_names(columns, task)
    return next(
        (name for name, values in columns.items() if name not in names and any(each is not None for each in values)),
        None,
    )


def check_names(names: Sequence[str]) -> None:
    """Raise Unprocessable where two columns have one name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise Unprocessable(f"column {twice!r} comes twice: send it once, or rename one")


def _read_names(columns: Mapping[str, Sequence[object]], task: AnyTask) -> tuple[list[str], bool]:
    """The columns that are read, and whether they are fields of an input. Raises Unprocessable.

    Columns named like an input's fields are its fields, if there are several or the task accepts no text. Otherwise
    the input is the column `inputs` or `text`, or the only column.
    """
    parts = [name for name in parts_of(task) if name in columns]
    rows = {len(column) for column in columns.values()}
    if len(rows) > 1:
        lengths = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
        raise Unprocessable(f"the columns differ in length ({lengths}): give each a value for every row")
    if len(parts) > 1 or (parts and not takes_text(task)):
        return parts, True
    name = next((name for name in TEXT_COLUMNS if name in columns), None)
    if name is None and len(columns) == 1:
        name = next(iter(columns))
    if name is None:
        choices = " and ".join(parts_of(task)) or "inputs"
        raise Unprocessable(f"no column says what to read, there are {', '.join(columns) or 'none'}: send {choices}")
    return [name], False
