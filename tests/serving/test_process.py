from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import engine as engine_module
from serving.engine import await_order
from serving.process import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, STABLE_SECONDS, EngineProcess, spawn
from serving.report import EngineOrder, EngineReport, order_path

pytestmark = pytest.mark.surroundings

NOBODY = 2**22 + 1
"""No process has this id: Linux goes up to 2**22."""


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


def test_an_engine_whose_order_is_there_imports_nothing_before_it_knows_how_gently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LARGE_MODULES", ("no.such.module",))
    (tmp_path / "1.order").touch()
    await_order(tmp_path / "1.order")
    with pytest.raises(ModuleNotFoundError):
        await_order(tmp_path / "2.order")


def test_a_process_that_waits_for_its_order_ends_with_its_folder(order: EngineOrder, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    waiting = spawn(str(folder / "1.order"))
    folder.rmdir()
    assert waiting.wait(60) == 0


def test_a_process_whose_order_cannot_be_written_is_ended(order: EngineOrder) -> None:
    waiting = spawn(order_path(order.report))
    Path(order_path(order.report)).mkdir()  # where the file should go
    engine = EngineProcess(order)
    with pytest.raises(OSError, match="director"):
        engine.start(waiting)
    Path(order_path(order.report)).rmdir()
    engine.kill()
    assert waiting.poll() is not None
