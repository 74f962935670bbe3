"""One engine process, as the manager sees it: start or adopt it, read its reports, notice its end, restart it with
back-off.
"""

import logging
import math
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
from serving.runtime.watchdog import LOOK_SECONDS, Watchdog
from serving.wire.engine_orders import STOP_SIGNAL, EngineOrder, EngineReport, order_path, read_report
from serving.wire.heartbeat import heartbeat_path, read_pulse, remove_beats
from serving.wire.report_file import write_report

logger = logging.getLogger("headwaiter.manager")

EngineEvent = Literal["ready", "failed", "lost", "restarted"]
"""Events of an engine: it answers, it ended before it ever did, it ended after that, it was started again."""

FETCH_SECONDS = 30.0
"""How long a restart waits at most for files that are fetched again. Untuned: then the version before may serve."""
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""An engine that served this long has its crashes forgotten."""
LOADING_FACTOR = 6.0
"""An engine that loads may stand still this many times as long as one that serves. Untuned: disks and imports wait."""
REAP_SECONDS = 1.0
"""An engine that hung is replaced this long after it was killed, even if its process has not ended: it does nothing."""
GROWTH_BYTES = 16 << 20
"""Memory that an engine takes as it serves, besides that of its forward passes: copies of the template's pages, buffers
of sockets. Measured: 13 MiB, see bench/NOTES.md, "Memory of an engine"."""
KILL_SECONDS = 10.0
"""A killed process that has not ended by then waits in the kernel for a device. It is given up, and may end later."""


class EngineProcess:
    """An engine and its restarts. Not for use from several threads.

    report: what it last said; "failed" once it ended. was_ready: whether it ever served; only then is it restarted.
    crashes: in a row. restarts: since it was first started. is_out_of_memory: whether the kernel killed it for that.
    peak_bytes: the most memory of its own that it has had or is expected to take, by the last `measure`.
    is_poisoned: whether it ended with a row that it computed alone, because another engine had ended with it. Such an
    end is no crash of the version's.
    """

    def __init__(self, order: EngineOrder) -> None:
        self.order = order
        self.report = EngineReport(pid=0, state="loading")
        self.was_ready = False
        self.is_stopping = False
        self.crashes = 0
        self.restarts = 0
        self.is_out_of_memory = False
        self.is_poisoned = False
        self._was_damaged = False
        self.peak_bytes = 0
        self._ready_bytes = 0
        self._oom = oom_watch()
        self._reader = MemoryReader()
        self._process: Process | None = None
        self._started = 0.0
        self._ready_at = math.inf
        self._restart_at = 0.0
        self._killed_at = 0.0
        self._hang = ""
        self._hung_at = 0.0
        self._look_at = 0.0
        self._watchdog = self._new_watchdog()

    @classmethod
    def adopt(cls, order: EngineOrder, report: EngineReport) -> "EngineProcess":
        """The engine that another manager started; one that has ended meanwhile is noticed by the next `poll`."""
        engine = cls(order)
        engine.report = report
        engine.was_ready = report.state == "ready"
        engine._watchdog = engine._new_watchdog()
        engine._started = engine._ready_at = time.monotonic()
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
        self._started = time.monotonic()
        Path(self.order.report).unlink(missing_ok=True)
        path = order_path(self.order.report)
        write_report(Path(path), self.order)
        self.report = EngineReport(pid=0, state="loading")
        self._hang = ""
        self._watchdog = self._new_watchdog()
        self._process = launch(path)

    def poll(self, now: float, *, files_are_coming: bool = False) -> EngineEvent | None:
        """The event since the last call, or None.

        files_are_coming: whether its files are being fetched again: a restart waits for them, but not for long.
        """
        if self._process is None:
            restart_at = self._restart_at + (FETCH_SECONDS if files_are_coming else 0.0)
            if self._restart_at and now >= restart_at and not self.is_stopping:
                self._restart_at, self.is_out_of_memory = 0.0, False
                self.restarts += 1
                # Rows wait for it, so its load yields to nobody.
                self.order = msgspec.structs.replace(self.order, low_priority=False)
                try:
                    self.start()
                except OSError as error:  # a full disk, no process to be had: it is tried again, and no crash
                    crashes = self.crashes
                    change = self._end(f"the engine could not be started again: {redact(str(error))}", now)
                    self.crashes = crashes
                    return change
                return "restarted"
            return None
        has_ended = self._process.poll() is not None  # before the report is read, which is its last word then
        before = self.report.state
        found = read_report(Path(self.order.report))
        if found is not None and found.pid == self.pid:
            self.report = found
        if has_ended:
            return self._end(self._hang or self._explain(self._process), now)
        if self._hangs(now) and now > self._hung_at + REAP_SECONDS:
            return self._end(self._hang, now)
        if self.crashes and self.report.state == "ready" and now - self._ready_at > STABLE_SECONDS:
            self.crashes = 0
        if self.report.state == "ready" and before != "ready":
            self.was_ready, self._ready_at = True, now
            self._watchdog = self._new_watchdog()
            remove_beats(self.order.address, but=self.pid)
            return "ready"
        return None

    def end_late_load(self, now: float, load_seconds: float) -> None:
        """Kill it where it was started again and has not come to answer in `load_seconds`."""
        if self._process is None or self.report.state == "ready" or now - self._started <= load_seconds or self._hang:
            return
        self._hang = f"loading again took longer than HEADWAITER_LOAD_SECONDS={load_seconds:g}"
        self._hung_at = now
        self._process.kill()

    def stop(self) -> None:
        """Ask it to finish what it has and leave."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            if self.report.state == "ready":
                self._process.send_signal(STOP_SIGNAL)
            else:
                self._process.kill()  # it has nothing to finish

    def kill(self) -> None:
        """End it now. Does not wait for its end, which `is_running` tells."""
        self.is_stopping = True
        if self.is_running():
            assert self._process is not None
            self._process.kill()
            self._killed_at = self._killed_at or time.monotonic()
        Path(order_path(self.order.report)).unlink(missing_ok=True)

    def remove_beats(self) -> None:
        """Remove what it has told of its rows. Fronts read that once the table does not name it any more."""
        remove_beats(self.order.address)

    @property
    def answers(self) -> bool:
        """Whether it takes rows, or finishes those that it has."""
        return self.report.state == "ready" and not self._killed_at

    def is_running(self) -> bool:
        """Whether the process still exists. One that does not end although it was killed is given up."""
        if self._process is None or self._process.poll() is not None:
            return False
        if self._killed_at and time.monotonic() - self._killed_at > KILL_SECONDS:
            logger.error("the engine process %d was killed and does not end; it is given up", self.pid)
            self._process = None
            return False
        return True

    def memory_bytes(self) -> int:
        """Its memory now: resident memory but what it shares with the template, and on a GPU what it reported to hold.

        0 once it is gone.
        """
        memory = self._memory()
        return memory.resident - memory.inherited + self.report.device_bytes

    def measure(self) -> int:
        """The host memory that is its own now, without files that are mapped; notes its peak. 0 once it is gone."""
        memory = self._memory()
        if self.report.state == "ready" and not self._ready_bytes:
            self._ready_bytes = memory.own
        grown = self._ready_bytes + self.report.growth_bytes + GROWTH_BYTES if self._ready_bytes else 0
        self.peak_bytes = max(self.peak_bytes, memory.own_at_most, grown)
        return memory.own

    def _memory(self) -> Memory:
        return self._reader.read(self.pid)

    def _new_watchdog(self) -> Watchdog:
        """One for the state that the report has."""
        if self.report.state == "ready":
            return Watchdog(self.order.hang_seconds)
        return Watchdog(LOADING_FACTOR * self.order.hang_seconds, math.inf)

    def _hangs(self, now: float) -> bool:
        """Whether the process hangs. Then it is killed, so that the next `poll` notices its end."""
        if self._hang:
            return True
        turn, expected = 0, 0.0
        if not self.pid or now < self._look_at:
            return False
        self._look_at = now + LOOK_SECONDS
        if self.report.state == "ready":
            pulse = read_pulse(heartbeat_path(self.order.address, self.pid))
            if pulse is None:
                return False
            turn, expected = pulse.turn, pulse.expected_seconds
        assert self._process is not None
        if not self._watchdog.hangs(self.pid, turn, expected, now):
            return False
        self._hang, self._hung_at = f"the engine hung: {self._watchdog.describe()}", now
        self._process.kill()
        return True

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
        pulse = read_pulse(heartbeat_path(self.order.address, self.pid or self.report.pid))
        ready_at, self._ready_at = self._ready_at, math.inf
        self._process = None
        self.report = msgspec.structs.replace(self.report, state="failed", error=self.report.error or status)
        if not self.was_ready:
            return "failed"
        self.is_poisoned = pulse is not None and pulse.is_suspect
        was_damaged, self._was_damaged = self._was_damaged, self.report.is_damaged
        is_cache_fault = self.report.is_damaged and not was_damaged  # the store's files may be whole
        if not (self.is_poisoned or is_cache_fault):
            self.crashes = 1 if now - ready_at > STABLE_SECONDS else self.crashes + 1
        pause = 0.0  # after the first crash: rows wait for it
        if self.crashes > 1:
            pause = backoff_seconds(FIRST_BACKOFF_SECONDS, self.crashes - 1, MAX_BACKOFF_SECONDS)
        self._restart_at = max(now, min(now, ready_at) + pause)  # what it served is not waited for again
        return "lost"
