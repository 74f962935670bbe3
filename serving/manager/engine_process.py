"""One engine process, as the manager sees it: start or adopt it, read its reports, notice its end, restart it with
back-off.
"""

import signal
import time
from pathlib import Path
from typing import Literal

import msgspec

from registry.redaction import redact
from serving.manager.launch import launch
from serving.manager.memory_reading import Memory, MemoryReader
from serving.manager.processes import UNKNOWN_STATUS, Adopted, Process
from serving.runtime.backoff import backoff_seconds
from serving.runtime.limits import oom_watch
from serving.wire.atomic_file import write_report
from serving.wire.engine_orders import STOP_SIGNAL, EngineOrder, EngineReport, order_path, read_report

EngineEvent = Literal["ready", "failed", "lost", "restarted"]
"""Events of an engine: it answers, it ended before it ever did, it ended after that, it was started again."""

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""An engine that served this long has its crashes forgotten."""


class EngineProcess:
    """An engine and its restarts. Not for use from several threads.

    report: what it last said; "failed" once it ended. was_ready: whether it ever served; only then is it restarted.
    crashes: in a row. restarts: since it was first started. is_out_of_memory: whether the kernel killed it for that.
    peak_bytes: the most memory of its own that `measure` has seen.
    """

    def __init__(self, order: EngineOrder) -> None:
        self.order = order
        self.report = EngineReport(pid=0, state="loading")
        self.was_ready = False
        self.is_stopping = False
        self.crashes = 0
        self.restarts = 0
        self.is_out_of_memory = False
        self.peak_bytes = 0
        self._oom = oom_watch()
        self._reader = MemoryReader()
        self._process: Process | None = None
        self._started = 0.0
        self._restart_at = 0.0

    @classmethod
    def adopt(cls, order: EngineOrder, report: EngineReport) -> "EngineProcess":
        """The engine that another manager started; one that has ended meanwhile is noticed by the next `poll`."""
        engine = cls(order)
        engine.report = report
        engine.was_ready = report.state == "ready"
        engine._started = time.monotonic()
        engine._process = Adopted.find(report.pid, order_path(order.report))
        if engine._process is None:
            engine._end("the engine ended", engine._started)
        return engine

    @property
    def pid(self) -> int:
        """Id of the process, 0 while there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process; it reports by itself. Raises OSError where the order or the process cannot be."""
        Path(self.order.report).unlink(missing_ok=True)
        path = order_path(self.order.report)
        write_report(Path(path), self.order)
        self._started = time.monotonic()
        self.report = EngineReport(pid=0, state="loading")
        self._process = launch(path)

    def poll(self, now: float) -> EngineEvent | None:
        """The event since the last call, or None."""
        if self._process is None:
            if self._restart_at and now >= self._restart_at and not self.is_stopping:
                self._restart_at, self.is_out_of_memory = 0.0, False
                self.restarts += 1
                try:
                    self.start()
                except OSError as error:  # a full disk, no process to be had: it is tried again
                    return self._end(f"the engine could not be started again: {redact(str(error))}", now)
                return "restarted"
            return None
        before = self.report.state
        found = read_report(Path(self.order.report))
        if found is not None and found.pid == self.pid:
            self.report = found
        if self._process.poll() is not None:
            return self._end(self._explain(self._process), now)
        if self.crashes and self.report.state == "ready" and now - self._started > STABLE_SECONDS:
            self.crashes = 0
        if self.report.state == "ready" and before != "ready":
            self.was_ready = True
            return "ready"
        return None

    def stop(self) -> None:
        """Ask it to finish what it has and leave."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            if self.report.state == "ready":
                self._process.send_signal(STOP_SIGNAL)
            else:
                self._process.kill()  # it has nothing to finish

    def kill(self) -> None:
        """End it now."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)
        Path(order_path(self.order.report)).unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Whether the process still exists."""
        return self._process is not None and self._process.poll() is None

    def memory_bytes(self) -> int:
        """Its memory now: resident memory but what it shares with the template, and on a GPU what it reported to hold.

        0 once it is gone.
        """
        memory = self._memory()
        return memory.resident - memory.inherited + self.report.device_bytes

    def measure(self) -> int:
        """The host memory that is its own now, without files that are mapped; remembers the most. 0 once it is gone."""
        own = self._memory().own
        self.peak_bytes = max(self.peak_bytes, own)
        return own

    def _memory(self) -> Memory:
        return self._reader.read(self.pid)

    def _explain(self, process: Process) -> str:
        """How the process ended."""
        status = process.returncode or 0
        is_unknown = status == UNKNOWN_STATUS
        self.is_out_of_memory = (is_unknown or status == -signal.SIGKILL) and self._oom.explains_one()
        if status == -signal.SIGKILL or self.is_out_of_memory:
            reason = "because memory ran out: " if self.is_out_of_memory else "("
            end = "" if self.is_out_of_memory else ")"
            return f"the engine was killed by signal 9 {reason}{self._oom.describe()}{end}"
        if is_unknown:
            return "the engine ended"
        return f"the engine was ended by signal {-status}" if status < 0 else f"the engine ended with status {status}"

    def _end(self, status: str, now: float) -> Literal["failed", "lost"]:
        self._process = None
        self.report = msgspec.structs.replace(self.report, state="failed", error=self.report.error or status)
        if not self.was_ready:
            return "failed"
        self.crashes = 1 if now - self._started > STABLE_SECONDS else self.crashes + 1
        self._restart_at = now + backoff_seconds(FIRST_BACKOFF_SECONDS, self.crashes, MAX_BACKOFF_SECONDS)
        return "lost"
