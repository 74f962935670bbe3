"""One engine process, as the manager sees it: start it, read its reports, notice its end, restart it with back-off."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from serving.report import STOP_SIGNAL, EngineOrder, EngineReport, read_report, write_report

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""An engine that served this long has its restarts forgotten."""


class EngineProcess:
    """An engine and its restarts. Not for use from several threads.

    report: what it last said; "failed" once it ended. was_ready: whether it ever served; only then is it restarted.
    """

    def __init__(self, order: EngineOrder) -> None:
        self.order = order
        self.report = EngineReport(pid=0, state="loading")
        self.was_ready = False
        self.is_stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._restarts = 0
        self._restart_at = 0.0

    @property
    def pid(self) -> int:
        """Of the process, 0 while there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the process; it reports by itself."""
        report = Path(self.order.report)
        report.unlink(missing_ok=True)
        path = report.with_suffix(".order")
        write_report(path, self.order)
        environ = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # its idle threads must not spin on the fronts' cores
        self._started = time.monotonic()
        self.report = EngineReport(pid=0, state="loading")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.engine", str(path)], env=environ, stdin=subprocess.DEVNULL
        )

    def poll(self, now: float) -> str | None:
        """What has happened: "ready", "failed" (before it ever was ready), "lost" (after), "restarted", or None."""
        if self._process is None:
            if self._restart_at and now >= self._restart_at and not self.is_stopping:
                self._restart_at = 0.0
                self._restarts += 1
                self.start()
                return "restarted"
            return None
        before = self.report.state
        found = read_report(Path(self.order.report))
        if found is not None and found.pid == self.pid:
            self.report = found
        if self._process.poll() is not None:
            return self._end(f"the engine ended with status {self._process.returncode}", now)
        if self.report.state == "ready" and before != "ready":
            self.was_ready = True
            return "ready"
        return None

    def stop(self) -> None:
        """Ask it to finish what it has and leave."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(STOP_SIGNAL)

    def kill(self) -> None:
        """End it now."""
        self.is_stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=10)

    def is_running(self) -> bool:
        """Whether the process still exists."""
        return self._process is not None and self._process.poll() is None

    def _end(self, status: str, now: float) -> str:
        mark_dead(self.pid)
        self._process = None
        self.report = msgspec.structs.replace(self.report, state="failed", error=self.report.error or status)
        if not self.was_ready:
            return "failed"
        if now - self._started > STABLE_SECONDS:
            self._restarts = 0
        self._restart_at = now + min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**self._restarts)
        return "lost"


def mark_dead(pid: int) -> None:
    """Let the gauges of a process that ended leave the metrics."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # prometheus_client 0.26 leaves it untyped
