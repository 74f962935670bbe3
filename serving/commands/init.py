"""The command that copies an example to begin with."""

import re
import shutil
from pathlib import Path

import click

from serving.commands.errors import errors
from serving.commands.serve import source_folder

MAIN = "main.py"


def examples_folder() -> Path:
    """Where the examples lie: one module each, beside the packages."""
    return Path(source_folder()) / "examples"


def list_examples() -> list[str]:
    """The names of the examples. A task's example is named like the task."""
    return sorted(path.stem.replace("_", "-") for path in examples_folder().glob("*.py"))


@click.command()
@click.argument("task", type=click.Choice(list_examples()), metavar="TASK")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
def init(task: str, folder: Path) -> None:
    """Copy an example to the folder DIR: a program that fine-tunes a model, logs it, serves it and asks it.

    TASK is the name of a task or of one of the other examples; a wrong one is answered with the list.
    """
    source = examples_folder() / f"{task.replace('-', '_')}.py"
    with errors():
        if folder.is_dir() and any(folder.iterdir()):
            raise click.ClickException(f"{folder} is not empty: name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / MAIN)
        for name in re.findall(r"^from (\w+) import", source.read_text(encoding="utf-8"), re.MULTILINE):
            if (imported := source.with_name(f"{name}.py")).is_file():
                shutil.copyfile(imported, folder / imported.name)
    click.echo(folder / MAIN)
    click.echo(f"run it: cd {folder} && python {MAIN} (it needs the packages of the extra `examples`)", err=True)
