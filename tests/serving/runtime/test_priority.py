"""Priorities: a thread's, and that of a session where the kernel groups processes by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.runtime.priority import (
    AUTOGROUP,
    LOADING_NICENESS,
    run_at_low_priority,
    session_niceness,
    set_session_niceness,
)

SESSION = """
from serving.runtime.priority import leads_session, low_session_priority, session_niceness
found = [leads_session(), session_niceness()]
with low_session_priority():
    found.append(session_niceness())
print(*found, session_niceness())
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities belong to processes")


@linux
def test_work_at_low_priority_leaves_other_threads_theirs() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert run_at_low_priority(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == max(before, LOADING_NICENESS)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_session_has_no_niceness_where_the_kernel_has_no_such_groups(tmp_path: Path) -> None:
    assert session_niceness(tmp_path / "none") == 0
    set_session_niceness(3, tmp_path)
    (tmp_path / "autogroup").write_text("/autogroup-17 nice 4\n")
    assert session_niceness(tmp_path / "autogroup") == 4


@linux
@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the kernel has no autogroups")
@pytest.mark.parametrize(("is_own", "expected"), [(True, f"True 0 {LOADING_NICENESS} 0"), (False, "False {0} {0} {0}")])
def test_a_process_lowers_the_priority_of_its_own_session_for_a_while(expected: str, *, is_own: bool) -> None:
    command = [sys.executable, "-c", SESSION]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=is_own)
    assert done.stdout.strip() == expected.format(session_niceness())
