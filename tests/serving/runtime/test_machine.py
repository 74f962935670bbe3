import os
from pathlib import Path

import pytest

from serving.runtime import limits
from serving.runtime.control_groups import ControlGroups
from serving.runtime.limits import allowed_cores, usable_cores
from serving.runtime.machine import describe_machine, read_processor
from tests.abilities import needs

pytestmark = pytest.mark.surroundings

INTEL = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu avx avx2 avx512f amx_tile amx_bf16 amx_int8
processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 sve\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        (INTEL, ("Intel(R) Xeon(R) Platinum 8481C", ("avx2", "avx512f", "amx_tile", "amx_bf16", "amx_int8"))),
        (ARM, ("", ("asimd", "bf16", "sve"))),
        ("", ("", ())),
    ],
)
def test_a_processors_name_and_the_flags_that_matter_are_read(cpuinfo: str, found: tuple[str, tuple[str, ...]]) -> None:
    assert read_processor(cpuinfo) == found


def test_a_machine_is_described_in_one_line_with_what_holds_it_back() -> None:
    line = describe_machine("AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": ""})
    assert "\n" not in line
    cores, _ = usable_cores(limits.own_groups())
    assert f"; {cores} of {os.cpu_count()} cores" in line
    assert line.endswith(" AVX2; ONEDNN_MAX_CPU_ISA=AVX2")


@needs("pinned cores")
def test_only_cores_that_the_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_limits_of_a_container_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"cpu.max": "100000 100000", "memory.max": str(1 << 20), "memory.current": "0"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(limits, "allowed_cores", lambda: 64)
    monkeypatch.setattr(limits, "own_groups", lambda: ControlGroups((tmp_path,), (tmp_path,)))
    line = describe_machine("AVX2", {})
    assert "; 1 of 64 cores (control group); 0.0 GiB of memory (control group), 0.0 free; " in line
