"""Benchmark: what Headwaiter itself costs, with a model that answers at once: an engine's processor time for each row,
and a front's for each request, however many versions are loaded.
"""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
import zmq
from transformers import AutoTokenizer, BertForSequenceClassification

from bench.headwaiter_server import MODEL
from bench.models import tiny_classifier
from bench.own_feed import TOKENS
from bench.processes import ROOT
from bench.report import table
from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.settings import RegistrySettings
from registry.staging import describe
from serving.engine.batching.cost import Cost
from serving.engine.engine import Engine
from serving.engine.meter import EngineMeter
from serving.engine.model import Model
from serving.engine.optimizations.execution_form import ExecutionForm
from serving.front.front import Front
from serving.settings import ServingSettings
from serving.tasks.base.request import parse_body
from serving.wire.routing_table import EngineEntry, ModelEntry, Table, TableFile, VersionEntry

BATCHES = (1, 8, 64)
LOADED = (1, 10, 50)
CONCURRENT = 64
BODY = msgspec.json.encode({"inputs": "The parcel came two days late."})


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each load."""
    torch.set_num_threads(1)  # as a model of no cost gets
    with TemporaryDirectory(prefix="hw-bench-") as name:
        home = Path(name)
        model, root = free_model(home)
        engine = [[str(rows), f"{row_micros(model, home, rows, seconds):.1f}"] for rows in BATCHES]
        front = [[str(loaded), *asyncio.run(request_micros(model, root, home, loaded, seconds))] for loaded in LOADED]
    heads = ["rows a batch", "engine, µs a row (bound: 10 at 64)"], ["versions loaded", "front, µs a request"]
    return "\n\n".join(["## Own cost: a model that answers at once", table(heads[0], engine), table(heads[1], front)])


def free_model(home: Path) -> tuple[Model, Path]:
    """A model that answers at once, and the root of its artifact, which is written below `home`."""
    root = home / "artifact"
    model = Model(root, _make_contract(root))
    model.form = ExecutionForm(partial(_answer_at_once, len(model.contract.labels)))
    return model, root


def _make_contract(root: Path) -> Contract:
    """The contract of an artifact without MLflow's part, which this writes to `root`."""
    folder = Path(shutil.copytree(tiny_classifier(), root / MODEL_FOLDER))
    classifier = BertForSequenceClassification.from_pretrained(folder, id2label={0: "no", 1: "yes"})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return describe(root, classifier, tokenizer, "text-classification", defaults={}, dtype="auto", max_tokens=None)


def _answer_at_once(labels: int, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.zeros(len(input_ids), labels))


def row_micros(model: Model, home: Path, rows: int, seconds: float) -> float:
    """Processor time of an engine's process for each row, with this many rows in a message from another process."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    address = f"ipc://{home}/e{rows}"
    socket.bind(address)
    engine = make_engine(model, socket, rows * TOKENS)
    batch_key = model.task.probe(model.contract, 1).batch_key
    arguments = [sys.executable, "-m", "bench.own_feed", address, str(rows), str(seconds), batch_key]
    client = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE)
    threading.Thread(target=_stop_after, args=(client, engine)).start()
    began = time.process_time()
    engine.run()
    took = time.process_time() - began
    context.destroy(linger=0)
    answered, _ = client.communicate()
    return 1e6 * took / int(answered)


async def request_micros(model: Model, root: Path, home: Path, loaded: int, seconds: float) -> Sequence[str]:
    """Processor time of a front's event loop for each request with this many live versions."""
    run = home / f"run{loaded}"
    run.mkdir()
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(f"ipc://{run}/e")
    engine = make_engine(model, socket, 4096)
    thread = threading.Thread(target=engine.run)
    thread.start()
    front = Front(ServingSettings(RegistrySettings(run, ""), (), run, timeout_seconds=60))
    TableFile(run).write(make_table(model, root, run, loaded))
    gc.collect()
    gc.freeze()  # as a front's process does
    await front.start()
    while not front.is_ready():
        await asyncio.sleep(0.01)
    done, end = 0, time.monotonic() + seconds

    async def ask() -> None:
        nonlocal done
        while time.monotonic() < end:
            read = partial(parse_body, BODY, max_rows=100)
            await front.answer(f"m{loaded - 1}", None, read, protocol="huggingface")
            done += 1

    began = time.thread_time()
    await asyncio.gather(*(ask() for _ in range(CONCURRENT)))
    took = time.thread_time() - began
    await front.stop()
    engine.stop()
    thread.join()
    context.destroy(linger=0)
    return [f"{1e6 * took / done:.0f}"]


def _stop_after(client: "subprocess.Popen[bytes]", engine: Engine) -> None:
    client.wait()
    engine.stop()


def make_engine(model: Model, socket: Any, budget_tokens: int) -> Engine:
    """An engine of the model at the end of the socket."""
    return Engine(model, Cost(1e-3, 1e-6, budget_tokens), socket, EngineMeter(MODEL, "1", model.contract.task))


def make_table(model: Model, root: Path, run: Path, loaded: int) -> Table:
    """A table of `count` models, all served by one engine."""
    engine = EngineEntry(
        pid=os.getpid(),
        address=f"ipc://{run}/e",
        device="cpu",
        dtype="float32",
        dtype_note="",
        budget_tokens=4096,
        tokens_per_second=1e6,
        accepting=True,
    )
    version = VersionEntry(state="ready", root=str(root), contract=model.contract, engines=(engine,))
    entry = ModelEntry(live="1", aliases={"champion": "1"}, versions={"1": version})
    return Table(models={f"m{number}": entry for number in range(loaded)}, has_started=True)
