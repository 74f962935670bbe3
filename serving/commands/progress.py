"""Progress of long work, shown on a terminal: one line on standard error that goes away at the end.

A pipe gets nothing of it: standard output is the command's result, and standard error may be a log file.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Announce = Callable[[str], None]
"""Called with what the work is at, in a few words."""


@contextmanager
def show_progress(what: str, stream: TextIO | None = None) -> Iterator[Announce]:
    """Show `what`, the step that was announced last and the seconds so far, while the block runs.

    stream: to show it on, standard error by default; one that is no terminal gets nothing.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield _keep_quiet
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream), transient=True, redirect_stdout=False) as bar:
        line = bar.add_task(what, total=None)
        yield lambda step: bar.update(line, description=f"{what}: {step}")


def _keep_quiet(step: str) -> None:
    """Announce nothing."""
