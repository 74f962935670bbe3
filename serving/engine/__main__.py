"""An engine's process, `python -m serving.engine ORDER` or forked by the template: load, report, serve."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import zmq

from registry.errors import DigestMismatch, UnsafeArtifact
from registry.redaction import describe_error
from serving.engine.large_modules import WITH_TORCH, import_modules, import_transformers
from serving.runtime.logs import set_up_logging
from serving.runtime.priority import (
    OomScore,
    low_session_priority,
    lower_process_priority,
    own_autogroup,
    run_at_low_priority,
)
from serving.runtime.run_folder import RUN_VARIABLE
from serving.runtime.server_process import LOOK_SECONDS, ServerProcess
from serving.wire.engine_orders import STOP_SIGNAL, EngineOrder, EngineReport, order_path
from serving.wire.heartbeat import heartbeat_path
from serving.wire.report_file import write_report

if TYPE_CHECKING:
    from serving.engine.loading import Loaded

logger = logging.getLogger("headwaiter.engine")

FULL_SECONDS = 0.2
"""Between two tries to write a report on a full disk."""
MAX_STOP_SECONDS = 30.0
"""How long an engine without a server may take to answer its accepted rows."""


class Lease:
    """Ends the engine once its server is gone or its order is deleted. A thread watches both, without the manager.

    An engine that is still loading exits at once. A serving one is asked to stop, and exits after `MAX_STOP_SECONDS`.
    """

    def __init__(self, order: EngineOrder) -> None:
        self._server = ServerProcess(Path(order.run))
        self._order = Path(order_path(order.report))
        self._stop: Callable[[], None] | None = None
        threading.Thread(target=self._watch, name="headwaiter-lease", daemon=True).start()

    def on_end(self, stop: "Callable[[], None]") -> None:
        """Call `stop` at the end instead of exiting at once."""
        self._stop = stop

    def _watch(self) -> None:
        while not self._server.is_gone() and self._order.exists():
            time.sleep(LOOK_SECONDS)
        if self._stop is not None:
            self._stop()
            time.sleep(MAX_STOP_SECONDS)
        os._exit(0)


def _load(order: EngineOrder) -> "Loaded":
    import_modules(WITH_TORCH)
    from serving.engine.loading import load_engine, load_kept
    from serving.engine.process_state import prepare_graphs, prepare_process

    prepare_graphs()
    loaded = load_kept(order)
    if loaded is None:
        import_transformers()
        prepare_process()
        loaded = load_engine(order)
    return loaded


def _load_beside_others(order: EngineOrder) -> "Loaded":
    """Load at low priority, and keep the graph at once. While it is written nothing else runs in this process: torch
    holds the GIL, and in a thread of low priority for long.
    """

    def load_and_keep() -> "Loaded":
        loaded = _load(order)
        if loaded.keep is not None:
            loaded.keep()
        return replace(loaded, keep=None)

    with low_session_priority(own_autogroup()):
        return run_at_low_priority(load_and_keep)


def listen(context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> "zmq.Socket[bytes]":
    """A socket at an `ipc://` address that takes connections of this user's processes only (SO_PEERCRED)."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())
    socket.bind(address)
    with suppress(FileNotFoundError):  # not of a Unix socket, in benchmarks
        Path(address.removeprefix("ipc://")).chmod(0o600)
    return socket


def tell(path: Path, report: EngineReport) -> None:
    """Write the report, once there is room on the disk: the manager takes an engine that ends without one for broken.

    Raises OSError for other troubles.
    """
    while True:
        try:
            return write_report(path, report)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(FULL_SECONDS)


def main(path: str, oom_score: OomScore | None = None) -> None:
    """Entry point of the process: load the version of the order in the file `path`, report, serve until told to stop.

    oom_score: that of the template of a forked engine. Returns at once where the order is gone.
    """
    set_up_logging()
    oom_score = oom_score or OomScore()
    oom_score.become("loading")
    try:
        order = msgspec.json.decode(Path(path).read_bytes(), type=EngineOrder)
    except FileNotFoundError:  # it is wanted no more
        return
    os.environ[RUN_VARIABLE] = order.run
    report = Path(order.report)
    lease = Lease(order)
    tell(report, EngineReport(pid=os.getpid(), state="loading"))
    try:
        loaded = _load_beside_others(order) if order.low_priority else _load(order)
    except Exception as error:  # whatever it is, the manager shows it
        message = describe_error(error)
        is_damaged = isinstance(error, DigestMismatch | UnsafeArtifact)
        tell(report, EngineReport(pid=os.getpid(), state="failed", error=message, is_damaged=is_damaged))
        sys.stderr.write(f"headwaiter engine {order.model}/{order.version}: {message}\n")
        end(1)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    socket = listen(context, order.address)
    from serving.engine.assembly import make_engine  # with the large modules, which are imported by now
    from serving.engine.heart import Heart

    heart = Heart(heartbeat_path(order.address, os.getpid()))
    engine = make_engine(loaded.model, loaded.cost, socket, loaded.meter, loaded.pool, heart)
    signal.signal(STOP_SIGNAL, lambda *_: engine.stop())
    lease.on_end(engine.stop)
    # A supervisor signals the whole tree at once; the fronts' accepted requests need the engine until the manager says.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if loaded.yields_cores:
        lower_process_priority()
    oom_score.become("serving")
    tell(report, loaded.report)
    if loaded.keep is not None:
        threading.Thread(target=loaded.keep, name="headwaiter-keep", daemon=True).start()
    try:
        engine.run()
    except Exception as error:  # it is replaced, and the fronts send the rows that it has to its successor
        message = describe_error(error)
        logger.critical("the engine ends: %s", message, extra={"fields": loaded.meter.fields})
        with suppress(OSError):  # its end says enough, and its rows wait for the next one
            write_report(report, EngineReport(pid=os.getpid(), state="failed", error=message))
        end(1)
    heart.close()
    context.destroy(linger=1000)
    end(0)


def end(status: int) -> NoReturn:
    """End the process without the end of its interpreter.

    That writes to every object, so a forked engine would copy the memory that it shares, 200 MB, to leave. And a device
    that is broken, or a pass that hangs, would hold it up.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
