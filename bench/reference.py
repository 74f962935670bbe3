"""The reference that a server is held against: the bare forward limit at its best setting.

The setting (token budget, how OpenMP waits) is chosen once for a text set; then only that one is measured, right before
and right after each server.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.headwaiter_server import Engine
from bench.results import run_limit

BUDGETS = {"cpu": (512, 1024, 2048), "cuda": (8192, 32768, 131072)}
"""Padded tokens of a batch that are tried, by type of device."""

WAIT_POLICIES = {"cpu": ("", "PASSIVE"), "cuda": ("",)}
"""Spinning threads win on quiet cores, sleeping ones where anything else runs: both are tried, by type of device."""


@dataclass
class Reference:
    """The limit of one model, dtype, device and text set. rates: what was measured so far, in sequences/s."""

    folder: Path
    texts: Sequence[str]
    engine: Engine
    budget: int
    wait_policy: str
    threads: int
    rates: list[float]

    @classmethod
    def choose(cls, folder: Path, texts: Sequence[str], engine: Engine, seconds: float) -> "Reference":
        """Try all settings on the first 400 texts and keep the best. Blocks; raises BenchError."""
        kind = engine.device.partition(":")[0]
        found: list[tuple[float, int, str, int]] = []
        for policy in WAIT_POLICIES[kind]:
            print(f"choosing the limit's token budget, OpenMP waits: {policy or 'by default'}", file=sys.stderr)
            tried = run_limit(folder, texts[:400], engine.dtype, engine.device, BUDGETS[kind], policy, seconds / 5)
            found += [(rate, budget, policy, tried.threads) for budget, rate in tried.sequences_per_second.items()]
        _, budget, policy, threads = max(found)
        return cls(folder, texts, engine, budget, policy, threads, rates=[])

    def measure(self, seconds: float) -> None:
        """Measure the limit once more. Blocks; raises BenchError."""
        print("measuring the bare forward limit", file=sys.stderr)
        engine = self.engine
        budgets = [self.budget]
        result = run_limit(self.folder, self.texts, engine.dtype, engine.device, budgets, self.wait_policy, seconds)
        self.rates.append(result.sequences_per_second[self.budget])
