"""Priorities: a thread's, and that of a session where the kernel groups processes by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.runtime.priority import (
    AUTOGROUP,
    LOADING_NICENESS,
    low_session_priority,
    run_at_low_priority,
    session_niceness,
    set_session_niceness,
)

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


@pytest.mark.parametrize(
    ("before", "by_others", "after"), [(0, None, 0), (3, None, 3), (0, 7, 7), (LOADING_NICENESS + 2, None, 7)]
)
def test_a_load_lowers_its_session_and_keeps_what_others_set(
    tmp_path: Path, before: int, by_others: int | None, after: int
) -> None:
    autogroup = tmp_path / "autogroup"
    autogroup.write_text(f"/autogroup-17 nice {before}\n")
    with low_session_priority(autogroup):
        assert session_niceness(autogroup) == max(before, LOADING_NICENESS)
        if by_others is not None:
            set_session_niceness(by_others, autogroup)
    assert session_niceness(autogroup) == after


@linux
@pytest.mark.parametrize("is_own", [True, False])
def test_only_a_session_that_the_process_has_started_is_its_own(*, is_own: bool) -> None:
    command = [sys.executable, "-c", "from serving.runtime.priority import own_autogroup as own; print(own())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=is_own)
    assert done.stdout.strip() == (str(AUTOGROUP) if is_own else "None")
    with low_session_priority(None):
        pass
