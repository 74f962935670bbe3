import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from serving.manager.engine_process import EngineProcess
from serving.manager.prestart import REPORT, prestart_engine, take_prestarted
from serving.runtime.server_process import ENGINES, OWNER, claim, is_alive
from serving.wire.engine_orders import EngineOrder


@pytest.fixture
def order(order: EngineOrder, tmp_path: Path) -> EngineOrder:
    """That of the first engine."""
    return msgspec.structs.replace(order, report=str(tmp_path / ENGINES / REPORT))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[psutil.Process]:
    with prestart_engine(tmp_path, os.getpid()) as process:
        yield psutil.Process(process.pid)
        process.kill()


def test_the_manager_of_the_server_finds_the_engine_that_waits(tmp_path: Path, waiting: psutil.Process) -> None:
    assert claim(tmp_path, os.getpid())
    taken = take_prestarted(tmp_path)
    assert taken is not None
    assert taken[0] == str(tmp_path / ENGINES / REPORT)
    assert taken[1].pid == waiting.pid


def test_an_engine_that_has_its_order_waits_no_more(
    tmp_path: Path, waiting: psutil.Process, order: EngineOrder
) -> None:
    taken = take_prestarted(tmp_path)
    assert taken is not None
    engine = EngineProcess(order)
    engine.start(taken[1])
    assert engine.pid == waiting.pid
    assert take_prestarted(tmp_path) is None
    engine.kill()
    assert not is_alive(waiting)
    assert engine.poll(0.0) == "failed"
    assert engine.report.error == "the engine ended"  # its exit status went to the server


def test_an_engine_that_has_ended_is_not_found(tmp_path: Path, waiting: psutil.Process) -> None:
    waiting.kill()
    waiting.wait(10)
    assert take_prestarted(tmp_path) is None


def test_a_server_that_got_the_id_of_another_one_takes_nothing_from_it(tmp_path: Path, waiting: psutil.Process) -> None:
    (tmp_path / OWNER).write_text(f"{os.getpid()}@1.00")
    assert not claim(tmp_path, os.getpid())
    assert take_prestarted(tmp_path) is None


def test_without_a_head_start_there_is_none(tmp_path: Path) -> None:
    assert not claim(tmp_path, os.getpid())
    assert take_prestarted(tmp_path) is None


def test_another_process_with_the_same_id_is_not_the_engine(tmp_path: Path, waiting: psutil.Process) -> None:
    report = tmp_path / ENGINES / REPORT
    report.write_bytes(msgspec.json.encode({"pid": os.getpid(), "state": "waiting"}))
    assert take_prestarted(tmp_path) is None
