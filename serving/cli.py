"""The command line. Each command imports what it needs, so that `--help` is there at once."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from registry.environment import settings_of
from serving.console import errors as _errors
from serving.head_commands import heads
from serving.progress import show_progress
from serving.settings import ServingSettings
from serving.version_commands import history, promote, rollback


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="headwaiter")
def main() -> None:
    """Serve fine-tuned Hugging Face models from an MLflow registry: the right head, batched, versioned, measured."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@main.command()
@click.argument("model")
@click.option("--task", required=True, help="The task that the model shall do.")
def check(model: str, task: str) -> None:
    """Say from its configuration alone, without weights, whether MODEL (a folder or a hub id) can do a task."""
    from registry.checks import fetch_config
    from registry.heads import get_head, model_class
    from registry.served_classes import check_class

    with _errors():
        head = get_head(task)
        config = fetch_config(model)
        needed = model_class(task, config["model_type"])
        check_class(task, needed, config)
    click.echo(f"yes: {config['model_type']} has {head.auto_class} for {task}: {needed}")
    saved = config.get("architectures") or []
    if needed not in saved:
        was = ", ".join(saved) or "without naming a head"
        click.echo(f"note: this checkpoint was saved as {was}: fine-tune it with {head.auto_class} before logging")


@main.command()
@click.option("--task", required=True, help="The task that the model shall do.")
@click.option("--small", "size", flag_value="small", default=None, help="Only cheap ones.")
@click.option("--accurate", "size", flag_value="accurate", help="Only accurate ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(task: str, size: Any, as_json: bool) -> None:
    """Name base models to fine-tune for a task, and why."""
    from registry.heads import get_head, model_class
    from registry.suggestions import suggest as find

    with _errors():
        head, found = get_head(task), find(task, size)
        classes = [model_class(task, entry.model_type) for entry in found]
    if as_json:
        click.echo(json.dumps([vars(entry) | {"class": name} for entry, name in zip(found, classes, strict=True)]))
        return
    click.echo(f"{task} needs {head.auto_class}; to fine-tune, for example:")
    for entry, name in zip(found, classes, strict=True):
        click.echo(f"  {entry.model}  {entry.millions:,} M parameters, {entry.longest:,} tokens: {entry.why}  ({name})")


@main.command("log")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", required=True, help="The task of the checkpoint's head.")
@click.option("--name", required=True, help="The registered model; a new version of it is made.")
@click.option("--example", help="The example request's inputs, as JSON; default: the task's own.")
@click.option(
    "--default",
    "defaults",
    multiple=True,
    metavar="KEY=VALUE",
    help="A default of the task, as pooling=mean.",
)
@click.option("--dtype", default="auto", show_default=True, help="auto, or the only dtype to serve in.")
@click.option("--max-tokens", type=int, help="Refuse longer rows than this; default: the model's own limit.")
@click.option(
    "--sample",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of inputs, one a line as JSON, whose answers become the baseline for drift.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def log_command(
    path: Path,
    task: str,
    name: str,
    example: str | None,
    defaults: tuple[str, ...],
    dtype: str,
    max_tokens: int | None,
    sample: Path | None,
    as_json: bool,
) -> None:
    """Log the checkpoint in folder PATH with its contract and register it; prints the new version's number."""
    from registry.flavor import log_model

    with _errors(), show_progress(f"logging {path}") as announce:
        logged = log_model(
            path,
            task=task,
            name=name,
            inputs=_read_json(example) if example is not None else None,
            defaults=dict(_read_default(text) for text in defaults),
            dtype=dtype,
            max_tokens=max_tokens,
            sample=_read_sample(sample) if sample is not None else (),
            announce=announce,
        )
    record = {
        "name": logged.name,
        "version": logged.version,
        "uri": logged.uri,
        "digest": logged.contract.digest,
    }
    click.echo(json.dumps(record) if as_json else logged.version)


for command in (heads, promote, rollback, history):
    main.add_command(command)


_SETTINGS = settings_of(ServingSettings)
FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)


def _setting(flag: str, field: str) -> Callable[[FC], FC]:
    """The option that sets this field of the settings: its type, help and default are the field's."""
    setting = _SETTINGS[field]
    types = {"whole number": int, "number": float}
    help_text = f"{setting.meaning}  [default: {setting.shown_default}]"
    return click.option(flag, field, type=types.get(setting.kind, str), help=help_text)


@main.command()
@click.argument("models", nargs=-1, metavar="[NAME[@ALIAS|/VERSION]]…")
@click.option("--deployments", is_flag=True, help="Serve what the registry marks as deployed, too.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@_setting("--workers", "workers")
@_setting("--device", "devices")
@_setting("--dtype", "dtype")
@_setting("--poll-seconds", "poll_seconds")
@_setting("--keep-previous", "keep_previous")
def serve(models: tuple[str, ...], deployments: bool, host: str, port: int, **options: Any) -> None:
    """Serve models until SIGTERM; an alias is followed from version to version.

    Every setting is a HEADWAITER_* variable, too; a flag wins.
    """
    from serving.headstart import give_head_start
    from serving.load_progress import watch_loading

    for field, value in options.items():
        if value is not None:
            os.environ[_SETTINGS[field].variable] = str(value)
    if models:
        os.environ["HEADWAITER_MODELS"] = " ".join(models)
    if deployments:
        os.environ["HEADWAITER_DEPLOYMENTS"] = "1"
    with _errors():
        settings = ServingSettings.from_environment(instance=os.getpid())  # BentoML's server becomes this process
    if not settings.models and not settings.deployments:
        raise click.UsageError(
            "nothing to serve: name models, or say --deployments to serve what is marked as deployed"
        )
    os.environ["HEADWAITER_HOME"] = str(settings.registry.home)
    os.environ["MLFLOW_TRACKING_URI"] = settings.registry.tracking_uri
    os.environ.setdefault("BENTOML_HOME", str(settings.registry.home / "bentoml" / str(port)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_source_folder(), os.environ.get("PYTHONPATH", "")]))
    with suppress(OSError):  # it is only sooner
        give_head_start(settings.run, os.getpid())
        watch_loading(settings.run, os.getpid())
    command = ["-m", "bentoml", "serve", "serving.service:Headwaiter", "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command])


@main.command()
@click.argument("url", default="http://127.0.0.1:3000")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(url: str, as_json: bool) -> None:
    """Show what the server at URL serves: models, versions, states, aliases, engines, memory, recent swaps."""
    import time

    from serving.remote import Remote
    from serving.status import render_status

    with _errors():
        found = Remote(url).status()
    click.echo(json.dumps(found) if as_json else render_status(found, time.time()))


@main.group()
def monitoring() -> None:
    """What Prometheus, Alertmanager and Grafana need to watch a server."""


@monitoring.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--target", "targets", multiple=True, metavar="HOST:PORT", help="A server; default: localhost:3000.")
@click.option("--prometheus", help="Prometheus' address for Grafana.  [default: http://localhost:9090]")
@click.option("--availability", type=float, help="Share of requests without a 5xx that is promised.  [default: 0.999]")
@click.option("--latency-seconds", type=float, help="How long an answer may take.  [default: 0.5]")
@click.option("--latency-share", type=float, help="Share of answers that take no longer.  [default: 0.99]")
def export_command(folder: Path, targets: tuple[str, ...], prometheus: str | None, **objectives: float | None) -> None:
    """Write configuration, rules, an Alertmanager example, dashboards and provisioning to DIR, ready to mount."""
    from monitoring.export import PROMETHEUS, TARGET, export, files
    from monitoring.rules import Objectives

    try:
        promised = Objectives(**{name: value for name, value in objectives.items() if value is not None})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with show_progress(f"writing to {folder}"):
        written = export(folder, files(targets or (TARGET,), prometheus or PROMETHEUS, promised))
    for path in written:
        click.echo(path)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--once", is_flag=True, help="End when everything has been shown; otherwise stay up until Ctrl-C.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="A folder to keep; default: removed.")
def demo(port: int, once: bool, home: Path | None) -> None:
    """Fine-tune a small model, log it, serve it, ask it, promote a second version and roll back."""
    from serving.demo.tour import run_demo

    with _errors():
        run_demo(port=port, once=once, home=home, say=click.echo)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Run the benchmarks of a source checkout; ARGUMENTS go to `python -m bench`."""
    import subprocess

    root = Path(_source_folder())
    if not (root / "bench").is_dir():
        raise click.ClickException("the benchmarks are not in the package: run this in a checkout of the source")
    sys.exit(subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=root, check=False).returncode)


def _source_folder() -> str:
    """Where this package lies; worker processes start elsewhere and must find the same code."""
    return str(Path(__file__).resolve().parent.parent)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--example {text!r} is not JSON: {error}") from error


def _read_sample(path: Path) -> list[Any]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise click.UsageError(f"--sample {path}, line {number} is not JSON: {error}") from error
    if not found:
        raise click.UsageError(f"--sample {path} has no inputs: write one a line, as JSON")
    return found


def _read_default(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--default {text!r}: write KEY=VALUE")
    return key, {"true": True, "false": False}.get(value.lower(), value)


if __name__ == "__main__":
    main()
