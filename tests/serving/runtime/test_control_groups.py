"""What bounds a process, read from trees of files as the kernel lays them out, version 1 and 2."""

import math
from pathlib import Path

import pytest

from serving.runtime.control_groups import ControlGroups

MIB = 1 << 20
NO_LIMIT = "9223372036854771712"
V2_MOUNT = "31 23 0:28 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {mounted} /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
)
V1_LINES = "9:name=systemd:/x\n4:memory:{path}\n2:cpu,cpuacct:{path}\n0::/x"


def tree(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> ControlGroups:
    """The groups of a process in a machine whose files are these, below /sys/fs/cgroup."""
    own = root / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    (own / "mountinfo").write_text(mountinfo)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ControlGroups.find(root)


def v2(root: Path, files: dict[str, str], path: str = "/a/b", mounted: str = "/") -> ControlGroups:
    return tree(root, f"0::{path}\n", V2_MOUNT.format(mounted=mounted), files)


def v1(root: Path, files: dict[str, str], path: str = "/a/b", mounted: str = "/") -> ControlGroups:
    return tree(root, V1_LINES.format(path=path), V1_MOUNTS.format(mounted=mounted), files)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"a/b/cpu.max": "max 100000"}, math.inf),
        ({"a/b/cpu.max": "150000 100000"}, 1.5),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ({"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ({"cpu.max": "300000 100000"}, 3.0),
        ({"a/b/cpu.max": "nonsense"}, math.inf),
        ({"c/cpu.max": "100000 100000"}, math.inf),
    ],
    ids=str,
)
def test_a_quota_of_version_2(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    assert v2(tmp_path, files).cores() == cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("-1", math.inf), ("100000", 1.0), ("25000", 0.25), ("0", math.inf), ("", math.inf)],
)
def test_a_quota_of_version_1(tmp_path: Path, quota: str, cores: float) -> None:
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": quota, "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}
    assert v1(tmp_path, files).cores() == cores


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({}, None, None),
        ({"a/b/memory.max": "max"}, None, None),
        ({"a/b/memory.max": str(800 * MIB), "a/b/memory.current": str(300 * MIB)}, 800, 500),
        (  # past "high" processes are held up until they hardly run
            {
                "a/b/memory.max": str(800 * MIB),
                "a/b/memory.high": str(600 * MIB),
                "a/b/memory.current": str(300 * MIB),
            },
            600,
            300,
        ),
        (
            {  # page cache can be dropped
                "a/b/memory.max": str(800 * MIB),
                "a/b/memory.current": str(700 * MIB),
                "a/b/memory.stat": f"anon 1\ninactive_file {150 * MIB}\nactive_file {50 * MIB}\n",
            },
            800,
            300,
        ),
        (
            {  # the level above has less left, although its limit is higher
                "a/b/memory.max": str(800 * MIB),
                "a/b/memory.current": str(100 * MIB),
                "a/memory.max": str(1000 * MIB),
                "a/memory.current": str(900 * MIB),
            },
            800,
            100,
        ),
        ({"a/b/memory.max": str(800 * MIB), "a/b/memory.current": str(900 * MIB)}, 800, 0),
    ],
    ids=["none", "max", "limit", "high", "page cache", "two levels", "over it"],
)
def test_memory_of_version_2(tmp_path: Path, files: dict[str, str], limit: int | None, available: int | None) -> None:
    groups = v2(tmp_path, files)
    assert groups.memory_bytes() == (None if limit is None else limit * MIB)
    assert groups.available_bytes() == (None if available is None else available * MIB)


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({"memory/a/b/memory.limit_in_bytes": NO_LIMIT}, None, None),
        ({"memory/a/memory.limit_in_bytes": str(600 * MIB), "memory/a/memory.usage_in_bytes": str(MIB)}, 600, 599),
        (
            {  # the namespace hides the level that has the limit
                "memory/a/b/memory.limit_in_bytes": NO_LIMIT,
                "memory/a/b/memory.usage_in_bytes": str(300 * MIB),
                "memory/a/b/memory.stat": f"hierarchical_memory_limit {400 * MIB}\ntotal_inactive_file {100 * MIB}\n",
            },
            400,
            200,
        ),
    ],
    ids=["none", "level above", "hidden level"],
)
def test_memory_of_version_1(tmp_path: Path, files: dict[str, str], limit: int | None, available: int | None) -> None:
    groups = v1(tmp_path, files)
    assert groups.memory_bytes() == (None if limit is None else limit * MIB)
    assert groups.available_bytes() == (None if available is None else available * MIB)


def test_a_container_sees_its_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    """With a bind mount the process' path is that of the host, and the mount begins at its group."""
    files = {"memory/memory.limit_in_bytes": str(MIB), "cpu,cpuacct/cpu.cfs_quota_us": "-1"}
    groups = v1(tmp_path, files, path="/docker/c1", mounted="/docker/c1")
    assert groups.memory_bytes() == MIB
    assert groups.memory == (tmp_path / "sys/fs/cgroup/memory",)


def test_a_container_with_a_namespace_sees_its_group_as_the_root(tmp_path: Path) -> None:
    assert v2(tmp_path, {"memory.max": str(MIB)}, path="/").memory_bytes() == MIB


def test_hierarchies_side_by_side_are_each_asked_for_what_they_have(tmp_path: Path) -> None:
    mounts = V1_MOUNTS.format(mounted="/").splitlines()[2] + "\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 c rw"
    files = {"memory/a/memory.limit_in_bytes": str(MIB), "unified/u/cpu.max": "100000 100000"}
    groups = tree(tmp_path, "4:memory:/a\n0::/u\n", mounts, files)
    assert (groups.memory_bytes(), groups.cores()) == (MIB, 1.0)


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [
        (v2, "a/b/memory.events", "low 0\noom 4\noom_kill 3\n"),
        (v1, "memory/a/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_what_the_kernel_killed_is_counted(tmp_path: Path, version: type[ControlGroups], name: str, text: str) -> None:
    assert version(tmp_path, {name: text}).oom_kills() == 3  # type: ignore[call-arg,arg-type]


def test_a_mount_whose_name_is_no_text_is_no_trouble(tmp_path: Path) -> None:
    v2(tmp_path, {"a/cpu.max": "100000 100000"})
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_bytes(b"30 23 0:9 / /mnt/\xff rw - ext4 /dev/sda rw\n" + mounts.read_bytes())
    assert ControlGroups.find(tmp_path).cores() == 1.0


def test_without_control_groups_nothing_is_bounded(tmp_path: Path) -> None:
    groups = ControlGroups.find(tmp_path)
    assert groups == ControlGroups()
    assert (groups.cores(), groups.memory_bytes(), groups.available_bytes(), groups.oom_kills()) == (
        math.inf,
        None,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        ("0::/a\n\n", V2_MOUNT.format(mounted="/")),
        ("junk\n0::/a\n", "junk\n\n" + V2_MOUNT.format(mounted="/")),
        ("0::/a (deleted)\n", V2_MOUNT.format(mounted="/")),
        ("0::/b c/a\n", V2_MOUNT.format(mounted="/b\\040c")),
        ("0::/x/a\n", V2_MOUNT.format(mounted="/other") + "\n" + V2_MOUNT.format(mounted="/x")),
    ],
    ids=["empty line", "junk", "deleted", "a blank in a name", "the second mount shows it"],
)
def test_odd_lines_hide_no_limit(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    assert tree(tmp_path, cgroup, mountinfo, {"a/memory.max": str(MIB)}).memory_bytes() == MIB


@pytest.mark.parametrize("text", ["²", "--5", "-1", "", "1e9"])
def test_what_is_no_number_is_no_limit(tmp_path: Path, text: str) -> None:
    assert v2(tmp_path, {"a/b/memory.max": text, "a/memory.max": str(MIB)}).memory_bytes() == MIB


def test_bytes_that_are_no_text_are_no_limit(tmp_path: Path) -> None:
    groups = v2(tmp_path, {"a/memory.max": str(MIB), "a/b/memory.stat": "", "a/b/cpu.max": ""})
    for name in ("memory.max", "memory.stat", "cpu.max"):
        (tmp_path / "sys/fs/cgroup/a/b" / name).write_bytes(b"\xff\xfe")
    assert (groups.memory_bytes(), groups.cores()) == (MIB, math.inf)
