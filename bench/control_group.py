"""Real control groups, below the own one; of version 1 or 2, whichever has the controllers."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving.runtime.control_groups import ControlGroups

ENTER = 'for group in $GROUPS_TO_ENTER; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'
NO_LIMIT = 1 << 50
END_SECONDS = 60.0


class NoControlGroups(Exception):
    """Control groups cannot be made here; the message says why."""


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
        """Memory that the kernel cannot drop, in bytes."""
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
    """A group for the block; what still runs in it at the end is killed. Raises NoControlGroups."""
    own = ControlGroups.find()
    if not own.cpu or not own.memory:
        raise NoControlGroups("there are no control groups with the controllers cpu and memory")
    folders = list(dict.fromkeys(folder[0] / f"headwaiter-{name}-{os.getpid()}" for folder in (own.cpu, own.memory)))
    try:
        for folder in folders:
            folder.mkdir()
        group = RealGroup(folders[0], folders[-1])
        group.limit_cores(psutil.cpu_count() or 1)
        group.limit_memory(NO_LIMIT)
    except OSError as error:
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        raise NoControlGroups(f"control groups may not be made: {error}") from error
    try:
        yield group
    finally:
        for folder in folders:
            _end(folder)


def _end(folder: Path) -> None:
    """Kill what runs in the group until it can be removed."""
    deadline = time.monotonic() + END_SECONDS
    while folder.exists():
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:  # its processes have not ended yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def take_memory(group: RealGroup, size_bytes: int) -> psutil.Popen:
    """A process in the group that allocates `size_bytes`, more than any other, and is exempt from the OOM killer."""
    code = (
        "import sys\nopen('/proc/self/oom_score_adj', 'w').write('-1000')\n"
        "held = bytearray(int(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    )
    return psutil.Popen(
        group.command(sys.executable, "-c", code, str(size_bytes)), stdin=-1, stdout=-1, env=dict(os.environ)
    )
