"""Engine processes of `bench.gpu`, started as the manager starts them, and how they are fed and swapped."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch

from bench.gpu_client import Clients, Fed
from bench.gpu_plan import Plan
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import LengthMix, make_lengths
from serving.manager.engine_process import EngineProcess
from serving.runtime.run_folder import RunFolder
from serving.wire.engine_orders import EngineOrder

LOAD_SECONDS = 180.0


class Engines:
    """Engine processes of one artifact, started as the manager starts them."""

    def __init__(self, run: Path, root: Path, plan: Plan) -> None:
        self._run, self._root, self._plan = RunFolder.make(run).path, root, plan
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
            run=str(self._run),
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
    clients = Clients(run, engine.order.address, make_lengths(mix), plan.under_way, plan.pause)
    time.sleep(plan.seconds / 2)
    clients.tell("phase")
    time.sleep(plan.seconds)
    clients.tell("phase")
    return sum(fed.phases[1].tokens / (fed.phases[1].ended - fed.phases[1].began) for fed in clients.stop())


def swap(
    run: Path, engines: Engines, first: EngineProcess, mix: LengthMix, plan: Plan, used: dict[str, str]
) -> list[Fed]:
    """Load a second version beside the first one, which is fed, move the clients to it, and unload the first.

    Returns what the clients saw: warm-up, one version, the next one loads, moved to it. Adds to `used`.
    """
    clients = Clients(run, first.order.address, make_lengths(mix), plan.under_way, plan.pause)
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
