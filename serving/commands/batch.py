"""The command that answers a file of inputs: batch."""

import json
from pathlib import Path

import click

from serving.commands import options
from serving.commands.errors import errors
from serving.commands.progress import show_progress

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("name")
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUTPUT", type=_FILE)
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="A running server.")
@options.as_json
def batch(name: str, source: Path, target: Path, url: str, as_json: bool) -> None:
    """Answer all rows of INPUT by the model NAME of a running server, and write them to OUTPUT in the same order.

    Both are .jsonl, .csv or .parquet files. A batch that was interrupted goes on when it is started again. Rows that
    cannot be answered get null, and stand in OUTPUT.errors.jsonl with the reason.
    """
    from serving.client.batch import BatchRun
    from serving.client.server_client import Remote

    with errors(), show_progress(f"{source}") as announce:
        work = BatchRun(Remote(url), name, source, target)
        done, bad = work.run(lambda rows: announce(f"{rows:,} rows"))
    if as_json:
        click.echo(json.dumps({"rows": done, "bad": bad, "errors": str(work.errors) if bad else None}))
    else:
        click.echo(f"{done} rows, {bad} of them bad{f': {work.errors}' if bad else ''}")
