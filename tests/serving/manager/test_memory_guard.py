"""What is counted as free before a version loads."""

import pytest

from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import SOON_SECONDS, ManagedVersion
from serving.manager.memory_budget import ENGINE_BYTES, RESERVE_BYTES, Footprint, MemoryAdmission, Refuse, Start, Wait
from serving.manager.memory_guard import Footprints, admit_version
from serving.manager.policy import CRASH_LIMIT
from serving.manager.residency import Resident
from serving.runtime.limits import Limits
from serving.wire.engine_orders import EngineOrder, EngineReport
from serving.wire.version_state import State, VersionKey

MIB = 1 << 20
NOW = 100.0


class Engine(EngineProcess):
    """An engine whose memory is given. now, peak: in bytes."""

    def __init__(self, order: EngineOrder, state: State, now: int, peak: int) -> None:
        super().__init__(order)
        self.report = EngineReport(pid=1, state="ready" if state == "ready" else "loading")
        self.was_ready = peak > 0
        self.now, self.peak_bytes = now, peak

    def measure(self) -> int:
        return self.now


def held(version: str, state: State, *engines: EngineProcess) -> tuple[VersionKey, ManagedVersion]:
    return ("m", version), ManagedVersion("m", version, None, state=state, engines=list(engines))


def limits(free: int) -> Limits:
    return Limits(
        cores=1,
        machine_cores=1,
        cores_by="machine",
        memory_bytes=1000 * MIB,
        machine_memory_bytes=1000 * MIB,
        memory_by="machine",
        available_bytes=free + RESERVE_BYTES,
        oom_kills=0,
    )


def admit(
    new: ManagedVersion, versions: dict[VersionKey, ManagedVersion], free: int, bound: int = 1 << 40
) -> MemoryAdmission:
    """Whether one engine of the version may start. bound: of all engines together."""
    return admit_version(new, versions, [], 1, limits(free), Footprints(), bound, NOW)


def test_only_an_engine_that_has_loaded_says_what_one_takes(order: EngineOrder) -> None:
    loaded, loading = Engine(order, "ready", 90 * MIB, 200 * MIB), Engine(order, "loading", 50 * MIB, 0)
    loading.peak_bytes = 60 * MIB
    _, version = held("1", "ready", loaded, loading)
    assert version.footprints() == [Footprint(200 * MIB, 0)]


def test_what_began_to_load_before_anything_served_counts_too(order: EngineOrder) -> None:
    versions = dict([held("1", "ready", Engine(order, "ready", 80 * MIB, 100 * MIB))])
    key, loading = held("2", "loading", Engine(order, "loading", 30 * MIB, 0))
    _, new = held("3", "loading")
    assert isinstance(admit(new, {**versions, key: loading}, 170 * MIB - 1), Wait)
    assert isinstance(admit(new, {**versions, key: loading}, 170 * MIB), Start)


@pytest.mark.parametrize(("crashes", "expected"), [(1, Refuse), (CRASH_LIMIT, Start)])
def test_an_engine_that_is_being_restarted_keeps_its_memory_unless_it_gives_way(
    order: EngineOrder, crashes: int, expected: type
) -> None:
    engine = Engine(order, "loading", 10 * MIB, ENGINE_BYTES)
    engine.crashes = crashes
    _, new = held("2", "loading")
    versions = dict([held("1", "ready", engine)])
    assert isinstance(admit(new, versions, ENGINE_BYTES), expected)


def test_to_wait_for_memory_is_not_to_load() -> None:
    _, version = held("1", "loading")
    began = version.began
    for seconds in (500, 1000, 1500):
        assert version.step(began + seconds, lambda _: [], load_seconds=600) == []
    assert version.state == "loading"


def test_the_memory_that_a_live_version_left_is_for_the_one_that_took_its_place(order: EngineOrder) -> None:
    key, waiting = held("2", "loading")
    waiting.took_place = True
    _, new = held("3", "loading")
    versions = dict([held("1", "ready", Engine(order, "ready", 80 * MIB, 100 * MIB))])
    assert isinstance(admit(waiting, {**versions, key: waiting}, 100 * MIB), Start)
    assert isinstance(admit(new, {**versions, key: waiting}, 100 * MIB), Refuse)


@pytest.mark.parametrize(("bound", "expected"), [(190, Start), (189, Refuse)])
def test_engines_count_with_their_peaks_where_they_are_bounded(order: EngineOrder, bound: int, expected: type) -> None:
    _, new = held("2", "loading")
    versions = dict([held("1", "ready", Engine(order, "ready", 20 * MIB, 90 * MIB))])
    admission = admit(new, versions, free=900 * MIB, bound=bound * MIB)
    assert isinstance(admission, expected)
    if isinstance(admission, Refuse):
        assert f"engines may take {bound} MiB together, by HEADWAITER_MEMORY_BYTES" in admission.reason


def test_a_version_that_was_loaded_before_is_expected_to_take_what_it_took(order: EngineOrder) -> None:
    footprints = Footprints()
    key, before = held("1", "ready", Engine(order, "ready", 20 * MIB, 700 * MIB))
    other = dict([held("2", "ready", Engine(order, "ready", 20 * MIB, 300 * MIB))])
    footprints.note({key: before, **other})
    footprints.note(other)
    assert footprints.estimate(held("1", "loading")[1]) == 700 * MIB
    assert footprints.estimate(held("2", "loading")[1]) == 300 * MIB


@pytest.mark.parametrize(("seconds", "evicts"), [(0.0, False), (SOON_SECONDS, True)])
def test_a_version_that_leaves_slowly_is_not_waited_for_where_others_can_leave(
    order: EngineOrder, seconds: float, *, evicts: bool
) -> None:
    key, leaving = held("1", "draining", Engine(order, "ready", 300 * MIB, 0))
    leaving.unloaded_at = NOW - seconds
    idle_key, idle = held("2", "ready", Engine(order, "ready", 100 * MIB, 100 * MIB))
    new_key, new = held("3", "loading")
    versions = {key: leaving, idle_key: idle, new_key: new}
    given = (limits(900 * MIB), Footprints(), 400 * MIB, NOW)
    found = admit_version(new, versions, [Resident(idle_key, 100 * MIB)], 1, *given)
    assert found == Wait((idle_key,) if evicts else ())
    assert admit_version(new, versions, [], 1, *given) == Wait(), "it leaves at some time"
