"""One template for all servers of a test process, so that torch is imported once and not once a server.

A server that finds a template at the socket in its run folder starts none. Engines are then the shared template's
children and not the server's.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import psutil

from serving.manager.prestart import start_template
from serving.runtime.run_folder import ENGINES, RunFolder
from serving.wire.engine_orders import TEMPLATE_SOCKET

MAX_SOCKET_PATH = 107
"""Of Linux' `sun_path`. An engine shows its order where the template's own command line is, which must be as long."""


@cache
def shared_template() -> tuple[psutil.Process, Path]:
    """The template, started by the first call, and its socket. It ends with this process."""
    home = Path(tempfile.mkdtemp(prefix="hw-template-"))
    short = len(str(home / "" / "1" / ENGINES / TEMPLATE_SOCKET)) + 1
    run = home / ("x" * (MAX_SOCKET_PATH - short)) / "1"
    RunFolder.make(run)
    process = start_template(run)

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)

    atexit.register(end)
    return psutil.Process(process.pid), run / ENGINES / TEMPLATE_SOCKET


def lend_template(run: Path) -> None:
    """Put the template's socket where the server that gets this run folder looks for its own."""
    (run / ENGINES / TEMPLATE_SOCKET).symlink_to(shared_template()[1])


def forked_for(run: Path) -> list[psutil.Process]:
    """The engines of the server with this run folder that the shared template has forked."""
    if not shared_template.cache_info().currsize:
        return []
    return [found for found in shared_template()[0].children() if is_of(found, run)]


def is_of(engine: psutil.Process, run: Path) -> bool:
    """Whether its command line names an order in this run folder."""
    try:
        return any(part.startswith(f"{run}/") for part in engine.cmdline())
    except psutil.Error:
        return False
