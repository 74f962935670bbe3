"""Progress of a server that was started on a terminal: one line there, until all of its versions are loaded.

A process of its own, `python -m serving.commands.load_progress RUN`, because `headwaiter serve` becomes
BentoML's server. It reads the routing table like a front does, and ends with the server.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from registry.child_process import child_environ, module_command
from serving.runtime.server_process import ServerProcess
from serving.wire.routing_table import Table, TableFile

STEP_SECONDS = 0.2
CLEAR = "\x1b[K"
"""Terminals clear the rest of the line at this."""


def watch_loading(run: Path, stream: TextIO | None = None) -> None:
    """Start the process for the server with this run folder where standard error is a terminal; else do nothing.

    The process is detached, so the server need not reap it. Raises OSError where it cannot be started.
    """
    if not (sys.stderr if stream is None else stream).isatty():
        return
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    try:
        command = module_command("serving.commands.load_progress", str(run))
        subprocess.Popen(command, env=child_environ(), cwd=run)
    finally:
        os._exit(0)


def describe_loading(table: Table) -> str | None:
    """The versions that are still loading, in words; None once there are none."""
    if not table.is_known:
        return f"the registry cannot be read: {table.registry_error}" if table.registry_error else "starting"
    loading = [
        f"{name}/{version}"
        for name, model in table.models.items()
        for version, entry in model.versions.items()
        if entry.state == "loading"
    ]
    return f"loading {', '.join(loading)}" if loading else None


def show_loading(
    read: Callable[[], Table], is_gone: Callable[[], bool], stream: TextIO, pause: Callable[[], object]
) -> None:
    """Show what is loading until nothing is, or the server has ended. Blocks; `pause` is called between two looks.

    The cursor goes back to the line's beginning: a log line of another process then replaces this one.
    """
    began = time.monotonic()
    while not is_gone() and (what := describe_loading(read())) is not None:
        text = f"{what}, {time.monotonic() - began:.0f} s"
        stream.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}{CLEAR}\r")
        stream.flush()
        pause()
    stream.write(f"\r{CLEAR}")
    stream.flush()


def main() -> None:
    """Run with a run folder."""
    run = Path(sys.argv[1])
    server = ServerProcess(run)
    with suppress(KeyboardInterrupt):
        show_loading(TableFile(run).read, server.is_gone, sys.stderr, lambda: time.sleep(STEP_SECONDS))


if __name__ == "__main__":
    main()
