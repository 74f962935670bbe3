"""Real control groups for processes under test, below the own one; of version 1 or 2, whichever has the controller."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serving.runtime.control_groups import ControlGroups
from tests.e2e.server import wait_until

ENTER = 'for group in $GROUPS_TO_ENTER; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'


@dataclass(frozen=True)
class RealGroup:
    """cpu, memory: the group's folders, which may be one."""

    cpu: Path
    memory: Path

    def limit_cores(self, cores: float) -> None:
        """Set the quota."""
        quota, period = str(round(cores * 100_000)), "100000"
        if (self.cpu / "cpu.max").exists():
            (self.cpu / "cpu.max").write_text(f"{quota} {period}")
        else:
            (self.cpu / "cpu.cfs_period_us").write_text(period)
            (self.cpu / "cpu.cfs_quota_us").write_text(quota)

    def limit_memory(self, size_bytes: int) -> None:
        """Set the limit; the kernel drops page cache for it."""
        name = "memory.max" if (self.memory / "memory.max").exists() else "memory.limit_in_bytes"
        (self.memory / name).write_text(str(size_bytes))
        swap = self.memory / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")

    def used_bytes(self) -> int:
        """What cannot be dropped."""
        group = ControlGroups(memory=(self.memory,))
        limit, available = group.memory_bytes(), group.available_bytes()
        assert limit is not None
        assert available is not None
        return limit - available

    def oom_kills(self) -> int:
        """By the kernel, in this group."""
        return ControlGroups(memory=(self.memory,)).oom_kills()

    def command(self, *command: str) -> tuple[str, ...]:
        """The command, to be run in the group."""
        folders = " ".join(dict.fromkeys((str(self.cpu), str(self.memory))))
        return ("env", f"GROUPS_TO_ENTER={folders}", "sh", "-c", ENTER, "sh", *command)

    def serve(self, *arguments: str) -> tuple[str, ...]:
        """`headwaiter serve`, in the group."""
        return self.command(sys.executable, "-m", "serving.commands.main", "serve", *arguments)


@contextmanager
def make_group(name: str) -> Iterator[RealGroup]:
    """A group of the test's own; skips the test, with a reason, where none may be made."""
    own = ControlGroups.find()
    if not own.cpu or not own.memory:
        pytest.skip("needs control groups with the controllers cpu and memory")
    folders = [folder[0] / f"headwaiter-{name}-{os.getpid()}" for folder in (own.cpu, own.memory)]
    try:
        for folder in dict.fromkeys(folders):
            folder.mkdir()
        group = RealGroup(*folders)
        group.limit_cores(64)
        group.limit_memory(1 << 50)
    except OSError as error:
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        pytest.skip(f"needs the right to make control groups: {error}")
    try:
        yield group
    finally:
        for folder in dict.fromkeys(folders):
            _end(folder)


def _end(folder: Path) -> None:
    def is_empty() -> bool:
        pids = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(is_empty, "the group's processes have ended")
    wait_until(lambda: not folder.exists() or _removed(folder), "the group is gone")


def _removed(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def take_memory(group: RealGroup, size_bytes: int) -> psutil.Popen:
    """A process in the group that takes so much memory, more than any other, and is not to be killed for it."""
    code = (
        "import sys\nopen('/proc/self/oom_score_adj', 'w').write('-1000')\n"
        "held = bytearray(int(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    )
    return psutil.Popen(
        group.command(sys.executable, "-c", code, str(size_bytes)), stdin=-1, stdout=-1, env=dict(os.environ)
    )
