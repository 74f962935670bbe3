import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from serving.manager import launch as launch_module
from serving.manager.engine_process import (
    FETCH_SECONDS,
    FIRST_BACKOFF_SECONDS,
    GROWTH_BYTES,
    KILL_SECONDS,
    MAX_BACKOFF_SECONDS,
    REAP_SECONDS,
    STABLE_SECONDS,
    EngineProcess,
)
from serving.manager.launch import engine_environ
from serving.manager.memory_reading import Memory
from serving.manager.processes import Adopted
from serving.runtime.control_groups import ControlGroups
from serving.runtime.limits import OomWatch
from serving.wire.engine_orders import EngineOrder, EngineReport, order_path
from serving.wire.report_file import write_report
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

MIB = 1 << 20
NOBODY = 2**22 + 1
"""No process has this id: Linux goes up to 2**22."""


@pytest.fixture
def engine(order: EngineOrder) -> Iterator[EngineProcess]:
    """One that served and has ended."""
    engine = EngineProcess.adopt(order, EngineReport(pid=NOBODY, state="ready"))
    yield engine
    engine.kill()
    wait_until(lambda: not engine.is_running(), "it has ended")


def make_ready(engine: EngineProcess, now: float) -> None:
    """Let the process that runs have reported that it serves."""
    write_report(Path(engine.order.report), EngineReport(pid=engine.pid, state="ready"))
    assert engine.poll(now) == "ready"


def test_an_engine_that_crashes_on_and_on_is_restarted_later_and_later(engine: EngineProcess) -> None:
    lost_at = engine._started
    for crash in range(1, 9):
        pause = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (crash - 2)) if crash > 1 else 0.0
        assert (engine.crashes, engine.restarts) == (crash, crash - 1)
        assert crash == 1 or engine.poll(lost_at + pause * 0.99) is None
        assert engine.poll(lost_at + pause * 1.01) == "restarted", "at once after the first crash, as rows wait for it"
        psutil.Process(engine.pid).kill()
        psutil.Process(engine.pid).wait(WAIT_SECONDS)
        lost_at = engine._started + 1
        assert engine.poll(lost_at) == "lost"


@pytest.mark.parametrize(("served", "waits"), [(0.0, 4.0), (3.0, 1.0), (10.0, 0.0)])
def test_the_time_that_an_engine_served_is_part_of_the_pause(
    engine: EngineProcess, served: float, waits: float
) -> None:
    engine.crashes = 4
    assert engine.poll(engine._started + MAX_BACKOFF_SECONDS) == "restarted"
    ready_at = engine._started + 1
    make_ready(engine, ready_at)
    psutil.Process(engine.pid).kill()
    psutil.Process(engine.pid).wait(WAIT_SECONDS)
    lost_at = ready_at + served
    assert (engine.poll(lost_at), engine.crashes) == ("lost", 5)
    assert waits == 0.0 or engine.poll(lost_at + waits - 0.01) is None
    assert engine.poll(lost_at + waits) == "restarted"


@pytest.mark.parametrize(
    ("loaded", "served", "crashes"),
    [
        pytest.param(1.0, 1.0, 2, id="in a row"),
        pytest.param(2 * STABLE_SECONDS, 1.0, 2, id="in a row, as loading is not serving"),
        pytest.param(1.0, STABLE_SECONDS + 1, 1, id="long ago"),
    ],
)
def test_an_engine_that_served_long_enough_has_its_crashes_forgotten(
    engine: EngineProcess, loaded: float, served: float, crashes: int
) -> None:
    assert engine.poll(engine._started + MAX_BACKOFF_SECONDS) == "restarted"
    ready_at = engine._started + loaded
    make_ready(engine, ready_at)
    psutil.Process(engine.pid).kill()
    psutil.Process(engine.pid).wait(WAIT_SECONDS)
    assert (engine.poll(ready_at + served), engine.crashes) == ("lost", crashes)


def test_an_engine_that_never_came_to_serve_again_has_crashed_once_more(engine: EngineProcess) -> None:
    assert engine.poll(engine._started + MAX_BACKOFF_SECONDS) == "restarted"
    psutil.Process(engine.pid).kill()
    psutil.Process(engine.pid).wait(WAIT_SECONDS)
    assert (engine.poll(engine._started + 10 * STABLE_SECONDS), engine.crashes) == ("lost", 2)


def test_an_engine_that_cannot_be_started_again_is_tried_again(engine: EngineProcess, order: EngineOrder) -> None:
    order_file = Path(order.report).with_suffix(".order")
    order_file.mkdir()  # so that the order cannot be written
    now = engine._started + 1
    assert engine.poll(now) == "lost"
    assert engine.crashes == 1, "that is no crash of the version"
    order_file.rmdir()
    assert engine.poll(now + FIRST_BACKOFF_SECONDS * 2) == "restarted"


def test_a_restart_waits_for_files_that_are_fetched_again_but_not_for_long(engine: EngineProcess) -> None:
    due = engine._restart_at = engine._started + 1
    assert engine.poll(due + FETCH_SECONDS - 1, files_are_coming=True) is None
    assert engine.poll(due + FETCH_SECONDS, files_are_coming=True) == "restarted"


@dataclass
class Ended:
    """A process of this manager's that has ended."""

    returncode: int | None
    pid: int = NOBODY

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        raise AssertionError("it has ended")

    def send_signal(self, sig: int, /) -> None:
        raise AssertionError("it has ended")

    def wait(self, timeout: float | None = None) -> int | None:
        return self.returncode


class Kills(ControlGroups):
    """Control groups whose kill counter reads one of `counts` after the other."""

    counts: ClassVar[Iterator[int]]

    def oom_kills(self) -> int:
        return next(self.counts)

    def memory_bytes(self) -> int:
        return 900 << 20


@pytest.mark.parametrize(
    ("returncode", "kills", "reason"),
    [
        (1, [0], "the engine ended with status 1"),
        (-15, [0], "the engine was ended by signal 15"),
        (
            -9,
            [0, 0, 0],
            "the engine was killed by signal 9 (the control group's oom_kill count is 0, its memory limit is 900 MiB)",
        ),
        (
            -9,
            [2, 3, 3],
            "the engine was killed by signal 9 because memory ran out: the control group's oom_kill count is 3, "
            "its memory limit is 900 MiB",
        ),
    ],
)
def test_an_engine_that_ended_says_how(order: EngineOrder, returncode: int, kills: list[int], reason: str) -> None:
    Kills.counts = iter(kills)
    engine = EngineProcess(order)
    engine._oom = OomWatch(Kills())
    engine._process = Ended(returncode)
    assert engine.poll(1.0) == "failed"
    assert engine.report.error == reason
    assert engine.is_out_of_memory == (len(set(kills)) > 1)


def test_an_adopted_engine_whose_status_nobody_knows_was_killed_if_the_kernel_says_so(order: EngineOrder) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        adopted = Adopted(psutil.Process(process.pid))
    Kills.counts = iter([2, 3, 3])
    engine = EngineProcess(order)
    engine._oom = OomWatch(Kills())
    engine._process = adopted
    assert engine.poll(1.0) == "failed"
    assert "signal 9 because memory ran out" in engine.report.error


@pytest.mark.parametrize(("allowed", "expected"), [(64, "2"), (2, None)])
def test_thread_pools_are_told_of_a_quota(monkeypatch: pytest.MonkeyPatch, allowed: int, expected: str | None) -> None:
    """What the affinity allows they see by themselves, and count hyper-threads in their own way."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch_module, "usable_cores", lambda _: (2, "control group"))
    monkeypatch.setattr(launch_module, "allowed_cores", lambda: allowed)
    assert engine_environ().get("OMP_NUM_THREADS") == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert engine_environ()["OMP_NUM_THREADS"] == "7", "what an operator sets counts"


def test_a_process_whose_order_cannot_be_written_is_not_started(order: EngineOrder) -> None:
    Path(order_path(order.report)).mkdir()  # where the file should go
    engine = EngineProcess(order)
    with pytest.raises(OSError, match="director"):
        engine.start()
    assert engine.pid == 0
    Path(order_path(order.report)).rmdir()
    engine.kill()


def test_an_engine_that_runs_again_was_not_killed_for_want_of_memory(engine: EngineProcess) -> None:
    engine.is_out_of_memory = True
    assert engine.poll(engine._started + MAX_BACKOFF_SECONDS) == "restarted"
    assert not engine.is_out_of_memory


@dataclass
class Undying:
    """A process that waits in the kernel for a device that never answers: no signal ends it."""

    pid: int = NOBODY
    returncode: int | None = None
    signals: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        return None

    def kill(self) -> None:
        self.signals.append(9)

    def send_signal(self, sig: int, /) -> None:
        self.signals.append(sig)

    def wait(self, timeout: float | None = None) -> int | None:
        threading.Event().wait()
        raise AssertionError


def test_the_end_of_an_engine_that_cannot_be_killed_is_not_waited_for(
    order: EngineOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, process = EngineProcess(order), Undying()
    engine._process, engine.report = process, EngineReport(pid=NOBODY, state="ready")
    engine.kill()
    assert process.signals == [9]
    assert engine.is_running(), "its memory is not free yet"
    assert not engine.answers
    later = time.monotonic() + KILL_SECONDS
    monkeypatch.setattr("serving.manager.engine_process.time.monotonic", lambda: later + 1)
    assert not engine.is_running(), "it is given up"


def test_an_engine_that_hangs_is_replaced_even_if_it_cannot_be_killed(order: EngineOrder) -> None:
    engine, process = EngineProcess(order), Undying()
    engine._process, engine.was_ready, engine._hang, engine._hung_at = process, True, "the engine hung", 100.0
    assert engine.poll(100.0 + REAP_SECONDS / 2) is None
    assert engine.poll(101.0 + REAP_SECONDS) == "lost"
    assert engine.report.error == "the engine hung"
    assert engine._restart_at <= 101.0 + REAP_SECONDS, "at once, as rows wait for it"


def test_an_engine_that_does_not_come_back_in_the_time_of_a_load_is_started_anew(order: EngineOrder) -> None:
    engine, process = EngineProcess(order), Undying()
    engine._process, engine.was_ready, engine._started = process, True, 100.0
    engine.end_late_load(110.0, 10.0)
    assert process.signals == []
    engine.end_late_load(110.1, 10.0)
    engine.end_late_load(110.2, 10.0)
    assert process.signals == [9]
    assert engine.poll(112.0) == "lost"
    assert engine.report.error == "loading again took longer than HEADWAITER_LOAD_SECONDS=10"
    engine._process, engine.report, engine._hang = process, EngineReport(pid=NOBODY, state="ready"), ""
    engine.end_late_load(200.0, 10.0)
    assert process.signals == [9], "one that answers has loaded"


class Weighed(EngineProcess):
    """An engine of which memory is told."""

    memory = Memory()

    def _memory(self) -> Memory:
        return self.memory


@pytest.mark.parametrize(
    ("ready", "growth", "later", "expected"),
    [
        (40, 30, 40, 70 + GROWTH_BYTES // MIB),
        (40, 30, 200, 200),
        (100, 0, 40, 100 + GROWTH_BYTES // MIB),
    ],
)
def test_an_engine_counts_with_what_it_is_going_to_take(
    order: EngineOrder, ready: int, growth: int, later: int, expected: int
) -> None:
    engine = Weighed(order)
    engine.memory = Memory(30 * MIB)
    engine.measure()
    assert engine.peak_bytes == 30 * MIB, "while it loads, it is only what it has"
    engine.report = EngineReport(pid=NOBODY, state="ready", growth_bytes=growth * MIB)
    for own in (ready, later):
        engine.memory = Memory(own * MIB)
        assert engine.measure() == own * MIB
    assert engine.peak_bytes == expected * MIB
