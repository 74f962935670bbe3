"""Measures the runtimes in turns; see the package."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from dataclasses import field as make
from pathlib import Path
from typing import Any

from bench.models import minilm_classifier, topics, write_with_sample
from bench.peers.catalog import ONNX, OPENVINO, TRANSFORMERS
from bench.peers.environments import cache_folder, install
from bench.processes import ROOT, BenchError, run_module
from bench.report import rate, table
from bench.runtimes.worker import Rows
from bench.texts import MIXED, SHORT
from bench.topics import make_topic_texts
from serving.manager.launch import engine_environ

ENVIRONMENT = "runtimes"
REQUIREMENTS = (*ONNX.requirements[:3], OPENVINO.requirements[0], "nncf==3.4.0", *TRANSFORMERS)
ONE_TEXT = (12, 43)
"""Tokens of a text that is alone."""
BATCHES = (256, 1024)
"""Tokens of a batch."""
TEXTS = 200
"""Of each mix."""
CALIBRATION_TEXTS, CALIBRATION_SEED = 200, 2
REPEATS = 10
"""Of one text, in each turn."""
HEADER = ["runtime", *(f"{tokens} tokens, p50 ms" for tokens in ONE_TEXT), *(f"{tokens}, p99" for tokens in ONE_TEXT)]
HEADER += [f"{mix.name}, {tokens:,} tokens/s" for mix in (SHORT, MIXED) for tokens in BATCHES]
HEADER += ["same label"]


@dataclass(frozen=True)
class Runtime:
    """What is measured. loader: of `worker`. model: what it loads. python: of its environment."""

    name: str
    loader: str
    model: Path
    python: str


@dataclass
class Worker:
    """A runtime's process. labels: of all rows that it was given, in order. seconds: by name of the batches."""

    runtime: Runtime
    process: "subprocess.Popen[str]"
    labels: list[int] = make(default_factory=list)
    seconds: dict[str, list[list[float]]] = make(default_factory=dict)

    def ask(self, order: Mapping[str, object]) -> Any:
        """The answer to an order of `worker`. Blocks; raises BenchError where the process has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        """The next answer. Blocks; raises BenchError where the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.runtime.name} ended; its errors are above")
        return json.loads(line)


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each number of threads, for each runtime."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as folder:
        root = Path(folder)
        runtimes = _prepare(root)
        given = _batches(root / "artifact")
        parts = [_measure(runtimes, given, threads, seconds) for threads in sorted({1, min(2, cores)})]
    about = (
        "Processes of one runtime each, measured in turns. One text of two lengths, and batches of rows of similar "
        "lengths, packed by Headwaiter and padded by the others; tokens without padding. Headwaiter's time is that of "
        "its engine's forward pass from rows to sorted scores. Batches: the fastest of all turns."
    )
    return "\n\n".join(["## Runtimes: MiniLM sequence classification on the CPU", about, *parts])


def _prepare(root: Path) -> list[Runtime]:
    """Install, log, export and quantise. Raises BenchError."""
    from serving.engine.optimizations.torch_private import multiplies_bfloat16

    source = minilm_classifier()
    sample = [text for mix in (SHORT, MIXED) for text in _texts(mix, CALIBRATION_TEXTS, CALIBRATION_SEED)]
    write_with_sample(root / "artifact", sample)
    python = install(ENVIRONMENT, REQUIREMENTS, folder=cache_folder())
    rows = root / "rows.json"
    rows.write_text(json.dumps(_tokenize(root / "artifact", sample)), encoding="utf-8")
    files = {"onnx": "model.onnx", "openvino": "model.xml"}
    for kind, file in files.items():
        run_module([f"bench.peers.export_{kind}", str(source), str(root / kind)], os.environ, python)
        quantized = str(root / kind / f"int8-{file}")
        run_module(["bench.runtimes.quantize", kind, str(root / kind / file), quantized, str(rows)], os.environ, python)
    own = ["float32", *(["bfloat16"] if multiplies_bfloat16() else []), "int8"]
    return [
        Runtime("torch, float32", "loaders:torch_float32", source, python),  # labels are compared with its
        *(Runtime(f"Headwaiter, {dtype}", f"own:{dtype}", root / "artifact", sys.executable) for dtype in own),
        Runtime("ONNX Runtime, float32", "loaders:onnx_runtime", root / "onnx" / "model.onnx", python),
        Runtime("OpenVINO, float32", "loaders:openvino", root / "openvino" / "model.xml", python),
        Runtime("torch, int8", "loaders:torch_int8", source, python),
        Runtime("ONNX Runtime, int8", "loaders:onnx_runtime", root / "onnx" / "int8-model.onnx", python),
        Runtime("OpenVINO, int8", "loaders:openvino", root / "openvino" / "int8-model.xml", python),
    ]


def _texts(mix: Any, count: int, seed: int = 0) -> list[str]:
    return make_topic_texts(mix, topics(), count, seed)[0]


def _tokenize(artifact: Path, texts: Sequence[str]) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact / "model" / "tokenizer.json"))
    return [each.ids for each in tokenizer.encode_batch(list(texts))]


def _batches(artifact: Path) -> dict[str, list[Rows]]:
    """Batches by name: single texts, and each mix in batches of each size."""
    found: dict[str, list[Rows]] = {}
    for mix in (SHORT, MIXED):
        rows = sorted(_tokenize(artifact, _texts(mix, TEXTS)), key=len)
        for tokens in BATCHES:
            batches: list[Any] = [[]]
            for row in rows:
                if batches[-1] and sum(map(len, batches[-1])) + len(row) > tokens:
                    batches.append([])
                batches[-1].append(row)
            found[f"{mix.name} {tokens}"] = batches
    longest = rows[-1]
    single: dict[str, list[Rows]] = {f"one {length}": [[[*longest[: length - 1], longest[-1]]]] for length in ONE_TEXT}
    return single | found


@contextmanager
def _working(runtime: Runtime, threads: int) -> Iterator[Worker]:
    """The process of a runtime, with an engine's settings of memory and threads."""
    environ = engine_environ() | {"OMP_NUM_THREADS": str(threads)}
    command = [runtime.python, "-m", "bench.runtimes.worker", runtime.loader, str(runtime.model), str(threads)]
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            worker = Worker(runtime, process)
            worker.read()
            yield worker
        finally:
            process.kill()


def _measure(runtimes: Sequence[Runtime], given: Mapping[str, Sequence[Rows]], threads: int, seconds: float) -> str:
    """The table for a number of threads."""
    with ExitStack() as stack:
        workers = []
        for runtime in runtimes:
            print(f"loading {runtime.name}, threads: {threads}", file=sys.stderr)
            workers.append(stack.enter_context(_working(runtime, threads)))
        for worker in workers:
            for name, batches in given.items():
                labels = worker.ask({"name": name, "batches": batches})
                worker.labels += [label for batch in labels for label in batch]
        end, rounds = time.monotonic() + seconds * len(workers), 0
        while time.monotonic() < end or rounds < 2:
            for name in given:
                for worker in workers:
                    repeats = REPEATS if name.startswith("one") else 1
                    worker.seconds.setdefault(name, []).append(worker.ask({"name": name, "repeats": repeats}))
            rounds += 1
        rows = [_row(worker, workers[0], given) for worker in workers]
    return f"Threads: {threads}\n\n{table(HEADER, rows)}"


def _row(worker: Worker, reference: Worker, given: Mapping[str, Sequence[Rows]]) -> list[str]:
    cells = []
    singles = [sorted(second for turn in worker.seconds[f"one {each}"] for second in turn) for each in ONE_TEXT]
    for share in (0.5, 0.99):
        cells += [f"{1e3 * times[int(share * len(times))]:.2f}" for times in singles]
    for name, batches in given.items():
        if name.startswith("one"):
            continue
        tokens = sum(len(row) for batch in batches for row in batch)
        least = [min(times) for times in zip(*worker.seconds[name], strict=True)]
        cells.append(rate(tokens / sum(least)))
    pairs = list(zip(worker.labels, reference.labels, strict=True))
    same = sum(one == other for one, other in pairs) / len(pairs)
    return [worker.runtime.name, *cells, f"{same:.2%}"]
