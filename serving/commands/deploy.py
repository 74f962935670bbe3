"""The command that makes the files for a cluster: deploy export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from serving.commands.errors import errors
from serving.commands.progress import show_progress
from serving.kubernetes.installation import PARTS, Installation

FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)
_DEFAULTS = Installation(models=("any",))


@click.group()
def deploy() -> None:
    """Files by which a cluster runs servers."""


def _option(flag: str, field: str, meaning: str, minimum: int | None = None) -> Callable[[FC], FC]:
    """The option for a field of the installation, with the field's default. minimum: of a whole number."""
    default = getattr(_DEFAULTS, field)
    kind = click.STRING if minimum is None else click.IntRange(minimum)
    return click.option(flag, field, type=kind, default=default, show_default=bool(default), help=meaning)


@deploy.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "--models", multiple=True, required=True, metavar="[!]NAME[@ALIAS|/VERSION]", help="What to serve; may be repeated."
)
@_option("--namespace", "namespace", "Where the objects go.")
@_option("--image", "image", "The image, made with deploy/Dockerfile.")
@_option("--replicas", "replicas", "Pods; with scaling, the fewest.", minimum=1)
@_option("--max-replicas", "max_replicas", "The most pods, with scaling.", minimum=1)
@_option("--cpu", "cpu", "Cores of a pod.", minimum=1)
@_option("--memory", "memory_gib", "Memory of a pod in GiB.", minimum=1)
@_option("--gpu", "gpus", "GPUs of a pod.", minimum=0)
@_option("--disk", "disk_gib", "Disk of a pod in GiB, for its cache of artifacts.", minimum=1)
@_option("--disk-class", "disk_class", "The disk's storage class; default: the node's own disk.")
@click.option("--grpc", is_flag=True, help="Listen for gRPC, too, at port 8001.")
@_option("--mlflow-uri", "mlflow_uri", "The address of the registry.")
@_option("--monitoring-namespace", "monitoring_namespace", "Where Prometheus runs.")
@click.option("--with", "parts", multiple=True, type=click.Choice(PARTS), help="A part to include; may be repeated.")
def export_command(folder: Path, **given: Any) -> None:
    """Write YAML for Kubernetes to DIR, for `kubectl apply -k DIR`, or of DIR/kserve with KServe."""
    from monitoring.export import export
    from serving.kubernetes.export import files

    with errors():
        contents = files(Installation(**given))
        with show_progress(f"writing to {folder}"):
            written = export(folder, contents)
    for path in written:
        click.echo(path)
