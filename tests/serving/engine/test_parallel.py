"""Batches side by side: the engine's loop hands them out and is woken when they end."""

import threading
from contextlib import closing
from select import select
from typing import Any

import pytest
import torch

from registry.cache import fetch
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.parallel import CpuPlan, ForwardPool
from tests.alike import assert_alike
from tests.families import build, texts_of
from tests.local import Local
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.processor, pytest.mark.surroundings, pytest.mark.slow]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A small classifier in its fastest form."""
    tmp_path = tmp_path_factory.mktemp("parallel")
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(tmp_path / "home")})
    folder = build(tmp_path / "model", "bert", "AutoModelForSequenceClassification")
    logged = log_model(folder, task="text-classification", name="m", settings=registry)
    root, _ = fetch(Versions(registry).resolve(Reference("m", version=logged.version)), registry)
    run = tmp_path / "run"
    run.mkdir()
    return Local(root, run)


@pytest.fixture
def local(classifier: Local) -> Local:
    """The classifier, which runs two forward passes side by side."""
    classifier.plan = CpuPlan(passes=2, threads=1, single_row_threads=2)
    return classifier


def test_batches_run_side_by_side_and_every_row_gets_its_own_answer(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"inputs": text} for text in texts_of(240, 1)]  # more than one batch takes
    local.plan = CpuPlan()
    expected = local.answers(asked)
    local.plan = CpuPlan(passes=2, threads=1, single_row_threads=2)
    together, launch, seen = threading.Barrier(2), local.model.launch, list[str]()

    def launch_together(rows: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # the engine's row for checks
            return launch(rows)
        if not seen:
            together.wait(WAIT_SECONDS)  # each thread's first batch waits until the other thread has one, too
        seen.append(threading.current_thread().name)
        return launch(rows)

    monkeypatch.setattr(local.model, "launch", launch_together)
    monkeypatch.setattr(local.model, "batches", [])
    for found, wanted in zip(local.answers(asked), expected, strict=True):
        assert_alike(found, wanted)
    assert len(set(seen)) == 2


def test_a_row_that_fails_in_a_pool_costs_its_neighbours_nothing(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = local.model.launch

    def refuse_long(rows: Any) -> Any:
        if any(row.length > 30 for row in rows):
            raise RuntimeError("too long for this model")
        return launch(rows)

    monkeypatch.setattr(local.model, "launch", refuse_long)
    asked = [{"inputs": "the fox " * count} for count in (2, 3, 40, 4, 2)]
    answers = local.answers(asked)
    assert [isinstance(answer, list) for answer in answers] == [True, True, False, True, True]
    assert "failed on this input" in str(answers[2])


def test_the_end_of_a_batch_wakes_whoever_waits_for_it(local: Local) -> None:
    with closing(ForwardPool(local.model, CpuPlan(passes=2))) as pool:
        assert select([pool], [], [], 0)[0] == []
        forward_pass = pool.launch([local.model.task.probe(local.contract, 9).to_row(0, 0.0)])
        assert select([pool], [], [], WAIT_SECONDS)[0] == [pool]
        assert forward_pass.is_done()
        pool.clear()
        assert select([pool], [], [], 0)[0] == []
        pool.clear()
        assert len(forward_pass.wait()[0]) == 1


@pytest.mark.usefixtures("two_threads")
def test_threads_of_a_forward_pass_are_its_own(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(local.model, "launch", lambda rows: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    row = local.model.task.probe(local.contract, 9).to_row(0, 0.0)
    for tokens in (9, 10):
        plan = CpuPlan(passes=2, threads=1, single_row_threads=before, single_row_tokens=tokens)
        with closing(ForwardPool(local.model, plan)) as pool:
            for rows, is_idle in (([row], False), ([row], True), ([row, row], True)):
                pool.launch(rows, is_idle=is_idle)._future.result()
    assert seen == [1, before, 1, 1, 1, 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("threads", "is_told"), [(1, True), (2, True), (3, False)])
def test_a_pass_of_many_threads_does_not_tell_its_processor_time(local: Local, threads: int, is_told: bool) -> None:
    """The more threads there are, the less of the work is its own thread's, whose time is told."""
    model = local.model
    item = texts_of(1, 1)[0]
    row = model.task.encode(item, model.task.parameters_type(), model.version_context).rows[0].to_row(0, 0.0)
    with closing(ForwardPool(model, CpuPlan(threads=threads))) as pool:
        done = pool.launch([row], is_idle=False)
        done.wait()
    assert (done.processor_seconds > 0.0) == is_told
