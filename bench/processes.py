"""Starts a server, waits until it is ready, and stops it with all of its children."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from serving.manager.launch import KEPT_MEMORY

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages; every process starts in it."""
JSON_SENT = {"Content-Type": "application/json"}


class BenchError(Exception):
    """A process of the benchmark failed; the message holds the end of its log."""


class BeyondBounds(BenchError):
    """A run was outside of its bounds. section: of the report, to be printed all the same."""

    def __init__(self, message: str, section: str) -> None:
        super().__init__(message)
        self.section = section


def check_bounds(section: str, bounds: Mapping[str, bool], *, is_full: bool) -> str:
    """Return the section. Raises BeyondBounds where a run of full length has not kept a bound.

    bounds: what to say where one was not kept → whether it was. is_full: whether the run was long enough to tell.
    """
    broken = [said for said, is_kept in bounds.items() if not is_kept]
    if is_full and broken:
        raise BeyondBounds(f"beyond its bounds: {'; '.join(broken)}", section)
    return section


@dataclass(frozen=True)
class Server:
    """A running server. url: where a text is posted. field: the body's key. in_list: whether it takes a list.

    pid: its first process, 0 where that does not matter.
    """

    name: str
    url: str
    field: str = "inputs"
    in_list: bool = False
    pid: int = 0

    def request(self, text: str | list[str]) -> dict[str, object]:
        """The JSON body that asks for one text, or several."""
        return {self.field: [text] if self.in_list else text}


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_module(arguments: Sequence[str], environment: Mapping[str, str], python: str = sys.executable) -> str:
    """Standard output of `python -m …`, which keeps memory as an engine does. Blocks; raises BenchError if it fails."""
    command, kept = [python, "-m", *arguments], {**KEPT_MEMORY, **environment}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"python -m {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


@contextlib.contextmanager
def serving(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    ready_url: str,
    log: Path,
    wait_seconds: float = 180,
    *,
    python: str = sys.executable,
    ready_body: bytes | None = None,
    ready_headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[int]:
    """Run `python -m …` while the block runs; it is entered, with the process' id, once `ready_url` answers 200.

    ready_body: JSON that is posted to it; default: it is got. ready_headers: sent with it, a key for one. Raises
    BenchError where it never is.
    """
    with running(arguments, environment, log, python) as process:
        _wait_until_ready(
            process, urllib.request.Request(ready_url, ready_body, JSON_SENT | dict(ready_headers)), log, wait_seconds
        )
        yield process.pid


@contextlib.contextmanager
def running(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, python: str = sys.executable
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `python -m …` while the block runs, and stop its whole tree then."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", *arguments],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _stop(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes], asked: urllib.request.Request, log: Path, wait_seconds: float
) -> None:
    deadline = time.monotonic() + wait_seconds
    while not _answers(asked):
        has_ended = process.poll() is not None
        if has_ended or time.monotonic() > deadline:
            state = "ended" if has_ended else f"was not ready after {wait_seconds:.0f} s"
            raise BenchError(f"{process.args!r} {state}:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def _answers(asked: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(asked, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def _stop(process: subprocess.Popen[bytes], wait_seconds: float = 20) -> None:
    """SIGTERM, then SIGKILL for every process of the tree that is left; its children have sessions of their own."""
    try:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(wait_seconds)
    for left in psutil.wait_procs(tree, timeout=2)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()
