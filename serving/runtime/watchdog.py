"""Tells a process that hangs from one that is slow, by what it got done and by what the kernel says of its threads.

A stopped process and a deadlocked one use no processor time, and none of their threads is runnable. A process that is
starved by others has a runnable thread, and one that reads from a slow disk has a thread that waits for it.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.5
"""How often a process is to be looked at; one look takes about 10 µs for each of its threads."""
MAX_GAP_SECONDS = 1.0
"""The most that two looks can lie apart: for longer it was the watcher that stood still, as in a suspended machine."""
IDLE_SHARE = 0.05
"""Of one core. A process that stands still may use less, for its threads that only wait for messages or a lease."""
EXPECTED_FACTOR = 3.0
"""A step may take this many times what it should before silence counts. Untuned."""
SPIN_FACTOR = 10.0
"""A process that stays busy for this many times the limit is one that spins. Untuned."""
_TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


@dataclass(frozen=True)
class Activity:
    """cpu_seconds: that a process has used. is_runnable: whether a thread of it runs, wants to, or waits for a disk."""

    cpu_seconds: float
    is_runnable: bool


def read_activity(pid: int, proc: Path = Path("/proc")) -> Activity | None:
    """What the kernel says of a process, see `proc_pid_stat(5)`; None where it is gone, and elsewhere than on Linux."""
    try:
        fields = _fields(proc / str(pid) / "stat")
        used = (int(fields[11]) + int(fields[12])) * _TICK_SECONDS
        states = set()
        for thread in (proc / str(pid) / "task").iterdir():
            with suppress(OSError, IndexError):
                states.add(_fields(thread / "stat")[0])
    except (OSError, IndexError, ValueError):
        return None
    return Activity(used, not states.isdisjoint("RD"))


class Watchdog:
    """Watches one process. limit_seconds: how long it may stand still while a step is not done.

    spin_factor: as SPIN_FACTOR; infinite where a step may take any time.
    """

    def __init__(self, limit_seconds: float, spin_factor: float = SPIN_FACTOR) -> None:
        self._limit = limit_seconds
        self._spin_factor = spin_factor
        self._turn: object = None
        self._looked = 0.0
        self._used = 0.0
        self._forget(0.0)

    def hangs(self, pid: int, turn: object, expected_seconds: float, now: float) -> bool:
        """Whether the process is to be replaced; to be asked again and again. now: monotonic seconds.

        turn: whatever changes each time that the process gets on. expected_seconds: how long its step should take.
        """
        if turn != self._turn:
            self._turn = turn
            self._forget(now)
            return False
        gap, self._looked = min(now - self._looked, MAX_GAP_SECONDS), now
        found = read_activity(pid)
        if found is None:
            return False
        if self._silent:  # the first look is what the later ones are compared with
            used = max(0.0, found.cpu_seconds - self._used)
            self._busy += used
            if not found.is_runnable and used < IDLE_SHARE * gap:
                self._still += gap
        self._used = found.cpu_seconds
        self._silent += gap
        limit = max(self._limit, EXPECTED_FACTOR * expected_seconds)
        return self._still > limit or (self._silent > self._spin_factor * limit and self._busy > limit)

    def describe(self) -> str:
        """What was seen, for the log."""
        return f"no sign of it for {self._silent:.0f} s, in which it used the processor for {self._busy:.1f} s"

    def _forget(self, now: float) -> None:
        self._looked = now
        self._silent = self._still = self._busy = 0.0


def _fields(stat: Path) -> list[str]:
    """The fields of a `stat` file from the state on, which is the third."""
    return stat.read_text().rpartition(") ")[2].split()
