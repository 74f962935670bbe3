import os
import resource
from pathlib import Path

import psutil
import pytest

from serving.runtime import limits
from serving.runtime.control_groups import ControlGroups
from serving.runtime.limits import OomWatch, available_memory, read_limits, usable_cores, usable_memory
from serving.runtime.priority import OomScore
from serving.setting_values import default_workers

MIB = 1 << 20


class Groups(ControlGroups):
    """Control groups that say what a test sets."""

    quota: float = float("inf")
    limit: int | None = None
    free: int | None = None
    kills: int = 0

    def __init__(self, **values: float | None) -> None:
        super().__init__()
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def cores(self) -> float:
        return self.quota

    def memory_bytes(self) -> int | None:
        return self.limit

    def available_bytes(self) -> int | None:
        return self.free

    def oom_kills(self) -> int:
        return self.kills


@pytest.mark.parametrize(
    ("machine", "allowed", "quota", "loky", "expected"),
    [
        (64, 64, float("inf"), "", (64, "machine")),
        (64, 4, float("inf"), "", (4, "CPU affinity")),
        (64, 64, 2.0, "", (2, "control group")),
        (64, 64, 1.5, "", (1, "control group")),
        (64, 64, 0.3, "", (1, "control group")),
        (64, 8, 16.0, "", (8, "CPU affinity")),
        (64, 64, 4.0, "3", (3, "LOKY_MAX_CPU_COUNT")),
        (2, 2, 2.0, "", (2, "machine")),
        (2, 2, float("inf"), "none", (2, "machine")),
    ],
)
def test_cores_are_the_least_that_anything_allows(
    monkeypatch: pytest.MonkeyPatch,
    machine: int,
    allowed: int,
    quota: float,
    loky: str,
    expected: tuple[int, str],
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(limits, "allowed_cores", lambda: allowed)
    assert usable_cores(Groups(quota=quota), {"LOKY_MAX_CPU_COUNT": loky}) == expected


def test_memory_is_the_least_that_anything_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    total = psutil.virtual_memory().total
    assert usable_memory(Groups()) == (total, "machine")
    assert usable_memory(Groups(limit=MIB, free=MIB // 2)) == (MIB, "control group")
    assert available_memory(Groups(limit=MIB, free=MIB // 2)) == MIB // 2, "which is free on any machine"
    assert usable_memory(Groups(limit=4 * total)) == (total, "machine")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (MIB // 4, MIB))
    assert usable_memory(Groups(limit=MIB)) == (MIB // 4, "process")
    assert available_memory(Groups(limit=MIB, free=MIB // 2)) == MIB // 4


def test_what_is_read_here_is_consistent() -> None:
    found = read_limits()
    assert 1 <= found.cores <= found.machine_cores
    assert 0 < found.available_bytes <= found.memory_bytes <= found.machine_memory_bytes


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (64, 8)])
def test_fronts_are_as_many_as_the_cores_allow(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr("serving.setting_values.usable_cores", lambda *_: (cores, "machine"))
    assert default_workers({}) == expected


def test_each_kill_explains_one_end() -> None:
    groups = Groups(kills=5)
    watch = OomWatch(groups)
    assert not watch.explains_one(), "kills of before are of others"
    object.__setattr__(groups, "kills", 7)
    assert [watch.explains_one() for _ in range(3)] == [True, True, False]


def test_kills_that_nobody_asks_about_are_forgotten_at_the_second_look() -> None:
    groups = Groups(kills=0)
    watch = OomWatch(groups)
    object.__setattr__(groups, "kills", 1)
    watch.settle()  # the end of that process may be noticed only now
    assert watch.explains_one()
    object.__setattr__(groups, "kills", 2)
    watch.settle()
    watch.settle()
    assert not watch.explains_one()


@pytest.mark.parametrize(("base", "loading", "serving"), [(0, 1000, 250), (1000, 1000, 1000), (-997, 1000, -498)])
def test_engines_that_load_are_killed_before_those_that_serve(
    tmp_path: Path, base: int, loading: int, serving: int
) -> None:
    path = tmp_path / "oom_score_adj"
    path.write_text(f"{base}\n")
    score = OomScore(path)
    score.become("loading")
    assert int(path.read_text()) == loading
    score.become("serving")
    assert int(path.read_text()) == serving
