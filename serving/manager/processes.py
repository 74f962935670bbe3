"""An engine's process as the operating system and the template tell of it: spawned, forked, or adopted."""

import logging
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec
import psutil

from serving.wire.engine_orders import ForkReply

logger = logging.getLogger("headwaiter.manager")

UNKNOWN_STATUS = 256
"""Stands for the exit status of a process whose parent did not tell it; no process ends with it."""
FORK_SECONDS = 120.0
"""How long the template may take to fork an engine. It includes the imports of a template that has just started: 4 s on
an idle core, up to a minute where all cores are busy."""
TELL_SECONDS = 1.0
"""How long after an engine's end the template may take to tell how it ended."""


class Process(Protocol):
    """An operating system's process, the manager's child or not."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def returncode(self) -> int | None: ...  # noqa: D102
    def poll(self) -> int | None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def send_signal(self, sig: int, /) -> None: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int | None: ...  # noqa: D102


class Adopted:
    """A running process that is not this manager's child. Its exit status cannot be read: it is UNKNOWN_STATUS."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.returncode: int | None = None

    @classmethod
    def find(cls, pid: int, path: str) -> "Adopted | None":
        """The process `pid`, if it runs and its command line has `path`: an engine's order or a template's socket."""
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if path in process.cmdline():
                return cls(process)
        return None

    def poll(self) -> int | None:
        """UNKNOWN_STATUS once it has ended, None before."""
        if self.returncode is None and not is_alive(self._process):
            self.returncode = UNKNOWN_STATUS
        return self.returncode

    def kill(self) -> None:
        """End it now."""
        with suppress(psutil.NoSuchProcess):
            self._process.kill()

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal, if it still runs."""
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(sig)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended, at most `timeout` seconds."""
        with suppress(psutil.TimeoutExpired):
            self._process.wait(timeout)
        return self.poll()


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs. A zombie, which waits to be reaped, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Forked:
    """An engine that the template forks, and whose process id and exit status the template tells.

    pid: 0 until it is forked. Where the template ends or refuses instead, or takes longer than FORK_SECONDS, the engine
    is spawned. Where the template ends later, the exit status is UNKNOWN_STATUS.
    """

    def __init__(self, link: socket.socket, spawn: Callable[[], Process]) -> None:
        """link: the connection to the template, with the request sent. spawn: starts the engine without a template."""
        link.setblocking(False)
        self._link: socket.socket | None = link
        self._spawn = spawn
        self._process: Process | None = None
        self._pid = 0
        self._returncode: int | None = None
        self._fork_until = time.monotonic() + FORK_SECONDS
        self._tell_until = 0.0

    @property
    def pid(self) -> int:
        """Id of the process, also of one that had ended before its id was told; 0 until it is forked."""
        self._listen()
        return self._process.pid if self._process is not None else self._pid

    @property
    def returncode(self) -> int | None:
        """As the last `poll` said."""
        return self._returncode

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or is not yet forked."""
        self._listen()
        if self._returncode is None and self._process is not None:
            status = self._process.poll()
            if self._link is None:
                self._returncode = status
            elif status is not None:  # the template will tell; it may be stopped, though
                self._tell_until = self._tell_until or time.monotonic() + TELL_SECONDS
                if time.monotonic() > self._tell_until:
                    self._end(status)
        return self._returncode

    def kill(self) -> None:
        """End it now. One that is not forked yet will not be, or leaves as it finds no order."""
        self._listen()
        if self._process is not None:
            self._process.kill()
        elif self._returncode is None:
            self._end(-signal.SIGKILL)

    def send_signal(self, sig: int, /) -> None:
        """Send it a signal, if it runs."""
        self._listen()
        if self._process is not None:
            self._process.send_signal(sig)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended, at most `timeout` seconds."""
        if self.poll() is None and self._process is not None:
            has_ended = self._process.wait(timeout) is not None
            if has_ended and self._link is not None:
                waiting = select.poll()
                waiting.register(self._link, select.POLLIN)
                waiting.poll(TELL_SECONDS * 1000)
        return self.poll()

    def _listen(self) -> None:
        """Take what the template has told since the last call."""
        while self._link is not None:
            try:
                text = self._link.recv(4096)
            except BlockingIOError:
                if self._process is None and time.monotonic() > self._fork_until:
                    self._do_without()
                return
            except OSError:
                text = b""
            if not text:
                self._do_without()
                return
            try:
                reply = msgspec.json.decode(text, type=ForkReply)
            except (ValueError, msgspec.DecodeError):
                logger.error("the template told what is no reply, it is not asked any more")
                self._do_without()
                return
            if reply.status is not None:
                self._end(reply.status)
            else:
                self._pid = reply.pid
                with suppress(psutil.NoSuchProcess):  # it has ended already, its status is told next
                    self._process = Adopted(psutil.Process(reply.pid))

    def _do_without(self) -> None:
        """The template tells no more."""
        self._hang_up()
        if self._process is not None or self._returncode is not None:
            return
        logger.warning("no engine could be forked, it is spawned")
        try:
            self._process = self._spawn()
        except OSError as error:
            logger.error("an engine could not be spawned: %s", error)
            self._returncode = UNKNOWN_STATUS

    def _end(self, status: int) -> None:
        self._returncode = status
        self._hang_up()

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
