"""The command that becomes a server."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from serving.commands.errors import errors


@click.command()
@click.argument("models", nargs=-1, metavar="[NAME[@ALIAS|/VERSION]]…")
@click.option("--deployments", is_flag=True, help="Serve what the registry marks as deployed, too.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--workers", type=int, help="Front processes.  [default: 1]")
@click.option("--device", help="auto, cpu, cuda, or several as cuda:0,cuda:1.  [default: auto]")
@click.option("--dtype", help="auto, float32, bfloat16 or float16.  [default: auto]")
@click.option("--poll-seconds", type=float, help="How often aliases are read.  [default: 2]")
@click.option("--keep-previous", type=int, help="Versions kept loaded behind the live one.  [default: 1]")
def serve(models: tuple[str, ...], deployments: bool, host: str, port: int, **options: Any) -> None:
    """Serve models until SIGTERM; an alias is followed from version to version."""
    from serving.manager.prestart import give_head_start
    from serving.settings import ServingSettings

    names = {"device": "DEVICE", "workers": "WORKERS", "dtype": "DTYPE"}
    for option, value in options.items():
        if value is not None:
            os.environ[f"HEADWAITER_{names.get(option, option.upper())}"] = str(value)
    if models:
        os.environ["HEADWAITER_MODELS"] = " ".join(models)
    if deployments:
        os.environ["HEADWAITER_DEPLOYMENTS"] = "1"
    with errors():
        settings = ServingSettings.from_environment(instance=os.getpid())  # BentoML's server becomes this process
    if not settings.models and not settings.deployments:
        raise click.UsageError(
            "nothing to serve: name models, or say --deployments to serve what is marked as deployed"
        )
    os.environ["HEADWAITER_HOME"] = str(settings.registry.home)
    os.environ["MLFLOW_TRACKING_URI"] = settings.registry.tracking_uri
    os.environ.setdefault("BENTOML_HOME", str(settings.registry.home / "bentoml" / str(port)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: it would keep a thread for each core of the machine
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source_folder(), os.environ.get("PYTHONPATH", "")]))
    with suppress(OSError):  # it is only sooner
        give_head_start(settings.run, os.getpid())
    command = ["-m", "bentoml", "serve", "serving.service:Headwaiter", "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command])


def source_folder() -> str:
    """Where this package lies; worker processes start elsewhere and must find the same code."""
    return str(Path(__file__).resolve().parents[2])
