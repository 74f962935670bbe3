"""A server on this machine for as long as a block runs: for examples, notebooks, and tests of one's own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request

from registry.child_process import module_command, python_path
from serving.errors import EngineError
from serving.runtime.foreign_http import read_answer

START_SECONDS = 120.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05
READY_SECONDS, MAX_READY_BYTES = 1.0, 1 << 16
"""Of an answer to whether it is ready."""
SHOWN_CHARACTERS = 2000
"""Of the log of a server that did not start."""
OWNER_LOOK_SECONDS = 0.5
_END_WITH_OWNER = f"""
import os, signal, sys, time
owner, server = map(int, sys.argv[1:])
while os.getppid() == owner:
    time.sleep({OWNER_LOOK_SECONDS})
try:
    os.kill(server, signal.SIGTERM)
except ProcessLookupError:
    pass
"""
"""The program of a process that ends the server once its own parent has ended, however that was."""
_OF_OTHER_SERVERS = (
    "HEADWAITER_KEYS_FILE",
    "HEADWAITER_TLS_CERT",
    "HEADWAITER_TLS_KEY",
    "HEADWAITER_ADMIN_PORT",
    "HEADWAITER_GRPC_PORT",
)
"""Variables that are meant for another server of the user's."""


@contextmanager
def run_server(*models: str, port: int = 0, log: Path | None = None) -> Iterator[str]:
    """Serve these models, as `headwaiter serve` does, and give the server's address once it is ready.

    port: of 127.0.0.1; 0 for a free one. log: the file of its output; default: a temporary one. The server gets this
    process' environment, but for keys, certificates and the admin port. It ends with the block, and with this process.
    Raises EngineError, which has the end of the log, if the server is not ready within 120 s.
    """
    port = port or _free_port()
    environ = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_SERVERS}
    command = module_command("serving.commands.main", "serve", *models, "--port", str(port))
    with tempfile.TemporaryDirectory(prefix="headwaiter-server-") as folder:
        log = log or Path(folder, "server.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environ | {"PYTHONPATH": python_path()},
            )
        guard = None
        try:
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _END_WITH_OWNER, str(os.getpid()), str(process.pid)],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url
        finally:
            try:
                _stop(process)
            finally:
                if guard is not None:
                    guard.kill()
                    guard.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"the server ended with status {process.returncode}:\n{_end_of(log)}")
        with suppress(OSError, HTTPException, ValueError):
            read_answer(Request(f"{url}/readyz"), READY_SECONDS, MAX_READY_BYTES)  # noqa: S310  # http, as above
            return
        time.sleep(POLL_SECONDS)
    raise EngineError(f"the server was not ready within {START_SECONDS:.0f} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-SHOWN_CHARACTERS:]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server; kill its process group if it does not end by itself."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
