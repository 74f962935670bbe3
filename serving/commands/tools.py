"""The commands around a server: status, monitoring, demo, bench."""

import json
import sys
from pathlib import Path

import click

from serving.commands import options
from serving.commands.errors import errors
from serving.commands.printable import printable
from serving.commands.progress import show_progress
from serving.commands.serve import source_folder
from serving.runtime.address import check_address


@click.command()
@click.argument("url", default="http://127.0.0.1:3000")
@options.as_json
def status(url: str, as_json: bool) -> None:
    """Show what the server at URL serves: models, versions, states, aliases, engines, memory, recent swaps."""
    import time

    from serving.client.server_client import Remote
    from serving.commands.status_text import render_status
    from serving.errors import RemoteError

    with errors():
        found = Remote(url).status()
        try:
            text = json.dumps(found) if as_json else printable(render_status(found, time.time()))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, RecursionError) as error:
            raise RemoteError(
                f"{url} tells its state in a form that is not known ({type(error).__name__}: {error}): see that it is "
                "a Headwaiter of this release, or use --json"
            ) from error
    click.echo(text)


@click.group()
def monitoring() -> None:
    """Configuration of Prometheus, Alertmanager and Grafana for a server."""


@monitoring.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--target", "targets", multiple=True, metavar="HOST:PORT", help="A server; default: localhost:3000.")
@click.option("--prometheus", help="Prometheus' address for Grafana.  [default: http://localhost:9090]")
@click.option("--tempo", default="", help="Address of a Grafana Tempo that has the servers' traces.")
@click.option(
    "--availability",
    type=options.FiniteRange(),
    help="Share of requests without a 5xx that is promised.  [default: 0.999]",
)
@click.option("--latency-seconds", type=options.FiniteRange(), help="How long an answer may take.  [default: 0.5]")
@click.option(
    "--latency-share", type=options.FiniteRange(), help="Share of answers that take no longer.  [default: 0.99]"
)
def export_command(
    folder: Path, targets: tuple[str, ...], prometheus: str | None, tempo: str, **objectives: float | None
) -> None:
    """Write configuration, rules, an Alertmanager example, dashboards and provisioning to DIR, ready to mount."""
    from monitoring.export import PROMETHEUS, TARGET, export, files
    from monitoring.objectives import Objectives

    try:
        promised = Objectives(**{name: value for name, value in objectives.items() if value is not None})
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with show_progress(f"writing to {folder}"):
        written = export(folder, files(targets or (TARGET,), prometheus or PROMETHEUS, promised, tempo))
    for path in written:
        click.echo(path)


_port = click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
_home = click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="A folder to keep; default: removed."
)


@click.group(invoke_without_command=True)
@_port
@click.option("--once", is_flag=True, help="End when everything has been shown; otherwise stay up until Ctrl-C.")
@_home
@click.pass_context
def demo(context: click.Context, port: int, once: bool, home: Path | None) -> None:
    """Fine-tune a small model, log it, serve it, ask it, promote a second version and roll back."""
    if context.invoked_subcommand is not None:
        return
    from serving.demo.tour import run_demo

    with errors():
        check_address("127.0.0.1", port)
        run_demo(port=port, once=once, home=home, say=click.echo)


@demo.command("rollout")
@_port
@_home
@click.option("--rate", type=options.FiniteRange(1, 10_000), default=200, show_default=True, help="Requests a second.")
def demo_rollout(port: int, home: Path | None, rate: float) -> None:
    """Roll out four candidates on a real server: three have faults and are caught, one is as good and promoted."""
    from serving.demo.rollout_tour import run_rollouts

    with errors():
        check_address("127.0.0.1", port)
        run_rollouts(port=port, rate=rate, home=home, say=click.echo)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Run the benchmarks of a source checkout; ARGUMENTS go to `python -m bench`."""
    import subprocess

    root = Path(source_folder())
    if not (root / "bench").is_dir():
        raise click.ClickException("the benchmarks are not in the package: run this in a checkout of the source")
    sys.exit(subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=root, check=False).returncode)
