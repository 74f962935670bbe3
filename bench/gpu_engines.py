"""Engine processes of `bench.gpu`, started as the manager starts them, and how they are fed and swapped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy
import torch

from bench.gpu_client import Clients, Fed
from bench.gpu_plan import Plan
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import LengthMix, make_lengths
from serving.manager.engine_process import EngineProcess
from serving.runtime.run_folder import ENGINES, RunFolder
from serving.wire.engine_orders import EngineOrder

LOAD_SECONDS = 180.0


class Engines:
    """Engine processes of one artifact, started as the manager starts them. run: their run folder."""

    def __init__(self, run: Path, root: Path, plan: Plan) -> None:
        self.run, self._root, self._plan = RunFolder.make(run).path, root, plan
        self._started: list[EngineProcess] = []

    def start(self, version: str, *, low_priority: bool = False) -> EngineProcess:
        """Blocks until it serves; raises BenchError."""
        files = f"{self.run / ENGINES / version}"
        order = EngineOrder(
            model="bert",
            version=version,
            root=str(self._root),
            device=self._plan.device,
            dtype=self._plan.dtype,
            address=f"ipc://{files}.sock",
            report=f"{files}.json",
            threads=0,
            run=str(self.run),
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

    def memory_bytes(self) -> int:
        """Memory in use on the GPU, by all processes; on a CPU by the engines."""
        if self._plan.is_cuda:
            free, total = torch.cuda.mem_get_info(self._plan.device)
            return total - free
        return sum(engine.memory_bytes() for engine in self._started)

    def kill(self) -> None:
        """End what still runs."""
        for engine in self._started:
            engine.kill()


def feed_engine(run: Path, engine: EngineProcess, mix: LengthMix, plan: Plan, rate: float = 0.0) -> "Measured":
    """What an engine does after a warm-up. rate: rows/s that arrive at random; 0: a row follows each answer."""
    clients = Clients(run, engine.order.address, make_lengths(mix), plan.under_way, 0.0 if rate else plan.pause, rate)
    time.sleep(plan.seconds / 2)
    clients.tell("phase")
    time.sleep(plan.seconds)
    clients.tell("phase")
    return Measured.of(clients.stop(), 1)


@dataclass(frozen=True)
class Measured:
    """What all clients saw in one phase. p50, p99: milliseconds from sending, or from arriving, to the answer."""

    tokens_per_second: float
    rows_per_second: float
    p50: float
    p99: float

    @classmethod
    def of(cls, fed: Sequence[Fed], index: int) -> Self:
        """The phase with this number."""
        phases = [each.phases[index] for each in fed]
        taken = [1000 * value for phase in phases for value in phase.latencies]
        p50, p99 = numpy.percentile(taken, [50, 99]) if taken else (0.0, 0.0)
        seconds = [phase.ended - phase.began for phase in phases]
        rows = sum(len(phase.latencies) / each for phase, each in zip(phases, seconds, strict=True))
        tokens = sum(phase.tokens / each for phase, each in zip(phases, seconds, strict=True))
        return cls(tokens, rows, float(p50), float(p99))


def swap(
    run: Path, engines: Engines, first: EngineProcess, mix: LengthMix, plan: Plan, used: dict[str, int]
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
    used["two engines"] = engines.memory_bytes()
    clients.tell(f"phase\nmove {second.order.address}")
    time.sleep(plan.seconds)
    fed = clients.stop()
    engines.stop(first)
    used["the first one unloaded"] = engines.memory_bytes()
    engines.stop(second)
    used["both unloaded"] = engines.memory_bytes()
    return fed


def describe_swap(fed: Sequence[Fed]) -> str:
    """Latency in each phase, and whether rows went lost."""
    rows = []
    for index, name in enumerate(("one version", "the next one loads", "moved to it"), start=1):
        found = Measured.of(fed, index)
        rows.append([name, rate(found.rows_per_second), f"{found.p50:.0f}", f"{found.p99:.0f}"])
    counts = [sum(getattr(each, name) for each in fed) for name in ("sent", "failed", "lost")]
    shown = table(["swap under load", "sequences/s", "p50 ms", "p99 ms"], rows)
    return shown + "\n\n{:,} rows sent, {} failed, {} lost.".format(*counts)
