"""The commands that say who may come in: keys add, keys list, keys remove."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from registry.settings import InvalidSetting, check_model_name
from serving.commands import options
from serving.commands.errors import errors, recorded
from serving.commands.status_text import format_columns
from serving.runtime.key_file import ALL_MODELS, MAX_CONCURRENCY, MAX_RATE, KeyFile


@click.group()
def keys() -> None:
    """Keys of a server's clients, in the file that HEADWAITER_KEYS_FILE names. Servers follow it while they run."""


@keys.command("add")
@click.argument("name")
@click.option("--models", multiple=True, metavar="NAME[,NAME]…", help="The models that it may ask.  [default: all]")
@click.option("--admin", is_flag=True, help="It may see what operators see: /metrics, contracts, processes, errors.")
@click.option(
    "--rate",
    type=options.FiniteRange(0, MAX_RATE),
    default=0.0,
    metavar="R",
    help="Requests a second, at least one a day; 0: any.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(0, MAX_CONCURRENCY),
    default=0,
    metavar="C",
    help="Requests in progress; 0: any.",
)
@options.as_json
def add(name: str, models: tuple[str, ...], admin: bool, rate: float, concurrency: int, as_json: bool) -> None:
    """Make a key for NAME and print it. It cannot be shown again: the file has only its digest."""
    with errors():
        named = [model for part in models for model in part.replace(",", " ").split()]
        for model in named:
            if model != ALL_MODELS:
                check_model_name(model)
        with recorded(f"keys add {name}"):
            token = _file().add(name, models=named or (ALL_MODELS,), admin=admin, rate=rate, concurrency=concurrency)
    click.echo(json.dumps({"name": name, "key": token}) if as_json else token)


@keys.command("list")
@options.as_json
def list_keys(as_json: bool) -> None:
    """List the keys' names, and what each may do."""
    with errors():
        found = _file().read().keys
    if as_json:
        shown = ("name", "models", "admin", "rate", "concurrency", "created")
        click.echo(json.dumps([{field: getattr(key, field) for field in shown} for key in found]))
        return
    rows = [("name", "models", "admin", "rate", "concurrency", "made")]
    for key in found:
        made = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d")
        bounds = (f"{key.rate:g}/s" if key.rate else "-", str(key.concurrency or "-"))
        rows.append((key.name, ", ".join(key.models), "yes" if key.admin else "-", *bounds, made))
    click.echo("\n".join(format_columns(rows, right=(3, 4))))


@keys.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove NAME's key. Servers refuse it within a second."""
    with errors(), recorded(f"keys remove {name}"):
        _file().remove(name)


def _file() -> KeyFile:
    from serving.settings import ServingSettings

    path = ServingSettings.from_environment(run=Path()).keys_file
    if path is None:
        raise InvalidSetting("HEADWAITER_KEYS_FILE is not set: let it name the file of keys, here and for the server")
    return KeyFile(path)
