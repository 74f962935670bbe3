"""Engine processes on a GPU: versions are swapped under load, memory comes back, a broken device is replaced."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import psutil
import pytest
import torch

from bench.gpu_client import KIND
from bench.gpu_engines import Engines, swap
from bench.gpu_plan import MIXES, SMALL, Plan
from bench.models import build_artifact
from serving.manager.engine_process import EngineProcess
from serving.manager.prestart import start_template
from serving.wire.messages import Row
from tests.e2e.server import wait_until
from tests.gpu.loaded import ask, connected, receive, send

pytestmark = [pytest.mark.gpu, pytest.mark.server]

NOISE = 64 << 20
"""What the driver may keep, in bytes."""
OUTSIDE = 1 << 30
"""No token of any vocabulary: looking it up is an error that a GPU does not recover from."""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """A small BERT classifier."""
    root = tmp_path_factory.mktemp("artifact")
    build_artifact(root, SMALL["base"], str(device), "float32")
    return root


@pytest.fixture
def engines(tmp_path_factory: pytest.TempPathFactory, artifact: Path, plan: Plan) -> Iterator[Engines]:
    """Starts engines of the classifier; all have ended afterwards."""
    engines = Engines(tmp_path_factory.mktemp("r") / "1", artifact, plan)  # sockets need a short path
    yield engines
    engines.kill()


@pytest.fixture(scope="module")
def plan(device: torch.device) -> Plan:
    """How they are loaded and fed."""
    is_cuda = device.type == "cuda"
    dtype = "bfloat16" if is_cuda else "float32"
    return Plan(str(device), dtype, is_small=not is_cuda, seconds=0.5, under_way=64)


def row_of(*tokens: int) -> Row:
    return Row(0, len(tokens), numpy.asarray(tokens, numpy.int32).tobytes(), b"", KIND, float("inf"))


def test_versions_are_swapped_under_load_and_their_memory_comes_back(
    tmp_path: Path, engines: Engines, plan: Plan
) -> None:
    used = {"none": engines.memory_bytes()}
    first = engines.start("1")
    used["one"] = engines.memory_bytes()
    fed = swap(tmp_path, engines, first, MIXES["50"], plan, used)
    assert sum(each.failed + each.lost for each in fed) == 0
    assert all(phase.latencies for each in fed for phase in each.phases[1:])
    assert used["none"] < used["one"] < used["two engines"]
    assert plan.is_cuda == (first.report.device_bytes > 0)
    assert used["the first one unloaded"] - used["one"] < NOISE
    assert used["both unloaded"] - used["none"] < NOISE


def test_an_engine_whose_device_is_broken_ends_without_an_answer_and_is_replaced(
    engines: Engines, cuda: torch.device
) -> None:
    engine = engines.start("1")
    good = row_of(5, 6, 7)
    (expected,) = ask(engine.order.address, [good]).values()
    with connected(engine.order.address) as socket:
        send(socket, [row_of(5, OUTSIDE, 7)])
        await_event(engine, "lost")
        assert receive(socket) == {}, "no row is blamed"
    assert engine.report.error
    await_event(engine, "restarted")
    await_event(engine, "ready")
    (found,) = ask(engine.order.address, [good]).values()
    numpy.testing.assert_allclose(found[0], expected[0], atol=0.03)


def await_event(engine: EngineProcess, event: str) -> None:
    wait_until(lambda: engine.poll(time.monotonic()) == event, f"the engine is {event}")


def test_an_engine_that_a_template_forks_finds_the_gpu_by_itself(
    tmp_path_factory: pytest.TempPathFactory, artifact: Path, plan: Plan
) -> None:
    engines = Engines(tmp_path_factory.mktemp("r") / "1", artifact, replace(plan, device="auto"))
    with start_template(engines.run, [artifact]) as template:
        try:
            engine = engines.start("1")
            assert psutil.Process(engine.pid).ppid() == template.pid
            assert engine.report.device == plan.device
            assert len(ask(engine.order.address, [row_of(5, 6, 7)])) == 1
            engine.kill()
            wait_until(lambda: not engine.is_running(), "it has ended")
        finally:
            engines.kill()
            template.kill()
