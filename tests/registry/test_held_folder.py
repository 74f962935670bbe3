"""Temporary folders of processes that live, and of those that were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.held_folder import held_folder

KILLED = (
    "import os, sys; from pathlib import Path; from registry.held_folder import held_folder\n"
    "with held_folder('of-a-test-', Path(sys.argv[1])) as folder:\n"
    "    (folder / 'large').write_bytes(b'x')\n"
    "    os.kill(os.getpid(), 9)"
)


@pytest.mark.parametrize("time", [0, 2**33])
def test_what_a_killed_process_left_goes_and_what_is_in_use_stays_whatever_the_clock_says(
    tmp_path: Path, time: int
) -> None:
    with held_folder("of-a-test-", tmp_path) as own:
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
        (left,) = set(tmp_path.iterdir()) - {own}
        assert (left / "large").exists()
        for folder in (own, left):
            os.utime(folder, (time, time))
        (tmp_path / ".of-a-test-new").mkdir()  # as by a process that is about to lock it
        (tmp_path / "of-another").mkdir()
        with held_folder("of-a-test-", tmp_path) as other:
            assert {own, other} < set(tmp_path.iterdir())
            assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {".of-a-test-new", "of-another"}
