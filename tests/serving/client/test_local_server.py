"""`run_server` tells why a server did not start; that one starts and ends is shown by the examples and the demo."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from headwaiter import EngineError, run_server
from tests.e2e.server import free_port, wait_until
from tests.waiting import WAIT_SECONDS


@pytest.mark.server
def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path / ("long" * 20)))
    with (
        pytest.raises(EngineError, match=r"status 1:\nError: HEADWAITER_HOME=.* is too long"),
        run_server("m"),
    ):
        pytest.fail("it is not ready")


@pytest.mark.long
@pytest.mark.server
def test_a_server_ends_with_the_process_that_began_it_however_that_ends(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("h")
    program = (
        "import headwaiter, sys, pathlib\n"
        "with headwaiter.run_server('m', port=int(sys.argv[2]), log=pathlib.Path(sys.argv[1])): pass"
    )
    environ = {**os.environ, "HEADWAITER_HOME": str(home)}
    log = home / "server.log"
    with subprocess.Popen([sys.executable, "-c", program, str(log), str(free_port())], env=environ) as owner:
        wait_until(lambda: log.exists() and "initialized" in log.read_text(), "a worker has begun")
        begun = psutil.Process(owner.pid).children(recursive=True)
        owner.kill()
    _, alive = psutil.wait_procs(begun, timeout=WAIT_SECONDS)
    assert alive == []
