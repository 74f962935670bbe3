"""The command line: `python -m bench [BENCHMARK…] [--seconds S] [--quick]` prints the report; see `BENCHMARKS`."""

import argparse
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from bench import (
    batch,
    batch_choice,
    bodies,
    chaos,
    container,
    dtypes,
    fleet,
    flood,
    forward_share,
    front_cost,
    fuzz,
    generation,
    grpc_cost,
    kills,
    latency,
    logging_time,
    metrics_cost,
    overload,
    own_cost,
    peer_comparison,
    request_rate,
    residency,
    rollout,
    soak,
    spark,
    start_time,
    swap_latency,
    text_dtypes,
)
from bench.page import write_part, written
from bench.processes import BenchError, BeyondBounds
from bench.runtimes import comparison as runtimes

BENCHMARKS: dict[str, Callable[[float], str]] = {
    "requests": request_rate.run,
    "forward": forward_share.run,
    "dtypes": dtypes.run,
    "textdtypes": text_dtypes.run,
    "latency": latency.run,
    "start": start_time.run,
    "log": logging_time.run,
    "metrics": metrics_cost.run,
    "generate": generation.run,
    "flood": flood.run,
    "swaps": swap_latency.run,
    "residency": residency.run,
    "batch": batch.run,
    "batches": batch_choice.run,
    "own": own_cost.run,
    "front": front_cost.run,
    "grpc": grpc_cost.run,
    "container": container.run,
    "kills": kills.run,
    "chaos": chaos.run,
    "overload": overload.run,
    "soak": soak.run,
    "peers": peer_comparison.run,
    "runtimes": runtimes.run,
    "fuzz": fuzz.run,
    "bodies": bodies.run,
    "rollout": rollout.run,
    "fleet": fleet.run,
    "spark": spark.run,
}

ON_REQUEST = ("chaos", "fleet", "fuzz", "kills", "peers", "residency", "rollout", "runtimes", "soak", "spark")
"""Only run where they are named: two install other software, one needs Spark, two measure nothing, others take long."""

QUIET = 0.05
"""Share of all cores that other processes may use: with more, figures differ from run to run by more than noise."""


def main() -> int:
    """Run the chosen benchmarks and print their tables; 1 where one could not run, or was beyond its bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Headwaiter on this machine.")
    names = f"{' or '.join(BENCHMARKS)}; by default all but {', '.join(ON_REQUEST)}"
    parser.add_argument("benchmarks", nargs="*", metavar="benchmark", help=names)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each load (10)")
    parser.add_argument("--quick", action="store_true", help="2 seconds each: shows that it works, not how fast")
    parser.add_argument("--write", action="store_true", help="also put the reports into docs/reliability.md")
    options = parser.parse_args()
    unknown = [name for name in options.benchmarks if name not in BENCHMARKS]
    if unknown or options.seconds <= 0:
        parser.error(
            f"unknown benchmark {unknown[0]}: choose {' or '.join(BENCHMARKS)}" if unknown else "--seconds: > 0"
        )
    if options.write and (not options.benchmarks or set(options.benchmarks) - set(written())):
        parser.error(f"--write: name {' or '.join(written())}")
    seconds = 2.0 if options.quick else options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    print(describe_machine())
    try:
        for name in options.benchmarks or [name for name in BENCHMARKS if name not in ON_REQUEST]:
            before = others_share()
            section = BENCHMARKS[name](seconds)
            print(f"\n{section}\n\n{describe_others(before, others_share())}", flush=True)
            if options.write:
                write_part(name, describe_machine(), section)
    except BeyondBounds as error:
        print(f"\n{error.section}\n\n{name}: {error}", flush=True)
        return 1
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def describe_machine() -> str:
    """One line: cores, processor, Python and the libraries that matter."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "bentoml"))
    return f"{len(os.sched_getaffinity(0))} cores, {_processor()}; Python {platform.python_version()}, {libraries}"


def others_share() -> float:
    """The share of all cores that is in use now, while nothing of the benchmark runs. Takes two seconds."""
    return float(psutil.cpu_percent(interval=2)) / 100


def describe_others(before: float, after: float) -> str:
    """One line on what else the machine did; figures taken beside other work mean little."""
    verdict = "" if max(before, after) < QUIET else ": the machine was not quiet, measure again"
    return f"Other processes used {before:.0%} of the cores right before, {after:.0%} right after{verdict}."


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
