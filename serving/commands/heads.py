"""The command that lists heads: tasks, their AutoModel classes, and the architectures that are served for each."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from serving.commands import options
from serving.commands.errors import errors
from serving.commands.progress import show_progress
from serving.commands.status_text import format_columns

if TYPE_CHECKING:
    from registry.served_classes import FactsFile

WIDTH = 110


@click.command()
@click.option("--task", help="List the architectures that are served for this task, and those that are not, with why.")
@click.option("--family", metavar="MODEL_TYPE", help="List the heads of this architecture, as bert or llama.")
@options.as_json
def heads(task: str | None, family: str | None, as_json: bool) -> None:
    """List the tasks, the AutoModel class of each, how many architectures are served for it, and a model to begin with.

    Architectures are those of the installed transformers. A checkpoint may still be refused for its own files: `check`
    looks at its configuration, `log` at all of it.
    """
    if task is not None and family is not None:
        raise click.UsageError("give --task or --family, not both: --family lists the heads of all tasks")
    found: object
    with errors():
        if task is not None:
            found, lines = _describe_task(task)
        elif family is not None:
            found, lines = _describe_family(family)
        else:
            found, lines = _describe_all()
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(lines))


def _describe_all() -> tuple[list[dict[str, object]], list[str]]:
    from registry.heads import HEADS
    from registry.served_classes import find_served
    from registry.suggestions import suggest

    found = []
    with _class_facts() as facts:
        for head in HEADS.values():
            served, refused = find_served(head.task, facts.facts_of)
            record = {
                "task": head.task,
                "class": head.auto_class,
                "answers": head.answers,
                "served": len(served),
                "refused": len(refused),
                "example": suggest(head.task)[0].model,
            }
            found.append(record)
    rows = [("TASK", "CLASS", "ARCHITECTURES", "FOR EXAMPLE")]
    rows += [(str(row["task"]), str(row["class"]), str(row["served"]), str(row["example"])) for row in found]
    hints = ("--task TASK lists the architectures of a task, --family bert the heads of an architecture.",)
    return found, [*format_columns(rows, right=(2,)), "", *hints]


def _describe_task(task: str) -> tuple[dict[str, object], list[str]]:
    from registry.heads import get_head
    from registry.served_classes import find_served

    head = get_head(task)
    with _class_facts() as facts:
        served, refused = find_served(task, facts.facts_of)
    found: dict[str, object] = {
        "task": task,
        "class": head.auto_class,
        "answers": head.answers,
        "served": served,
        "refused": refused,
    }
    lines = [f"{task}: {head.answers}, by {head.auto_class}", "", f"{len(served)} architectures are served:"]
    lines.append(_wrap(served))
    for reason in dict.fromkeys(refused.values()):
        names = [model_type for model_type, why in refused.items() if why == reason]
        lines += ["", f"not served, {reason}:", _wrap(names)]
    return found, lines


def _describe_family(family: str) -> tuple[list[dict[str, object]], list[str]]:
    from registry.heads import HEADS, model_class, tasks_of
    from registry.served_classes import find_refusal

    tasks = tasks_of(family)
    if not tasks:
        raise click.ClickException(_unknown_family(family))
    found = []
    with _class_facts() as facts:
        for task in tasks:
            name = model_class(task, family)
            refusal = find_refusal(task, facts.facts_of(name))
            found.append({"task": task, "class": name, "is_served": refusal is None, "refusal": refusal})
    rows = [("TASK", "CLASS", "")]
    rows += [
        (str(row["task"]), str(row["class"]), f"not served: {row['refusal']}" if row["refusal"] else "served")
        for row in found
    ]
    missing = [task for task in HEADS if task not in tasks]
    lines = format_columns(rows, right=())
    return found, [*lines, "", f"{family} has no head for: {', '.join(missing)}"] if missing else lines


def _unknown_family(family: str) -> str:
    from difflib import get_close_matches

    from registry.heads import HEADS, architectures

    known = {model_type for task in HEADS for model_type in architectures(task)}
    near = get_close_matches(family.lower(), known, n=5)
    return (
        f"the installed transformers has no architecture {family!r} with a head of a task here: give a model_type as "
        "config.json has it" + (f"; near: {', '.join(near)}" if near else "")
    )


@contextmanager
def _class_facts() -> "Iterator[FactsFile]":
    """The facts of transformers' classes; what is read within is shown on a terminal, and kept under home."""
    from registry.served_classes import FactsFile
    from registry.settings import RegistrySettings

    with show_progress("looking at the classes of transformers, once") as announce:
        facts = FactsFile(RegistrySettings.from_environment().home, announce)
        yield facts
        facts.save()


def _wrap(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
