import os

import pytest

from serving.runtime.limits import allowed_cores
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
    assert f"; {allowed_cores()} of {os.cpu_count()} cores; " in line
    assert line.endswith(" AVX2; ONEDNN_MAX_CPU_ISA=AVX2")


@needs("pinned cores")
def test_only_cores_that_the_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
