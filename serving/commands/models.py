"""The commands about a model before it is served: check, suggest, log."""

import atexit
import gc
import json
import os
from pathlib import Path
from typing import Literal

import click

from serving.commands import options
from serving.commands.errors import errors
from serving.commands.log_summary import collect_warnings, summarize
from serving.commands.printable import printable
from serving.commands.progress import show_progress


@click.command()
@click.argument("model")
@click.option("--task", required=True, help="The task that the model shall do.")
@options.as_json
def check(model: str, task: str, as_json: bool) -> None:
    """Say from its configuration alone, without weights, whether MODEL (a folder or a hub id) can do a task."""
    from registry.checks import fetch_config, has_own_head
    from registry.heads import get_head, model_class
    from registry.sentence_folder import read_sentence_folder
    from registry.served_classes import check_class

    with errors():
        head = get_head(task)
        config = fetch_config(model)
        needed = model_class(task, config["model_type"])
        check_class(task, needed, config)
        if not head.needs_head and Path(model).is_dir():
            read_sentence_folder(Path(model))
    saved, is_own = config.get("architectures") or [], has_own_head(config, task)
    if as_json:
        found = {"model_type": config["model_type"], "auto_class": head.auto_class, "class": needed}
        click.echo(json.dumps({"task": task, **found, "saved_as": saved, "has_own_head": is_own}))
        return
    click.echo(f"yes: {config['model_type']} has {head.auto_class} for {task}: {needed}")
    if not is_own:
        was = ", ".join(saved) or "without naming a head"
        click.echo(f"note: this checkpoint was saved as {was}: fine-tune it with {head.auto_class} before logging")


@click.command()
@click.option("--task", required=True, help="The task that the model shall do.")
@click.option("--small", "size", flag_value="small", default=None, help="Only cheap ones.")
@click.option("--accurate", "size", flag_value="accurate", help="Only accurate ones.")
@options.as_json
def suggest(task: str, size: Literal["small", "accurate"] | None, as_json: bool) -> None:
    """Name base models to fine-tune for a task, and why."""
    from registry.heads import get_head, model_class
    from registry.suggestions import suggest as find

    with errors():
        head, found = get_head(task), find(task, size)
        classes = [model_class(task, entry.model_type) for entry in found]
    if as_json:
        click.echo(json.dumps([vars(entry) | {"class": name} for entry, name in zip(found, classes, strict=True)]))
        return
    click.echo(f"{task} needs {head.auto_class}; to fine-tune, for example:")
    for entry, name in zip(found, classes, strict=True):
        click.echo(f"  {entry.model}  {entry.millions:,} M parameters, {entry.longest:,} tokens: {entry.why}  ({name})")


@click.command("log")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", required=True, help="The task of the checkpoint's head.")
@click.option("--name", required=True, help="The registered model; a new version of it is made.")
@click.option(
    "--base",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The model that the adapter in PATH was trained on; both are merged.",
)
@click.option("--base-digest", metavar="SHA256", help="Refuse another base: the sha256 of its weights.")
@click.option("--example", help="The example request's inputs, as JSON; default: the task's own.")
@click.option(
    "--default",
    "defaults",
    multiple=True,
    metavar="KEY=VALUE",
    help="A default of the task, as pooling=mean.",
)
@click.option("--dtype", default="auto", show_default=True, help="auto, or the only dtype to serve in.")
@click.option("--allow", multiple=True, type=click.Choice(["int8"]), help="Also serve in int8, where it is faster.")
@click.option("--max-tokens", type=int, help="Refuse longer rows than this; default: the model's own limit.")
@click.option(
    "--sample",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of inputs, one a line as JSON, whose answers become the baseline for drift.",
)
@click.option(
    "--sign", "key", metavar="KEY", help="A private key (PEM file, elliptic curve) to sign the artifact with."
)
@options.as_json
def log_command(
    path: Path,
    task: str,
    name: str,
    base: Path | None,
    base_digest: str | None,
    example: str | None,
    defaults: tuple[str, ...],
    dtype: str,
    allow: tuple[str, ...],
    max_tokens: int | None,
    sample: Path | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Log the checkpoint in folder PATH with its contract and register it; prints the new version's number.

    PATH may hold an adapter of PEFT, such as LoRA's: then --base is the model that it was trained on.

    A summary of the contract goes to standard error.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin take processors from others
    atexit.register(gc.freeze)  # the interpreter's last collections would take two seconds for what was imported
    from registry.flavor import log_model

    with errors(), collect_warnings() as notes, show_progress(f"logging {path}") as announce:
        logged = log_model(
            path,
            task=task,
            name=name,
            base=base,
            base_digest=base_digest,
            inputs=_read_json(example) if example is not None else None,
            defaults=dict(_read_default(text) for text in defaults),
            dtype=dtype,
            allow=allow,
            max_tokens=max_tokens,
            sample=_read_sample(sample) if sample is not None else (),
            sign=key,
            announce=announce,
        )
    click.echo(printable(summarize(logged.contract, notes)), err=True)
    record = {
        "name": logged.name,
        "version": logged.version,
        "uri": logged.uri,
        "digest": logged.contract.digest,
        "max_tokens": logged.contract.max_tokens,
        "batching": logged.contract.batching,
    }
    click.echo(json.dumps(record) if as_json else logged.version)


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(
            f"--example {text!r} is not JSON ({error}): write a text with double quotes, as '\"a text\"'"
        ) from error


def _read_sample(path: Path) -> list[object]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--sample {path} is not UTF-8: {error}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise click.UsageError(
                    f"--sample {path}, line {number} is not JSON ({error}): write one input a line, as JSON"
                ) from error
    if not found:
        raise click.UsageError(f"--sample {path} has no inputs: write one a line, as JSON")
    return found


def _read_default(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--default {text!r}: write KEY=VALUE")
    return key, {"true": True, "false": False}.get(value.lower(), value)
