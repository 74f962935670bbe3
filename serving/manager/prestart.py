"""Prestart: `headwaiter serve` starts the template before BentoML's processes, so that it imports torch while the
manager starts. The manager finds it by its report, and starts it where there is none.
"""

import errno
import logging
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from registry.child_process import module_command
from serving.manager.last_live import LastLive
from serving.manager.launch import engine_environ
from serving.manager.processes import Adopted, Process
from serving.runtime.backoff import backoff_seconds
from serving.runtime.limits import oom_watch
from serving.runtime.run_folder import ENGINES
from serving.runtime.watchdog import LOOK_SECONDS, Watchdog
from serving.settings import ServingSettings
from serving.wire.engine_orders import TEMPLATE_SOCKET, WANTED_FILE, EngineReport, WantedVersions, read_report
from serving.wire.report_file import write_report

logger = logging.getLogger("headwaiter.manager")

REPORT = "template.json"
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 3600.0
STABLE_SECONDS = 60.0
"""A template that lived this long has its predecessors forgotten."""


def find_wanted(settings: ServingSettings) -> list[Path]:
    """The artifacts in the cache that the server's references were last live with: engines of them are forked first."""
    last = LastLive(settings.registry)
    versions = [last.recall(each) for each in settings.models] if settings.models else last.recall_all()
    return [settings.registry.cache / each.digest for each in versions if each is not None and each.digest]


def start_template(run: Path, wanted: Sequence[Path] = ()) -> "subprocess.Popen[bytes]":
    """Start the template, in the run folder of its server; raises OSError where that cannot be.

    wanted: artifacts for whose engines it imports ahead.

    FileExistsError where one is there already. Its socket takes requests at once; imports come before the first answer.
    """
    if sys.platform != "linux":
        raise OSError("engines are forked on Linux only")
    path = run / ENGINES / TEMPLATE_SOCKET
    if has_template(path):
        raise FileExistsError(f"a template answers at {path}")
    path.unlink(missing_ok=True)
    write_report(run / ENGINES / WANTED_FILE, WantedVersions(tuple(map(str, wanted))))
    command = module_command("serving.engine.template", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(socket.SOMAXCONN)
        # In a working directory that stays: oneMKL ends a process that imports torch where its own one was removed.
        process = subprocess.Popen(command, env=engine_environ(), stdin=listener.fileno(), cwd="/")
    write_report(run / ENGINES / REPORT, EngineReport(pid=process.pid, state="waiting"))
    return process


def has_template(path: Path) -> bool:
    """Whether a template answers at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.setblocking(False)
        return link.connect_ex(str(path)) in (0, errno.EAGAIN)  # or its queue is full


def find_template(run: Path) -> Adopted | None:
    """The template of the run folder's server, if it runs."""
    found = read_report(run / ENGINES / REPORT)
    return Adopted.find(found.pid, str(run / ENGINES / TEMPLATE_SOCKET)) if found is not None else None


class TemplateKeeper:
    """Keeps a template running for a server. Not for use from several threads."""

    def __init__(self, run: Path, hang_seconds: float = math.inf, find: Callable[[], Sequence[Path]] = tuple) -> None:
        """hang_seconds: how long the template may stand still while an engine is to be forked.

        find: the artifacts for whose engines a new template imports ahead.
        """
        self._find = find
        self._run = run
        self._watchdog = Watchdog(hang_seconds)
        self._awaited = 0
        self._look_at = 0.0
        self._process: Process | None = None
        self._starts = 0
        self._started = 0.0
        self._start_at = 0.0

    @property
    def pid(self) -> int:
        """Id of the template's process, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def keep(self, now: float, *, is_awaited: bool = False) -> None:
        """Find the template or start it, and start it again where it has ended, later and later.

        is_awaited: whether an engine is to be forked. A template that stands still meanwhile is killed, and the engine
        is spawned.
        """
        if self._process is None and not self._starts:
            self._process = find_template(self._run)
        if self._process is not None:
            if self._process.poll() is None:
                self._look(now, is_awaited=is_awaited)
                return
            self._note_end(now)
        if now >= self._start_at:
            self._starts += 1
            self._started = now
            with suppress(OSError):  # engines are spawned meanwhile
                self._process = start_template(self._run, self._find())
            self._start_at = now + backoff_seconds(FIRST_BACKOFF_SECONDS, self._starts, MAX_BACKOFF_SECONDS)

    def close(self) -> None:
        """End the template."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def _look(self, now: float, *, is_awaited: bool) -> None:
        assert self._process is not None
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        self._awaited += not is_awaited
        if self._watchdog.hangs(self._process.pid, self._awaited, 0.0, now):
            logger.error("the template hangs and is killed: %s", self._watchdog.describe())
            self._process.kill()

    def _note_end(self, now: float) -> None:
        self._process = None
        oom_watch().explains_one()  # else the kernel's kill of it would explain an engine's end
        if now - self._started > STABLE_SECONDS:
            self._starts, self._start_at = 0, 0.0
