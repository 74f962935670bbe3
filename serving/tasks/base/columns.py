"""Columns of texts, as tables and tensors have them, into a task's inputs. Used by MLflow's and KServe's protocols."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import msgspec

from serving.errors import Unprocessable
from serving.tasks.base.task import Task

TEXT_COLUMNS = ("inputs", "text")
"""Where the text is looked for in a table of other columns besides."""


def parts_of(task: Task) -> dict[str, bool]:
    """The parts of an input, as question and context, and whether each is a list; empty where an input is one text."""
    forms = get_args(task.Item) or (task.Item,)
    return {
        field.name: any(get_origin(each) is list for each in (field.type, *get_args(field.type)))
        for form in forms
        if isinstance(form, type) and issubclass(form, msgspec.Struct)
        for field in msgspec.structs.fields(form)
    }


def takes_text(task: Task) -> bool:
    """Whether an input may be one text."""
    return str in (get_args(task.Item) or (task.Item,))


def to_inputs(columns: Mapping[str, Sequence[Any]], task: Task) -> list[Any]:
    """One input a row. Columns named like the parts of an input make it, if there are several of them or it is the
    task's only form; else a column `inputs` or `text`, or the only one. Raises Unprocessable.
    """
    parts = [name for name in parts_of(task) if name in columns]
    rows = {len(column) for column in columns.values()}
    if len(rows) > 1:
        raise Unprocessable(f"the columns differ in length: {', '.join(f'{n}: {len(columns[n])}' for n in columns)}")
    if len(parts) > 1 or (parts and not takes_text(task)):
        return [dict(zip(parts, values, strict=True)) for values in zip(*(columns[n] for n in parts), strict=True)]
    name = next((name for name in TEXT_COLUMNS if name in columns), None)
    if name is None and len(columns) == 1:
        name = next(iter(columns))
    if name is None:
        choices = " and ".join(parts_of(task)) or "inputs"
        raise Unprocessable(f"no column says what to read, there are {', '.join(columns) or 'none'}: send {choices}")
    return list(columns[name])
