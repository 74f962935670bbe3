"""The engine on a GPU: sequences/s over its socket, as a share of the bare forward limit and times a plain pipeline.

`python -m bench.gpu` needs torch, transformers and what an engine needs (msgspec, pyzmq, psutil), no registry and no
server: it writes artifacts with random weights itself, starts engines as the manager does, and feeds them from
`gpu_client`. `--device cpu --small` shows that it works, not how fast.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from bench.gpu_client import CLIENTS, IN_MESSAGE
from bench.gpu_engines import Engines, describe_swap, feed_engine, swap
from bench.gpu_limit import measure_bare
from bench.gpu_plan import MIXES, SIZES, SMALL, Plan, mean_tokens
from bench.models import build_artifact
from bench.processes import BenchError
from bench.report import rate, table
from bench.texts import LengthMix, describe_lengths
from serving.engine.process_state import prepare_process


def describe_mix(mix: LengthMix, found: dict[str, float]) -> list[list[str]]:
    """The table's rows for the tokens/s that were found: limit, pipeline, engine. Ratios are of tokens/s."""
    mean = mean_tokens(mix)
    limit, pipeline, _ = found.values()
    return [
        [mix.name, name, rate(each / mean), rate(each), f"{each / limit:.2f}", f"{each / pipeline:.2f}"]
        for name, each in found.items()
    ]


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
