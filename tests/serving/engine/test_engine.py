import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy
import pytest
import torch
import zmq

from registry.artifact import read_contract
from registry.cache import fetch
from registry.flavor import log_model
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.engine.batching.cost import Cost
from serving.engine.engine import CANARY_TOKENS, Engine
from serving.engine.heart import Heart
from serving.engine.meter import EngineMeter
from serving.engine.model import Model
from serving.engine.optimizations.attention import BMM_TOKENS
from serving.engine.optimize import optimize
from serving.errors import EngineError
from serving.wire.heartbeat import Rows, read_rows
from serving.wire.messages import FromEngine, Outputs, Row, Submit, unpack
from tests import local  # its engines leave at once when they are stopped
from tests.families import build
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.processor, pytest.mark.slow]

SLOW = Cost(fixed_seconds=1.0, token_seconds=1e-3, budget_tokens=512)
"""A thousand times what the small model takes."""
BATCHES = 48
LAST = b""
"""Sent after the replies of an engine that has ended."""


def load(home: Path) -> Model:
    registry = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    folder = build(home / "model", "bert", "AutoModelForSequenceClassification")
    logged = log_model(folder, task="text-classification", name="m", settings=registry)
    root, _ = fetch(Versions(registry).resolve(Reference("m", version=logged.version)), registry)
    return Model(root, read_contract(root))


def test_an_engine_learns_what_its_batches_cost(tmp_path: Path) -> None:
    model, context = load(tmp_path), zmq.Context()
    router, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{tmp_path}/e")
    client.connect(f"ipc://{tmp_path}/e")
    engine = Engine(model, SLOW, router, EngineMeter("m", "1", "text-classification"))
    thread = threading.Thread(target=engine.run)
    thread.start()
    kind = model.task.probe(model.contract, 8).batch_key
    for number in range(BATCHES):
        row = Row(number, 8, numpy.full(8, 5, numpy.int32).tobytes(), b"", kind, 1e12)
        client.send(msgspec.msgpack.encode(Submit([row])))
        assert client.poll(int(WAIT_SECONDS * 1000)), "no reply"
        reply = msgspec.msgpack.decode(client.recv(), type=FromEngine)
        assert isinstance(reply, Outputs)
        assert (reply.compute.tokens, reply.compute.pairs) == (8, 64)
        assert 0.0 < reply.compute.seconds <= reply.forward_seconds + 0.01, "clocks differ in resolution"
    engine.stop()
    thread.join(WAIT_SECONDS)
    context.destroy(linger=0)
    assert local.socket_loop.LINGER_SECONDS == 0.0
    assert engine._cost.now.seconds(1, 8) < SLOW.seconds(1, 8) / 2


def test_a_row_that_is_not_finite_spoils_no_other_in_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.optimize.find_min_bmm_tokens", lambda *_: BMM_TOKENS)
    model, context = load(tmp_path), zmq.Context()
    model.form = optimize(model)
    assert model.form.has_block_attention
    with torch.inference_mode():
        model.module.get_input_embeddings().weight[7] = torch.nan
    router, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{tmp_path}/e")
    client.connect(f"ipc://{tmp_path}/e")
    engine = Engine(model, replace(SLOW, is_packed=True), router, EngineMeter("m", "1", "text-classification"))
    thread = threading.Thread(target=engine.run)
    thread.start()
    kind = model.task.probe(model.contract, 8).batch_key
    tokens = {number: 7 if number == 2 else 9 + number for number in range(6)}
    rows = [
        Row(number, 5 + number, numpy.full(5 + number, token, numpy.int32).tobytes(), b"", kind, 1e12)
        for number, token in tokens.items()
    ]
    client.send(msgspec.msgpack.encode(Submit(rows)))
    found: dict[int, bool] = {}
    while len(found) < len(rows):
        assert client.poll(int(WAIT_SECONDS * 1000)), "no reply"
        reply = msgspec.msgpack.decode(client.recv(), type=FromEngine)
        assert isinstance(reply, Outputs)
        found |= dict(zip(reply.ids, numpy.isfinite(unpack(reply.arrays[0])).all(-1).tolist(), strict=True))
    engine.stop()
    thread.join(WAIT_SECONDS)
    context.destroy(linger=0)
    assert found == {number: number != 2 for number in tokens}


def test_a_batch_that_waited_for_the_one_before_had_the_device_from_its_end() -> None:
    gpu: Any = SimpleNamespace(_is_cuda=True, _free=0.0)
    pending = [
        SimpleNamespace(began=began, seconds=seconds) for began, seconds in ((1.0, 0.5), (1.2, 0.8), (3.0, 0.25))
    ]
    assert [Engine._device_seconds(gpu, each) for each in pending] == [0.5, 0.5, 0.25]
    cpu: Any = SimpleNamespace(_is_cuda=False, _free=0.0)
    assert [Engine._device_seconds(cpu, each) for each in pending] == [0.5, 0.8, 0.25], "each has its own core"


class Device(Model):
    """A model on a device that some rows break: for good, or not at all.

    broken_by: a token of such rows. faults: how often they still do. raises: whether it does, or answers NaN instead.
    checks: how often other rows than those that were asked were run.
    """

    broken_by = 13
    is_sticky = True
    raises = True
    checks = 0
    is_broken = False
    faults = 10**9

    def launch(self, rows: Sequence[Row]) -> Any:
        """Fail on a row with the token, and on all rows once the device is broken."""
        is_broken = self.is_broken
        self.checks += any(each.length == CANARY_TOKENS for each in rows)
        if self.faults and any(self.broken_by in memoryview(each.tokens).cast("i") for each in rows):
            self.faults -= 1
            self.is_broken, is_broken = self.is_sticky, True
        if is_broken and self.raises:
            raise RuntimeError("an illegal memory access was encountered")
        done = super().launch(rows)
        if is_broken:
            done.arrays = tuple(
                torch.full_like(array, torch.nan) if array.is_floating_point() else array for array in done.arrays
            )
        return done


def ask(tmp_path: Path, model: Model, rows: Sequence[Row]) -> tuple[dict[int, str], BaseException | None, Rows | None]:
    """Each row's reply; what the engine raised; and the rows that it was computing by then."""
    context, path, raised = zmq.Context(), tmp_path / "1.7.beat", []
    router, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    client.setsockopt(zmq.ROUTING_ID, b"front")
    router.bind(f"ipc://{tmp_path}/e")
    client.connect(f"ipc://{tmp_path}/e")
    engine = Engine(model, SLOW, router, EngineMeter("m", "1", "text-classification"), heart=Heart(path))
    replies: dict[int, str] = {}

    def run() -> None:
        try:
            engine.run()
        except Exception as error:
            raised.append(error)
            router.send_multipart((b"front", LAST))

    client.send(msgspec.msgpack.encode(Submit(list(rows))))
    assert router.poll(int(WAIT_SECONDS * 1000)), "the rows do not arrive"
    thread = threading.Thread(target=run)
    thread.start()
    while len(replies) < len(rows):
        assert client.poll(int(WAIT_SECONDS * 1000)), "no reply"
        if (message := client.recv()) == LAST:
            break
        reply = msgspec.msgpack.decode(message, type=FromEngine)
        kind = "answer" if isinstance(reply, Outputs) else reply.reason
        replies |= dict.fromkeys(reply.ids, kind)
    engine.stop()
    thread.join(WAIT_SECONDS)
    context.destroy(linger=0)
    return replies, raised[0] if raised else None, read_rows(path)


def rows_of(model: Model, *tokens: int, is_suspect: bool = False) -> list[Row]:
    kind = model.task.probe(model.contract, 8).batch_key
    return [
        Row(number, 5, numpy.full(5, token, numpy.int32).tobytes(), b"", kind, 1e12, is_suspect=is_suspect)
        for number, token in enumerate(tokens)
    ]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    model = load(tmp_path_factory.mktemp("device"))
    model.__class__ = Device
    assert isinstance(model, Device)
    return model


@pytest.fixture
def broken_by_13(device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(device, "is_broken", False, raising=False)
    monkeypatch.setattr(device, "faults", 10**9, raising=False)
    monkeypatch.setattr(device, "checks", 0)
    return device


def test_a_row_that_the_model_fails_on_fails_alone(
    tmp_path: Path, broken_by_13: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "is_sticky", False)
    replies, raised, _ = ask(tmp_path, broken_by_13, rows_of(broken_by_13, 5, 13, 6))
    assert replies == {0: "answer", 1: "failed", 2: "answer"}
    assert raised is None


@pytest.mark.parametrize(
    ("tokens", "faults", "replies"),
    [((13,), 1, ["answer"]), ((13,), 2, ["failed"]), ((5, 13), 1, ["answer"] * 2), ((5, 13), 2, ["answer", "failed"])],
)
def test_a_row_that_the_model_fails_on_is_tried_once_more(
    tmp_path: Path,
    broken_by_13: Device,
    monkeypatch: pytest.MonkeyPatch,
    tokens: tuple[int, ...],
    faults: int,
    replies: list[str],
) -> None:
    monkeypatch.setattr(Device, "is_sticky", False)
    broken_by_13.faults = faults
    found, raised, _ = ask(tmp_path, broken_by_13, rows_of(broken_by_13, *tokens))
    assert (found, raised) == (dict(enumerate(replies)), None)
    assert broken_by_13.faults == 0


def test_an_engine_whose_device_is_broken_ends_and_blames_no_row(tmp_path: Path, broken_by_13: Model) -> None:
    replies, raised, computed = ask(tmp_path, broken_by_13, rows_of(broken_by_13, 5, 13, 6))
    assert replies == {}
    assert isinstance(raised, EngineError)
    assert "the model does not work any more: after RuntimeError" in str(raised)
    assert computed == {b"front": [0, 1, 2]}


def test_of_rows_that_must_be_alone_only_the_one_that_breaks_the_device_was_computed(
    tmp_path: Path, broken_by_13: Model
) -> None:
    replies, raised, computed = ask(tmp_path, broken_by_13, rows_of(broken_by_13, 5, 13, 6, is_suspect=True))
    assert replies == {0: "answer"}
    assert isinstance(raised, EngineError)
    assert computed == {b"front": [1]}


@pytest.mark.parametrize("tokens", [(13,), (5, 13, 6)])
def test_an_engine_whose_device_answers_nan_for_good_ends_and_blames_no_row(
    tmp_path: Path, broken_by_13: Device, monkeypatch: pytest.MonkeyPatch, tokens: tuple[int, ...]
) -> None:
    monkeypatch.setattr(broken_by_13, "raises", False)
    replies, raised, _ = ask(tmp_path, broken_by_13, rows_of(broken_by_13, *tokens))
    assert replies == {}
    assert isinstance(raised, EngineError)
    assert "after FloatingPointError it failed on a plain row (FloatingPointError)" in str(raised)


def test_a_row_that_gives_nan_ends_no_engine_and_has_it_checked_now_and_then(
    tmp_path: Path, broken_by_13: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken_by_13, "raises", False)
    monkeypatch.setattr(Device, "is_sticky", False)
    monkeypatch.setattr("serving.engine.recheck.PAUSE_SECONDS", 1000.0)
    rows = rows_of(broken_by_13, *[13] * 8, is_suspect=True)
    replies, raised, _ = ask(tmp_path, broken_by_13, rows)
    assert (replies, raised) == (dict.fromkeys(range(8), "answer"), None)
    assert broken_by_13.checks == 2, "before the first row, and after it"


def test_a_model_whose_plain_row_was_never_finite_is_not_ended_for_it(
    tmp_path: Path, broken_by_13: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken_by_13, "raises", False)
    broken_by_13.is_broken = True
    replies, raised, _ = ask(tmp_path, broken_by_13, rows_of(broken_by_13, 5))
    assert (replies, raised) == ({0: "answer"}, None)
