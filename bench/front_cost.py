"""Benchmark: the processor time of a request in a front by stage, and what several fronts answer together.

The fronts are processes that are loaded over HTTP. At the other end of their sockets is an engine whose model answers
at once. Where there are fewer cores, fronts take turns on them; so what they answer on a core each follows from their
processor time, up to what an engine's loop takes from its socket.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

import msgspec
import torch
import zmq

from bench.front_process import BODY, HTTP, JSON, STAGES, Reading
from bench.models import encoder_folder
from bench.own_cost import free_model, make_engine, make_table, row_micros
from bench.processes import ROOT, Server
from bench.report import rate, table
from bench.results import run_load
from bench.texts import SHORT, make_texts, read_words
from serving.engine.model import Model
from serving.wire.routing_table import TableFile

CONNECTIONS = 64
FRONTS = (1, 2, 4)
ROUNDS = 5
LARGE_SHARE = 1 / 3
"""Share of parsing and JSON from which another parser may be worth trying."""


class Front:
    """A front's process. run: the folder with the routing table. divides: whether it divides its time among stages."""

    def __init__(self, run: Path, *, divides: bool = False) -> None:
        command = [sys.executable, "-m", "bench.front_process", str(run), *["--stages"] * divides]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.server = Server("front", f"http://127.0.0.1:{int(self._line())}/models/m0")

    def read(self) -> Reading:
        """What it has done until now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return msgspec.json.decode(self._line(), type=Reading)

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each kind of front, and of each number of them."""
    torch.set_num_threads(1)
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    with TemporaryDirectory(prefix="hw-bench-") as name:
        home = Path(name)
        model, root = free_model(home)
        bound = 1e6 / row_micros(model, home, CONNECTIONS, seconds)
        with _engine(model, root, home):
            stages = _measure_stages(home, texts, seconds)
            together = _measure_fronts(home, texts, seconds, bound)
    text = f"Fronts at once, by turns: median of {ROUNDS} rounds. An engine's loop takes {rate(bound)} rows/s."
    return "\n\n".join(["## Fronts: what a request costs", *stages, text, together])


@contextlib.contextmanager
def _engine(model: Model, root: Path, home: Path) -> Iterator[None]:
    """An engine in the routing table of `home`, while the block runs."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(f"ipc://{home}/e")
    engine = make_engine(model, socket, 4096)
    TableFile(home).write(make_table(model, root, home, 1))
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join()
        context.destroy(linger=0)


@contextlib.contextmanager
def _running(fronts: Sequence[Front]) -> Iterator[Sequence[Front]]:
    try:
        yield fronts
    finally:
        for front in fronts:
            front.close()


def _load(fronts: Sequence[Front], texts: Sequence[str], seconds: float) -> list[Reading]:
    """What each front does while all of them are loaded with equally many connections."""
    before = [front.read() for front in fronts]
    with ThreadPoolExecutor(len(fronts)) as pool:
        for done in [
            pool.submit(run_load, front.server, texts, CONNECTIONS // len(fronts), seconds) for front in fronts
        ]:
            done.result()
    return [front.read().since(then) for front, then in zip(fronts, before, strict=True)]


def _measure_stages(run: Path, texts: Sequence[str], seconds: float) -> list[str]:
    """Two fronts by turns, of which one divides its time."""
    found: tuple[list[Reading], list[Reading]] = ([], [])
    with _running([Front(run), Front(run, divides=True)]) as fronts:
        for number in range(ROUNDS + 1):
            for front, readings in zip(fronts, found, strict=True):
                (reading,) = _load([front], texts, seconds / ROUNDS)
                if number:  # the first round warms up
                    readings.append(reading)
    _, divided = found
    micros = {stage: fmean(each.micros(stage) for each in divided) for stage in STAGES}
    total, both = (median(1e6 * each.seconds / each.requests for each in readings) for readings in found)
    share = sum(micros[stage] for stage in (HTTP, BODY, JSON)) / sum(micros.values())
    verdict = "another parser may be worth trying" if share > LARGE_SHARE else "less than a third"
    rows = [[stage, f"{took:.1f}", f"{took / sum(micros.values()):.0%}"] for stage, took in micros.items()]
    text = (
        f"One front, {CONNECTIONS} connections, one short text a request: {total:.0f} µs of processor time, median of "
        f"{ROUNDS} rounds; {both:.0f} µs in a front that divides its time by stage, loaded by turns with it. "
        f"Parser and JSON: {share:.0%}, {verdict}."
    )
    return [text, table(["stage", "µs", "share"], rows)]


def _measure_fronts(run: Path, texts: Sequence[str], seconds: float, bound: float) -> str:
    """A table of several fronts at once, each number of them by turns. bound: requests/s that an engine takes."""
    micros: dict[int, list[float]] = {count: [] for count in FRONTS}
    with _running([Front(run) for _ in range(max(FRONTS))]) as fronts:
        _load(fronts, texts, 0.5)  # warms up
        for _ in range(ROUNDS):
            for count, took in micros.items():
                readings = _load(fronts[:count], texts, seconds / ROUNDS)
                requests = sum(each.requests for each in readings)
                took.append(1e6 * sum(each.seconds for each in readings) / requests)
    rows = [
        [str(count), f"{median(took):.0f}", rate(min(1e6 * count / median(took), bound))]
        for count, took in micros.items()
    ]
    return table(["fronts", "µs a request", "requests/s on a core each"], rows)
