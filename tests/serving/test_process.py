from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.process import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, STABLE_SECONDS, EngineProcess
from serving.report import EngineOrder, EngineReport

NOBODY = 2**22 + 1
"""No process has this id: Linux goes up to 2**22."""


@pytest.fixture
def order(tmp_path: Path) -> EngineOrder:
    return EngineOrder(
        model="m",
        version="1",
        root=str(tmp_path),
        device="cpu",
        dtype="auto",
        address=f"ipc://{tmp_path}/1.sock",
        report=f"{tmp_path}/1.json",
        threads=0,
        server=psutil.Process().pid,
    )


@pytest.fixture
def engine(order: EngineOrder) -> Iterator[EngineProcess]:
    """One that served and has ended."""
    engine = EngineProcess.adopt(order, EngineReport(pid=NOBODY, state="ready"))
    yield engine
    engine.kill()


def test_an_engine_that_crashes_on_and_on_is_restarted_later_and_later(engine: EngineProcess) -> None:
    lost_at = engine._started
    for crash in range(1, 9):
        pause = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (crash - 1))
        assert (engine.crashes, engine.restarts) == (crash, crash - 1)
        assert engine.poll(lost_at + pause * 0.99) is None
        assert engine.poll(lost_at + pause * 1.01) == "restarted"
        psutil.Process(engine.pid).kill()
        psutil.Process(engine.pid).wait(10)
        lost_at = engine._started + 1
        assert engine.poll(lost_at) == "lost"


def test_an_engine_that_served_long_enough_has_its_crashes_forgotten(engine: EngineProcess) -> None:
    for expected in (2, 1):
        assert engine.poll(engine._started + LONGEST_BACKOFF_SECONDS * 2) == "restarted"
        psutil.Process(engine.pid).kill()
        psutil.Process(engine.pid).wait(10)
        engine.poll(engine._started + (1 if expected == 2 else STABLE_SECONDS + 1))
        assert engine.crashes == expected


def test_an_engine_that_cannot_be_started_again_is_tried_again(engine: EngineProcess, order: EngineOrder) -> None:
    order_file = Path(order.report).with_suffix(".order")
    order_file.mkdir()  # so that the order cannot be written
    now = engine._started + 1
    assert engine.poll(now) == "lost"
    order_file.rmdir()
    assert engine.crashes == 2
    assert engine.poll(now + FIRST_BACKOFF_SECONDS * 2) == "restarted"
