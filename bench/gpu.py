"""The engine on a GPU: sequences/s over its socket, as a share of the bare forward limit and times a plain pipeline.

`python -m bench.gpu` needs torch, transformers and what an engine needs (msgspec, pyzmq, psutil), no registry and no
server: it writes artifacts with random weights itself, starts engines as the manager does, and feeds them from
`gpu_client`. `--device cpu --small` shows that it works, not how fast.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from bench.gpu_client import CLIENTS, IN_MESSAGE
from bench.gpu_engines import Engines, Measured, describe_swap, feed_engine, swap
from bench.gpu_limit import measure_bare, measure_product
from bench.gpu_plan import GOALS, LOAD_SHARE, MIXES, SIZES, Plan, mean_tokens, operations_per_token
from bench.models import build_artifact
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import describe_lengths
from serving.engine.process_state import prepare_process

HEADER = ["lengths", "", "sequences/s", "tokens/s", "of the limit", "× the pipeline", "of the product"]


def describe_mix(size: str, mix: str, found: dict[str, float], plan: Plan, product: float) -> list[list[str]]:
    """The table's rows for the tokens/s that were found: limit, pipeline, engine. Ratios are of tokens/s."""
    mean, operations = mean_tokens(MIXES[mix]), operations_per_token(plan.sizes[size], MIXES[mix])
    limit, pipeline, *_ = found.values()
    return [
        [
            MIXES[mix].name,
            name,
            rate(each / mean),
            rate(each),
            f"{each / limit:.2f}",
            f"{each / pipeline:.2f}",
            f"{each * operations / product:.2f}",
        ]
        for name, each in found.items()
    ]


def measure_model(size: str, mixes: Sequence[str], plan: Plan, product: float) -> Iterator[str]:
    """Yield the parts of one model's section as they are measured, so that they are printed if a later part fails."""
    with tempfile.TemporaryDirectory(prefix="hw-gpu-") as folder:
        run = Path(folder)
        yield f"## BERT-{size}"
        model = build_artifact(run / "artifact", plan.sizes[size], plan.device, plan.dtype)
        found = {name: measure_bare(model, MIXES[name], plan) for name in mixes}
        yield table(HEADER, [row for name in mixes for row in describe_mix(size, name, found[name], plan, product)])
        del model
        if plan.is_cuda:
            torch.cuda.empty_cache()
        engines = Engines(run, run / "artifact", plan)
        try:
            yield from measure_engine(run, engines, size, found, plan, product)
        finally:
            engines.kill()


def measure_engine(
    run: Path, engines: Engines, size: str, found: dict[str, dict[str, float]], plan: Plan, product: float
) -> Iterator[str]:
    """What an engine reaches at full load, how soon it answers under random arrivals, and a swap. Adds to `found`."""
    used = {"no engine": engines.memory_bytes()}
    engine = engines.start("1")
    used["one engine"] = engines.memory_bytes()
    report = engine.report
    yield f"Execution: {report.execution}; {report.dtype}; up to {report.budget_tokens:,} tokens a batch."
    yield from (f"Refused: {note}." for note in report.notes)
    full = {name: feed_engine(run, engine, MIXES[name], plan) for name in found}
    rows = []
    for name, measured in full.items():
        found[name]["engine"] = measured.tokens_per_second
        rows.append(describe_mix(size, name, found[name], plan, product)[-1])
    yield table(HEADER, rows)
    loads = []
    for name, measured in full.items():
        under = feed_engine(run, engine, MIXES[name], plan, LOAD_SHARE * measured.rows_per_second)
        loads.append([f"{MIXES[name].name}, all of it", *describe_times(measured)])
        loads.append([f"{MIXES[name].name}, {LOAD_SHARE} of it at random", *describe_times(under)])
    yield table(["load", "sequences/s", "p50 ms", "p99 ms"], loads)
    yield from (describe_goal(size, name) for name in found if (size, name) in GOALS and not plan.is_small)
    fed = swap(run, engines, engine, MIXES[list(found)[-1]], plan, used)
    yield describe_swap(fed)
    yield table(["memory", "used"], [[name, f"{each / 2**20:,.0f} MiB"] for name, each in used.items()])


def describe_times(measured: Measured) -> list[str]:
    """The cells of one load."""
    return [rate(measured.rows_per_second), f"{measured.p50:.1f}", f"{measured.p99:.1f}"]


def describe_goal(size: str, mix: str) -> str:
    """What is to be reached on an H200."""
    goal = GOALS[size, mix]
    return (
        f"To reach at {MIXES[mix].name} on an H200: {goal.minimum:,.0f} tokens/s, better {goal.better:,.0f}; "
        f"{goal.of_limit} of the limit; p99 of {goal.p99:.0f} ms."
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engines are ended
    transformers.utils.logging.disable_progress_bar()
    prepare_process()
    where = torch.cuda.get_device_name(options.device) if is_cuda else f"{len(os.sched_getaffinity(0))} cores"
    print(f"# The engine on {where}: torch {torch.__version__}, transformers {transformers.__version__}\n")
    print(f"{CLIENTS} clients, {plan.under_way} rows under way each, {IN_MESSAGE} in a message.")
    print(*(f"{MIXES[name].name}: {describe_lengths(MIXES[name])}." for name in mixes))
    product = measure_product(plan)
    print(f"A {plan.product_size}³ product in {dtype}: {product / 1e12:,.1f} TFLOP/s.", flush=True)
    try:
        for part in (part for size in chosen for part in measure_model(size, mixes, plan, product)):
            print(f"\n{part}", flush=True)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
