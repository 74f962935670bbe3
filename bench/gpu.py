"""The engine on a GPU: sequences/s over its socket, as a share of the bare forward limit and times a plain pipeline.

`python -m bench.gpu` needs torch, transformers and what an engine needs (msgspec, pyzmq, psutil), no registry and no
server: it writes artifacts with random weights itself, starts engines as the manager does, and feeds them from
`gpu_client`. `--device cpu --small` shows that it works, not how fast.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from bench.gpu_client import CLIENTS, IN_MESSAGE, Clients, Fed, make_ids
from bench.limit import form_batches
from bench.models import build_artifact
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import LengthMix, describe_lengths, make_lengths
from serving.engine.optimizations.packing import pack_rows
from serving.engine.optimizations.unpadded import can_pack, pack, unpack
from serving.engine.process_state import prepare_process
from serving.manager.engine_process import EngineProcess
from serving.wire.engine_orders import EngineOrder

SIZES = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}
SMALL = {"base": (2, 32, 2, 64), "large": (3, 64, 4, 128)}
"""Layers, width, attention heads and inner width of a BERT."""
MIXES = {
    "50": LengthMix("50 tokens", median=50, p90=50, low=50, high=50),
    "512": LengthMix("512 tokens", median=512, p90=512, low=512, high=512),
    "mixed": LengthMix("mixed", median=40, p90=200, low=8, high=512),
}
PIPELINE_ROWS = 32
LOAD_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """The options of the command line. dtype: of the engine and of the limit; the pipeline has its own on a GPU.

    under_way: rows of each client.
    """

    device: str
    dtype: str
    is_small: bool
    seconds: float
    under_way: int

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def budgets(self) -> Sequence[int]:
        """Padded tokens of a batch that are tried for the limit."""
        return (256, 1024) if self.is_small else (4096, 8192, 16384, 32768, 65536)

    @property
    def tokens(self) -> int:
        """Of the rows that the limit and the pipeline go through again and again, about."""
        return 4096 if self.is_small else 1 << 19


@torch.inference_mode()
def measure_limit(model: Any, rows: Sequence[Any], plan: Plan) -> tuple[float, str]:
    """Sequences/s of forward passes alone, all known in advance, and how: of padded and packed batches the best."""
    lists = [row.tolist() for row in rows]
    packs = can_pack(model, torch.device(plan.device), model.dtype)
    seconds = plan.seconds / len(plan.budgets) / (1 + packs)
    found: dict[str, float] = {}
    for form in ("padded", "packed") if packs else ("padded",):
        if form == "packed":
            pack(model)
        for budget in plan.budgets:
            batches = [_inputs(*each, form == "packed") for each in form_batches(lists, budget, plan.device)[0]]
            found[f"{form}, {budget:,}"] = len(rows) / _time(lambda: _run(model, batches), seconds)  # noqa: B023  # called here
    if packs:
        unpack(model)
    best = max(found, key=found.__getitem__)
    return found[best], best


def _inputs(ids: torch.Tensor, mask: torch.Tensor | None, packs: bool) -> dict[str, torch.Tensor]:
    if mask is None:
        return {"input_ids": ids}
    inputs = {"input_ids": ids, "attention_mask": mask}
    packed = pack_rows(mask.sum(1).tolist()) if packs else {}
    return inputs | {name: torch.from_numpy(array).to(ids.device) for name, array in packed.items()}


def _run(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> None:
    for batch in batches:
        logits = model(**batch).logits
    logits.cpu()  # so that a GPU has done everything


@torch.inference_mode()
def measure_pipeline(model: Any, rows: Sequence[Any], plan: Plan) -> float:
    """Sequences/s of batches in order of arrival, each padded to its longest row and waited for; ids in advance."""
    batches = []
    for first in range(0, len(rows), PIPELINE_ROWS):
        tensors = [torch.from_numpy(row).long() for row in rows[first : first + PIPELINE_ROWS]]
        ids = pad_sequence(tensors, batch_first=True).to(plan.device)
        batches.append({"input_ids": ids, "attention_mask": (ids != 0).long()})

    def work() -> None:
        for batch in batches:
            model(**batch).logits.float().softmax(-1).cpu()

    return len(rows) / _time(work, plan.seconds)


def _time(work: Callable[[], None], seconds: float) -> float:
    """Mean seconds of the whole runs that fill `seconds`, after one to warm up."""
    work()
    runs, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not runs:
        work()
        runs += 1
    return elapsed / runs


class Engines:
    """Engine processes of one artifact, started as the manager starts them."""

    def __init__(self, run: Path, root: Path, plan: Plan) -> None:
        self._run, self._root, self._plan = run, root, plan
        self._started: list[EngineProcess] = []

    def start(self, version: str, *, low_priority: bool = False) -> EngineProcess:
        """Blocks until it serves; raises BenchError."""
        order = EngineOrder(
            model="bert",
            version=version,
            root=str(self._root),
            device=self._plan.device,
            dtype=self._plan.dtype,
            address=f"ipc://{self._run}/{version}.sock",
            report=f"{self._run}/{version}.json",
            threads=0,
            server=os.getpid(),
            low_priority=low_priority,
        )
        engine = EngineProcess(order)
        self._started.append(engine)
        engine.start()
        deadline = time.monotonic() + LOAD_SECONDS
        while (change := engine.poll(time.monotonic())) != "ready":
            if change is not None or time.monotonic() > deadline:
                raise BenchError(f"the engine is not ready: {engine.report.error or 'it takes too long'}")
            time.sleep(0.02)
        return engine

    def stop(self, engine: EngineProcess) -> None:
        """Let it finish; blocks until the process is gone."""
        engine.stop()
        deadline = time.monotonic() + LOAD_SECONDS
        while engine.is_running() and time.monotonic() < deadline:
            time.sleep(0.02)
        engine.kill()

    def memory(self) -> str:
        """Memory in use on the GPU, by all processes; on a CPU by the engines."""
        if self._plan.is_cuda:
            free, total = torch.cuda.mem_get_info(self._plan.device)
            return f"{(total - free) / 2**20:,.0f} MiB"
        return f"{sum(engine.memory_bytes() for engine in self._started) / 2**20:,.0f} MiB"

    def kill(self) -> None:
        """End what still runs."""
        for engine in self._started:
            engine.kill()


def feed_engine(run: Path, engine: EngineProcess, mix: LengthMix, plan: Plan) -> float:
    """Tokens/s that the engine answers, after a warm-up."""
    clients = Clients(run, engine.order.address, make_lengths(mix), plan.under_way)
    time.sleep(plan.seconds / 2)
    clients.tell("phase")
    time.sleep(plan.seconds)
    clients.tell("phase")
    return sum(fed.phases[1].tokens / (fed.phases[1].ended - fed.phases[1].began) for fed in clients.stop())


def mean_tokens(mix: LengthMix) -> float:
    """Of a row."""
    lengths = make_lengths(mix)
    return sum(lengths) / len(lengths)


def measure_bare(model: Any, mix: LengthMix, plan: Plan) -> dict[str, float]:
    """Tokens/s without an engine: of the limit, then of the pipeline."""
    count = max(PIPELINE_ROWS, int(plan.tokens / mean_tokens(mix)))
    rows = make_ids(make_lengths(mix, count), seed=0)
    mean = sum(row.size for row in rows) / len(rows)
    limit, form = measure_limit(model, rows, plan)
    pipeline = measure_pipeline(deepcopy(model).half() if plan.is_cuda else model, rows, plan)
    return {f"bare limit ({form} tokens a batch)": limit * mean, "plain pipeline": pipeline * mean}


def describe_mix(mix: LengthMix, found: dict[str, float]) -> list[list[str]]:
    """The table's rows for the tokens/s that were found: limit, pipeline, engine. Ratios are of tokens/s."""
    mean = mean_tokens(mix)
    limit, pipeline, _ = found.values()
    return [
        [mix.name, name, rate(each / mean), rate(each), f"{each / limit:.2f}", f"{each / pipeline:.2f}"]
        for name, each in found.items()
    ]


def swap(
    run: Path, engines: Engines, first: EngineProcess, mix: LengthMix, plan: Plan, used: dict[str, str]
) -> list[Fed]:
    """Load a second version beside the first one, which is fed, move the clients to it, and unload the first.

    Returns what the clients saw: warm-up, one version, the next one loads, moved to it. Adds to `used`.
    """
    clients = Clients(run, first.order.address, make_lengths(mix), plan.under_way)
    time.sleep(plan.seconds / 2)
    clients.tell("phase")
    time.sleep(plan.seconds)
    clients.tell("phase")
    second = engines.start("2", low_priority=True)
    used["two engines"] = engines.memory()
    clients.tell(f"phase\nmove {second.order.address}")
    time.sleep(plan.seconds)
    fed = clients.stop()
    engines.stop(first)
    used["the first one unloaded"] = engines.memory()
    engines.stop(second)
    used["both unloaded"] = engines.memory()
    return fed


def describe_swap(fed: Sequence[Fed]) -> str:
    """Latency in each phase, and whether rows went lost."""
    rows = []
    for index, name in enumerate(("one version", "the next one loads", "moved to it"), start=1):
        phases = [each.phases[index] for each in fed]
        taken = [1000 * value for phase in phases for value in phase.latencies]
        p50, p99 = numpy.percentile(taken, [50, 99]) if taken else (0.0, 0.0)
        per_second = sum(len(phase.latencies) / (phase.ended - phase.began) for phase in phases)
        rows.append([name, rate(per_second), f"{p50:.0f}", f"{p99:.0f}"])
    counts = [sum(getattr(each, name) for each in fed) for name in ("sent", "failed", "lost")]
    shown = table(["swap under load", "sequences/s", "p50 ms", "p99 ms"], rows)
    return shown + "\n\n{:,} rows sent, {} failed, {} lost.".format(*counts)


def measure_model(size: str, mixes: Sequence[str], plan: Plan) -> str:
    """The section of one model."""
    with tempfile.TemporaryDirectory(prefix="hw-gpu-") as folder:
        run = Path(folder)
        model = build_artifact(run / "artifact", (SMALL if plan.is_small else SIZES)[size], plan.device, plan.dtype)
        found = {name: measure_bare(model, MIXES[name], plan) for name in mixes}
        del model
        if plan.is_cuda:
            torch.cuda.empty_cache()
        engines = Engines(run, run / "artifact", plan)
        try:
            used = {"no engine": engines.memory()}
            engine = engines.start("1")
            used["one engine"] = engines.memory()
            for name in mixes:
                found[name]["engine"] = feed_engine(run, engine, MIXES[name], plan)
            fed = swap(run, engines, engine, MIXES[mixes[-1]], plan, used)
        finally:
            engines.kill()
    rows = [row for name in mixes for row in describe_mix(MIXES[name], found[name])]
    report = engine.report
    return "\n\n".join(
        [
            f"## BERT-{size}",
            table(["lengths", "", "sequences/s", "tokens/s", "of the limit", "× the pipeline"], rows),
            f"Execution: {report.execution}; {report.dtype}; up to {report.budget_tokens:,} tokens a batch.",
            describe_swap(fed),
            table(["memory", "used"], [[name, each] for name, each in used.items()]),
        ]
    )


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure an engine on a GPU.")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="", help="of engine and limit (bfloat16, on a CPU float32)")
    parser.add_argument("--small", action="store_true", help="tiny models: shows that it works, not how fast")
    parser.add_argument("--models", default="base,large")
    parser.add_argument("--mixes", default="50,512,mixed")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure (3)")
    parser.add_argument("--rows", type=int, default=256, help="of each client that are under way (256)")
    options = parser.parse_args()
    chosen, mixes = options.models.split(","), options.mixes.split(",")
    if unknown := [name for name in chosen if name not in SIZES] + [name for name in mixes if name not in MIXES]:
        parser.error(f"unknown {unknown[0]}: models are {', '.join(SIZES)}, mixes {', '.join(MIXES)}")
    is_cuda = options.device.startswith("cuda")
    dtype = options.dtype or ("bfloat16" if is_cuda else "float32")
    plan = Plan(options.device, dtype, options.small, options.seconds, options.rows)
    transformers.utils.logging.disable_progress_bar()
    prepare_process()
    where = torch.cuda.get_device_name(options.device) if is_cuda else f"{len(os.sched_getaffinity(0))} cores"
    print(f"# The engine on {where}: torch {torch.__version__}, transformers {transformers.__version__}\n")
    print(f"{CLIENTS} clients, {plan.under_way} rows under way each, {IN_MESSAGE} in a message.")
    print(*(f"{MIXES[name].name}: {describe_lengths(MIXES[name])}." for name in mixes))
    try:
        for size in chosen:
            print(f"\n{measure_model(size, mixes, plan)}", flush=True)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
