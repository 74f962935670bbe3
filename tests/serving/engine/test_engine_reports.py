"""What an engine tells of itself arrives, also where the disk is full for a while."""

import errno
from pathlib import Path
from typing import Any

import pytest

from serving.engine import __main__ as engine
from serving.wire.engine_orders import EngineReport, read_report
from serving.wire.report_file import write_report


def test_a_report_waits_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "full")]

    def write(path: Path, report: Any) -> None:
        if troubles:
            raise troubles.pop()
        write_report(path, report)

    monkeypatch.setattr(engine, "write_report", write)
    monkeypatch.setattr(engine, "FULL_SECONDS", 0.0)
    engine.tell(tmp_path / "report", EngineReport(pid=17, state="ready"))
    found = read_report(tmp_path / "report")
    assert found is not None
    assert (found.pid, found.state) == (17, "ready")


def test_a_report_does_not_wait_for_other_troubles(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        engine.tell(tmp_path / "gone" / "report", EngineReport(pid=17, state="ready"))
