"""Whether there is memory on GPUs for a version: by what engines there have told."""

import msgspec
import pytest

from monitoring.gpus import Gpu
from serving.manager.engine_process import EngineProcess
from serving.manager.gpu_memory import admit_on_gpus, gpu_bounds
from serving.manager.managed_version import ManagedVersion
from serving.manager.memory_budget import MemoryAdmission, Refuse, Start, Wait, both
from serving.manager.residency import Resident
from serving.wire.engine_orders import EngineOrder, EngineReport
from serving.wire.version_state import State, VersionKey

MIB = 1 << 20
GPUS = [Gpu("0", 0, 1000, 0.0), Gpu("1", 0, 2000, 0.0), Gpu("2", 0, 3000, 0.0)]


class Engine(EngineProcess):
    """An engine that holds so much on a device, or loads there."""

    def __init__(self, order: EngineOrder, device: str, held_mib: int) -> None:
        super().__init__(msgspec.structs.replace(order, device=device))
        if held_mib:
            self.report = EngineReport(pid=1, state="ready", device=device, device_bytes=held_mib * MIB)

    def is_running(self) -> bool:
        return True


def version(name: str, state: State, *engines: EngineProcess) -> tuple[VersionKey, ManagedVersion]:
    return (name, "1"), ManagedVersion(name, "1", None, state=state, engines=list(engines))


@pytest.mark.parametrize(
    ("visible", "given", "expected"),
    [
        ("", 0, [800, 1600, 2400]),
        ("", 700, [700, 700, 700]),
        ("2,0", 0, [2400, 800]),
        ("GPU-abc", 0, [800, 1600, 2400]),
    ],
)
def test_a_share_of_each_gpu_may_be_taken_in_cudas_order(visible: str, given: int, expected: list[int]) -> None:
    assert gpu_bounds(GPUS, 0.8, given, {"CUDA_VISIBLE_DEVICES": visible}) == expected


def versions_on_gpus(order: EngineOrder) -> dict[VersionKey, ManagedVersion]:
    """a and b on the first GPU, with 200 and 100 MiB; c on the CPU."""
    found = dict(
        [
            version("a", "ready", Engine(order, "cuda:0", 200)),
            version("b", "ready", Engine(order, "cuda:0", 100)),
            version("c", "ready", Engine(order, "cpu", 0)),
        ]
    )
    found["a", "1"].weights_bytes, found["b", "1"].weights_bytes = 200 * MIB, 100 * MIB
    return found


def admit(
    versions: dict[VersionKey, ManagedVersion], devices: tuple[str, ...], bounds: tuple[int, ...], later: str = ""
) -> MemoryAdmission:
    """Of a version whose engines need 100 MiB each; others leave in the order c, b, a. bounds: in MiB.

    later: those that may not leave now.
    """
    _, new = version("new", "loading")
    new.weights_bytes = 100 * MIB
    now = [Resident(key, 1) for key in sorted(versions, reverse=True) if key[0] not in later]
    others = [Resident(key, 1) for key in versions if key[0] in later]
    return admit_on_gpus(new, versions, now, others, devices, [bound * MIB for bound in bounds], 100.0)


@pytest.mark.parametrize(
    ("devices", "bounds", "expected"),
    [
        (("cuda:0",), (400,), Start()),
        (("auto",), (400,), Start()),
        (("cuda",), (399,), Wait((("b", "1"),))),
        (("cuda:0", "cuda:0"), (400,), Wait((("b", "1"),))),
        (("cuda:0", "cuda:0"), (301,), Wait((("b", "1"), ("a", "1")))),
        (("cpu",), (0,), Start()),
        (("cuda:1",), (0, 100), Start()),
        (("cuda:0", "cuda:1"), (399, 100), Wait((("b", "1"),))),
    ],
)
def test_those_leave_that_free_memory_on_the_gpu_that_is_needed(
    order: EngineOrder, devices: tuple[str, ...], bounds: tuple[int, ...], expected: MemoryAdmission
) -> None:
    assert admit(versions_on_gpus(order), devices, bounds) == expected


def test_what_can_never_fit_on_a_gpu_is_refused(order: EngineOrder) -> None:
    refused = admit(versions_on_gpus(order), ("cuda:1",), (400, 99))
    assert isinstance(refused, Refuse)
    assert "engines may take 99 MiB together, on the GPU cuda:1, by HEADWAITER_GPU_MEMORY_BYTES" in refused.reason


def test_it_waits_for_those_that_may_leave_later_and_for_what_loads(order: EngineOrder) -> None:
    versions = versions_on_gpus(order)
    assert admit(versions, ("cuda:0",), (399,), later="ab") == Wait()
    key, loading = version("d", "loading", Engine(order, "cuda:1", 0))
    loading.weights_bytes = 100 * MIB
    assert admit({**versions, key: loading}, ("cuda:1",), (400, 200)) == Start()
    assert admit({**versions, key: loading}, ("cuda:1",), (400, 199)) == Wait()


def test_nothing_is_bounded_before_an_engine_has_been_measured(order: EngineOrder) -> None:
    assert admit(dict([version("c", "ready", Engine(order, "cpu", 0))]), ("auto",), (1,)) == Start()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Start(), Start(), Start()),
        (Start(), Wait(), Wait()),
        (Wait((("a", "1"),)), Wait((("b", "1"), ("a", "1"))), Wait((("a", "1"), ("b", "1")))),
        (Wait((("a", "1"),)), Refuse("no"), Refuse("no")),
        (Refuse("no"), Start(), Refuse("no")),
    ],
)
def test_a_version_needs_both_kinds_of_memory(
    first: MemoryAdmission, second: MemoryAdmission, expected: MemoryAdmission
) -> None:
    assert both(first, second) == expected
