"""`run_server` tells why a server did not start; that one starts and ends is shown by the examples and the demo."""

from pathlib import Path

import pytest

from headwaiter import EngineError, run_server


@pytest.mark.server
def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / ("long" * 20)))
    with (
        pytest.raises(EngineError, match=r"status 1:\nError: HEADWAITER_HOME=.* is too long"),
        run_server("m"),
    ):
        pytest.fail("it is not ready")
