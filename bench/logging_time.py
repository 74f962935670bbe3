"""Benchmark (m): how long `headwaiter log` takes, beside a bare script that imports, loads and saves the same model."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from bench.headwaiter_server import MODEL, environment_of
from bench.models import minilm_classifier
from bench.processes import run_module
from bench.report import table

Times = tuple[float, float]
"""Wall and processor seconds."""
ROUNDS = 3
BOUND = 1.5
"""Times the bare script; logging also checks the model, proves its batching and writes to the registry."""


def run(seconds: float) -> str:
    """The section of the report. seconds: below 5 there is only one round."""
    folder = str(minilm_classifier())
    bare: list[Times] = []
    logged: list[Times] = []
    with tempfile.TemporaryDirectory(prefix="hw-bench-") as name:
        home = Path(name)
        environment = environment_of(home)
        log = ["serving.commands.main", "log", folder, "--task", "text-classification", "--name", MODEL]
        run_module(log, environment)  # makes the registry
        for _ in range(ROUNDS if seconds >= 5 else 1):
            bare.append(_time(["bench.bare_saving", "--model", folder, "--target", str(home / "saved")], os.environ))
            logged.append(_time(log, environment))
    rows = []
    for place, what in enumerate(("wall time", "processor time")):
        before, after = ([times[place] for times in side] for side in (bare, logged))
        ratio = median(one / other for one, other in zip(after, before, strict=True))
        rows += [
            [f"a bare script imports, loads and saves: {what}", f"{median(before):.1f} s"],
            [f"headwaiter log: {what}", f"{median(after):.1f} s: {ratio:.2f} × (bound: {BOUND})"],
        ]
    return "\n".join(["## Logging: MiniLM sequence classification", "", table(["what", "measured"], rows)])


def _time(module: Sequence[str], environment: Mapping[str, str]) -> Times:
    began, used = time.perf_counter(), _children_seconds()
    run_module(module, environment)
    return time.perf_counter() - began, _children_seconds() - used


def _children_seconds() -> float:
    """Processor seconds of the processes that have ended, which other work on the machine changes little."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
