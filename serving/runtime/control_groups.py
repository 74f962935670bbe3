"""The Linux control groups that bound this process: CPU quota, memory limit and what the kernel killed for it.

The limits of all levels apply, so each question is answered over all levels, from the process' own group up to the root
of the hierarchy, as far as it is visible. Files and formats: admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory and
scheduler/sched-bwc of Linux' documentation. Both versions may be mounted side by side. Elsewhere than on Linux nothing
is bounded.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as a number near 2^63, rounded to pages. Larger values count as no limit."""


@dataclass(frozen=True)
class ControlGroups:
    """The process' groups, from its own up to the root.

    cpu, memory: folders of the hierarchy that has this controller, the same ones in version 2; empty without one.
    """

    cpu: tuple[Path, ...] = ()
    memory: tuple[Path, ...] = ()

    @classmethod
    def find(cls, root: Path = Path("/")) -> "ControlGroups":
        """Those of this process, by `/proc/self` below `root`. Never raises: what cannot be read bounds nothing."""
        try:
            own = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
            mounts = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
        except OSError:
            return cls()
        paths: dict[str, str] = {}
        for line in own:
            if line.count(":") >= 2:
                _, controllers, path = line.split(":", 2)
                paths.update(dict.fromkeys(controllers.split(","), path.removesuffix(" (deleted)")))
        unified = _folders(root, mounts, "", paths)
        return cls(*(_folders(root, mounts, controller, paths) or unified for controller in ("cpu", "memory")))

    def cores(self) -> float:
        """The least CPU quota of any level, in cores; infinite where there is none."""
        return min((quota for folder in self.cpu for quota in _quota(folder)), default=math.inf)

    def memory_bytes(self) -> int | None:
        """The least memory limit of any level, None where there is none."""
        return min((limit for limit, _ in self._limits()), default=None)

    def available_bytes(self) -> int | None:
        """Bytes that may still be allocated before a limit is hit, None where there is none.

        Page cache counts as free, because the kernel drops it before it kills.
        """
        free = min((limit - _used(folder) for limit, folder in self._limits()), default=None)
        return free if free is None else max(0, free)

    def oom_kills(self) -> int:
        """How many processes of the own group the kernel has killed because memory ran out; 0 where it does not say."""
        for folder in self.memory[:1]:
            for name in ("memory.events", "memory.oom_control"):
                if (count := _fields(folder / name).get("oom_kill")) is not None:
                    return count
        return 0

    def _limits(self) -> Iterator[tuple[int, Path]]:
        for folder in self.memory:
            # Past "high" the kernel kills no process, but slows all allocations down until nothing serves any more.
            limits = [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
            # Version 1 names the least limit of the levels above, too, which a namespace may hide.
            limits.append(_fields(folder / "memory.stat").get("hierarchical_memory_limit"))
            if bounds := [limit for limit in limits if limit is not None and 0 <= limit < UNLIMITED]:
                yield min(bounds), folder


def _folders(root: Path, mounts: list[str], controller: str, paths: dict[str, str]) -> tuple[Path, ...]:
    """The group's folder and those above, in the hierarchy of `controller`; of version 2 for "".

    Of several mounts, the one that shows the group itself; else the first one's root. A line of mountinfo: id, parent,
    device, mounted root, mount point, options, …, "-", type, source, super options.
    """
    found: tuple[Path, ...] = ()
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind or kind[0] != ("cgroup" if controller else "cgroup2"):
            continue
        if controller not in paths or (controller and controller not in kind[-1].split(",")):
            continue
        mounted, point = (_unescape(field) for field in fields[3:5])
        mounted, folder, path = mounted.rstrip("/"), root / point.lstrip("/"), paths[controller]
        if path == mounted or path.startswith(f"{mounted}/"):
            group = folder / path.removeprefix(mounted).strip("/")
            return (group, *(parent for parent in group.parents if parent.is_relative_to(folder)))
        found = found or (folder,)
    return found


def _unescape(field: str) -> str:
    """A path of mountinfo, in which blanks and backslashes stand as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one level, in cores, if it has one."""
    try:
        words = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        words = [str(_number(folder / f"cpu.cfs_{name}_us") or 0) for name in ("quota", "period")]
    numbers = [int(word) for word in words if _is_number(word)]  # "max" and -1 are no quota
    if len(numbers) == 2 and min(numbers) > 0:
        yield numbers[0] / numbers[1]


def _used(folder: Path) -> int:
    """Bytes of a level that the kernel cannot drop."""
    usage = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    stat = _fields(folder / "memory.stat")
    # Version 1 counts the levels below under "total_…" only.
    cache = sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file"))
    return max(0, usage - cache)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except (OSError, ValueError):
        return None
    return int(text) if _is_number(text.removeprefix("-")) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file that has a name and a number in each line."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and _is_number(pair[1])}
