"""The template: a process that has imported what every engine needs, and forks an engine for each order.

`python -m serving.engine.template SOCKET` inherits its listening socket as standard input. Imports take seconds, a fork
takes milliseconds, and forked engines share the memory of what is imported. A fork copies the calling thread only, so
this process starts no thread, runs no tensor operation and does not initialise CUDA.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from serving.engine.__main__ import main as run_engine
from serving.engine.early_imports import import_for, import_wanted
from serving.runtime.command_line import fits_command_line, show_command_line
from serving.runtime.logs import set_up_logging
from serving.runtime.peer import is_own_user
from serving.runtime.priority import OomScore, run_at_low_priority
from serving.runtime.server_process import LOOK_SECONDS, ServerProcess
from serving.wire.engine_orders import MAX_REQUEST_BYTES, ForkReply, ForkRequest, read_report

logger = logging.getLogger("headwaiter.template")

LOAD_TIME_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_", "LD_")
"""Prefixes of variables that native libraries read when they are loaded, so that a fork cannot change them."""
LEAVE_SECONDS = 6.0
"""A thread that has been joined is still the kernel's for a moment. Where all cores are busy, one of low priority waits
until it gets a core to end on."""


class Template:
    """Forks engines and tells the manager how each of them ends. `serve` returns in a forked engine only."""

    def __init__(self, listener: socket.socket, folder: Path) -> None:
        """listener: takes connections, one for each engine. folder: of the orders, in the server's run folder."""
        self._listener = listener
        self._folder = folder
        self._server = ServerProcess(folder.parent)
        self._environ = native_variables(dict(os.environ))
        self._engines: dict[int, socket.socket] = {}
        self._waking, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for readable in (listener, self._waking, self._woken):
            readable.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._waking, selectors.EVENT_READ)

    def serve(self) -> str:
        """Fork engines until the server or the run folder is gone, then exit. Returns the order's path in an engine."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the selector
        signal.set_wakeup_fd(self._woken.fileno())
        while self.is_wanted():
            for key, _ in self._selector.select(LOOK_SECONDS):
                if key.fileobj is self._listener:
                    with suppress(BlockingIOError):
                        link = self._listener.accept()[0]
                        link.setblocking(False)
                        self._selector.register(link, selectors.EVENT_READ)
                elif key.fileobj is self._waking:
                    self._waking.recv(4096)
                elif isinstance(key.fileobj, socket.socket):
                    order = self._answer(key.fileobj)
                    if order is not None:
                        return order
            self._reap()
        sys.exit(0)

    def is_wanted(self) -> bool:
        """Whether the server and the folder of its orders are there."""
        return not self._server.is_gone() and self._folder.is_dir()

    def _answer(self, link: socket.socket) -> str | None:
        """Fork the engine that is asked for. Returns the path of its order in the engine, None in the template.

        A request that is refused is answered by the end of the connection.
        """
        self._selector.unregister(link)
        output: list[int] = []
        try:
            text, output, _, _ = socket.recv_fds(link, MAX_REQUEST_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
            request = msgspec.json.decode(text, type=ForkRequest)
        except (OSError, ValueError, msgspec.DecodeError):
            request = None
        order = None
        if (
            request is not None
            and is_own_user(link)
            and len(output) == 2
            and not has_hung_up(link)
            and self._fits(request)
        ):
            order = self._fork(request, link, output)
        else:
            link.close()
        for descriptor in output:
            os.close(descriptor)
        return order

    def _fork(self, request: ForkRequest, link: socket.socket, output: list[int]) -> str | None:
        """Fork the engine; returns as `_answer`. output: descriptors of its standard output and error."""
        import_for(Path(request.order), self.import_modules)
        check_forkable()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            link.close()
            self._become_engine(request, output)
            return request.order
        self._engines[pid] = link
        tell(link, ForkReply(pid=pid))
        return None

    def import_modules(self, work: Callable[[], None]) -> None:
        """Import by `work`, at low priority while an engine answers, which imports may not starve."""
        if is_serving(self._folder):
            run_at_low_priority(work)
        else:
            work()

    def _fits(self, request: ForkRequest) -> bool:
        """Whether the engine's environment and command line are possible in a forked process."""
        differing = native_variables(request.environ).items() ^ self._environ.items()
        if differing:
            names = ", ".join(sorted({name for name, _ in differing}))
            logger.warning("no engine is forked: its environment differs in %s", names)
            return False
        # A manager that adopts the engine knows it by the order in its command line.
        if not fits_command_line(command_of(request.order)):
            logger.warning("no engine is forked: the path of its order is longer than the template's socket's")
            return False
        return True

    def _become_engine(self, request: ForkRequest, output: list[int]) -> None:
        """Undo in the engine what is the template's own."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for own in (self._listener, self._waking, self._woken, *self._engines.values()):
            own.close()
        for standard, descriptor in enumerate(output, 1):
            os.dup2(descriptor, standard)
        with suppress(OSError):
            os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environ)
        show_command_line(command_of(request.order))
        reseed()

    def _reap(self) -> None:
        """Reap the engines that have ended, and tell their managers how."""
        for pid, link in list(self._engines.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                tell(link, ForkReply(pid=pid, status=os.waitstatus_to_exitcode(status)))
                self._engines.pop(pid).close()


def command_of(order: str) -> list[str]:
    """The command line of a spawned engine with this order."""
    return [*sys.orig_argv[:-2], "serving.engine", order]


def tell(link: socket.socket, reply: ForkReply) -> None:
    """Send the reply, unless the manager is gone."""
    with suppress(OSError):
        link.send(msgspec.json.encode(reply))


def has_hung_up(link: socket.socket) -> bool:
    """Whether the manager has closed its end, as it wants the engine no more."""
    try:
        return not link.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def native_variables(environ: dict[str, str]) -> dict[str, str]:
    """The variables of `environ` that must be set before a process starts."""
    return {name: value for name, value in environ.items() if name.startswith(LOAD_TIME_PREFIXES)}


def check_forkable() -> None:
    """Exit where a forked process would not work: other threads run, or CUDA is initialised."""
    import torch

    deadline = time.monotonic() + LEAVE_SECONDS
    while (threads := count_threads()) > 1:
        if time.monotonic() > deadline:
            sys.exit(f"headwaiter template: it has {threads} threads, and a fork copies only one")
        time.sleep(0.001)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        sys.exit("headwaiter template: CUDA is initialised, and a forked process could not use it")


def count_threads() -> int:
    """The kernel's threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def is_serving(folder: Path) -> bool:
    """Whether an engine answers."""
    reports = map(read_report, folder.glob("*.json"))
    return any(report is not None and report.state == "ready" for report in reports)


def reseed() -> None:
    """Draw new seeds for the random generators that a fork copies. Python's own `random` does it by itself."""
    import numpy
    import torch

    numpy.random.seed()  # the global generator is what is copied
    torch.seed()


def main(path: str) -> None:
    """Entry point of the process. path: the socket's, by whose folder the template knows its server."""
    set_up_logging()
    oom_score = OomScore()
    oom_score.become("loading")  # engines can be spawned without it, so it goes before those that serve
    # A supervisor signals the whole tree at once; engines need the template until the manager or the server ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open() as null:
        os.dup2(null.fileno(), 0)
    folder = Path(path).parent
    template = Template(listener, folder)
    if not template.is_wanted():  # in a working directory that is gone, MKL ends the process as torch is imported
        return
    gc.disable()
    template.import_modules(lambda: import_wanted(folder))
    check_forkable()
    order = template.serve()
    gc.enable()
    run_engine(order, oom_score)


if __name__ == "__main__":
    main(sys.argv[1])
