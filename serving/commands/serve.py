"""The command that becomes a server."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from registry.child_process import module_command, python_path
from registry.environment import settings_of
from serving.commands.errors import errors
from serving.runtime.address import check_address, check_further_ports
from serving.runtime.exposure import check_access
from serving.runtime.run_folder import claim
from serving.settings import FILES, ServingSettings, read_models

_SETTINGS = settings_of(ServingSettings)
FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)


def _setting(flag: str, field: str) -> Callable[[FC], FC]:
    """The option that sets this field of the settings: its type, help and default are the field's."""
    setting = _SETTINGS[field]
    types = {"whole number": int, "number": float}
    help_text = f"{setting.meaning}  [default: {setting.shown_default}]"
    return click.option(flag, field, type=types.get(setting.kind, str), help=help_text)


@click.command()
@click.argument("models", nargs=-1, metavar="[[!]NAME[@ALIAS|/VERSION]]…")
@click.option("--deployments", is_flag=True, help="Serve what the registry marks as deployed, too.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--insecure", is_flag=True, help="Listen where other machines reach the server although it has no keys.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@_setting("--grpc-port", "grpc_port")
@_setting("--tls-cert", "tls_cert")
@_setting("--tls-key", "tls_key")
@_setting("--tls-client-ca", "tls_client_ca")
@_setting("--workers", "workers")
@_setting("--device", "devices")
@_setting("--replicas", "replicas")
@_setting("--dtype", "dtype")
@_setting("--poll-seconds", "poll_seconds")
@_setting("--keep-previous", "keep_previous")
@_setting("--idle-unload", "idle_unload_seconds")
def serve(models: tuple[str, ...], deployments: bool, host: str, port: int, insecure: bool, **given: object) -> None:
    """Serve models until SIGTERM; an alias is followed from version to version.

    Models that do not all fit into memory are loaded as they are asked for; those with a "!" always stay loaded.

    Every setting is a HEADWAITER_* variable, too; a flag wins.
    """
    from serving.commands.load_progress import watch_loading
    from serving.manager.prestart import find_wanted, start_template

    for field, value in given.items():
        if value is not None:
            os.environ[_SETTINGS[field].variable] = str(value)
    if models:
        with errors():
            named, pinned = read_models(models)
            os.environ["HEADWAITER_MODELS"] = " ".join(f"{'!' * (each in pinned)}{each}" for each in named)
    if deployments:
        os.environ["HEADWAITER_DEPLOYMENTS"] = "1"
    if insecure:
        os.environ["HEADWAITER_INSECURE"] = "1"
    with errors():
        settings = ServingSettings.from_environment(run=Path())  # there is none before the settings are good
    if not settings.models and not settings.deployments:
        raise click.UsageError(
            "nothing to serve: name models, or say --deployments to serve what is marked as deployed"
        )
    with errors():
        check_address(host, port)
        tls = check_access(host, settings)
        check_further_ports(
            host, port, {_SETTINGS[field].variable: getattr(settings, field) for field in ("admin_port", "grpc_port")}
        )
        os.umask(0o077)  # files and sockets of all processes are this user's alone
        with settings.registry.home_errors():
            run = claim(settings.registry.home)
    _tell_children(settings)
    os.environ.setdefault("BENTOML_HOME", str(settings.registry.home / "bentoml" / str(port)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: it would keep a thread for each core of the machine
    os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"] = python_path(), "1"
    with suppress(OSError):  # an optimisation: without it engines are spawned
        start_template(run.path, find_wanted(settings))
    with suppress(OSError):  # progress on the terminal, and nothing else
        watch_loading(run.path)
    options = ["--host", host, "--port", str(port), "--working-dir", str(run.path)]
    options += tls.options() if tls is not None else []
    os.environ.update(run.hand_over())  # this process becomes BentoML's supervisor
    os.execv(sys.executable, module_command("bentoml", "serve", "serving.service:Headwaiter", *options))


def _tell_children(settings: ServingSettings) -> None:
    """Name files and folders by their whole paths, as processes work in folders of their own."""
    registry = settings.registry
    os.environ["HEADWAITER_HOME"], os.environ["MLFLOW_TRACKING_URI"] = str(registry.home), registry.tracking_uri
    if registry.registry_uri:
        os.environ["MLFLOW_REGISTRY_URI"] = registry.registry_uri
    if registry.verify_keys:
        os.environ["HEADWAITER_VERIFY_KEYS"] = os.pathsep.join(map(str, registry.verify_keys))
    for field in FILES:
        if getattr(settings, field) is not None:
            os.environ[_SETTINGS[field].variable] = str(getattr(settings, field))


def source_folder() -> str:
    """Where this package lies."""
    return str(Path(__file__).resolve().parents[2])
