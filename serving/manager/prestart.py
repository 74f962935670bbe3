"""Prestart: `headwaiter serve` starts the first engine's process before BentoML's, so that it imports torch while the
manager starts. The process waits for its order, and the manager finds it by its report.
"""

import subprocess
from pathlib import Path

from serving.manager.engine_process import Adopted, spawn
from serving.runtime.server_process import ENGINES, claim
from serving.wire.atomic_file import write_report
from serving.wire.engine_orders import EngineReport, order_path, read_report

REPORT = "first.json"


def prestart_engine(run: Path, server: int) -> "subprocess.Popen[bytes]":
    """Start the process, in the run folder of the server `server`; raises OSError where that cannot be."""
    claim(run, server)
    report = run / ENGINES / REPORT
    process = spawn(order_path(str(report)))
    write_report(report, EngineReport(pid=process.pid, state="waiting"))
    return process


def take_prestarted(run: Path) -> tuple[str, Adopted] | None:
    """The report's path and the process, if one still waits; once it has its order it is not found again."""
    report = run / ENGINES / REPORT
    found = read_report(report)
    if found is None or found.state != "waiting":
        return None
    process = Adopted.find(found.pid, order_path(str(report)))
    return None if process is None else (str(report), process)
