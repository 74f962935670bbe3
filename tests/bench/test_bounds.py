"""A benchmark whose run is beyond its bounds prints its section and fails."""

import sys

import pytest

from bench import __main__ as bench
from bench.processes import BeyondBounds, check_bounds


def test_a_run_beyond_its_bounds_fails_after_its_section_was_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(seconds: float) -> str:
        return check_bounds("## A section", {"it was slow": False, "it forgot": True}, is_full=seconds >= 10)

    monkeypatch.setattr(bench, "others_share", lambda: 0.0)
    monkeypatch.setattr(bench, "BENCHMARKS", {"overload": run})
    monkeypatch.setattr(bench, "written", tuple)
    for given, status in ((["--quick"], 0), ([], 1)):
        monkeypatch.setattr(sys, "argv", ["bench", "overload", *given])
        assert bench.main() == status
        told = capsys.readouterr().out
        assert "## A section" in told
        assert ("overload: beyond its bounds: it was slow\n" in told) == bool(status)


def test_bounds_that_are_kept_leave_the_section() -> None:
    assert check_bounds("section", {"it was slow": True}, is_full=True) == "section"
    with pytest.raises(BeyondBounds, match="it was slow; it forgot"):
        check_bounds("section", {"it was slow": False, "it forgot": False}, is_full=True)
