"""Benchmark (d): what a swap costs those who are served meanwhile, and how soon a moved alias is served.

One server, loaded in rounds by turns: nothing moves; the alias goes back and forth between two versions that are
loaded; it goes on to a version that has to be loaded, again and again. What loading costs shows in the last one. Then
the same without load, beside a bare fork, load and trace; and the server's memory after many swaps.

A version that has to be loaded is new: its artifact is removed from the cache before. Or it is known: it was loaded
before, and its artifact and its graph are still there.
"""

import contextlib
import json
import os
import random
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench.headwaiter_server import MODEL, headwaiter
from bench.models import encoder_folder, minilm_classifier, retrain
from bench.processes import BenchError, run_module
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import SHORT, describe_lengths, make_texts, read_words
from registry.settings import DEFAULT_ALIAS, RegistrySettings
from registry.tracking import connect
from registry.versions import DIGEST

CONNECTIONS = 64
ROUNDS = 2
MIB = 2**20
POLL_SECONDS = 2.0
"""The server's default."""
LATE_SECONDS = 180.0
"""A version that is not served after this time counts as failed."""
PAUSE_SECONDS = 0.05
"""Between two looks at which version answers, which take processor time from the server, see bench/NOTES.md, "Swaps".
A move counts as served up to this much late."""
SWAPS, QUICK_SWAPS = 20, 6
"""Without load, half of them to new versions."""
FIRST_SWAPS = 2
"""After these the server's memory is compared with that after all."""


@dataclass
class Kind:
    """One kind of round. order: the versions that the alias goes through, again and again; none for no move.

    length: of a round, in rounds of the other kinds: under full load a version takes long to load. is_new: whether the
    versions are. results: of each round's load. took: seconds from each alias move until its version is served.
    """

    name: str
    order: str
    length: int = 1
    is_new: bool = False
    results: list[LoadResult] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


class Swapping:
    """A served model whose alias is moved. Every call blocks; raises BenchError for a version that never answers."""

    def __init__(self, url: str, home: Path) -> None:
        self._url = url
        self._settings = RegistrySettings(home, f"sqlite:///{home / 'mlflow.db'}")
        self._registry = connect(self._settings)
        self._is_over = threading.Event()

    def move(self, version: str, *, is_new: bool = False) -> float:
        """Move the alias; seconds until what is asked from now on is answered by that version.

        is_new: remove its artifact from the cache before.
        """
        if is_new:
            digest = self._registry.get_model_version(MODEL, version).tags[DIGEST]
            shutil.rmtree(self._settings.cache / digest, ignore_errors=True)
        began = time.perf_counter()
        self._registry.set_registered_model_alias(MODEL, DEFAULT_ALIAS, version)
        self._wait(lambda: self._model()["live"] == version, f"version {version} is live")
        return time.perf_counter() - began

    def settle(self, order: str) -> None:
        """Serve each of these versions in turn, then wait until nothing is loaded or unloaded any more."""
        self._is_over.clear()
        for version in order:
            self.move(version)
        self._wait(lambda: self._states() <= {"ready", "unloaded"}, "all versions are ready")

    @contextlib.contextmanager
    def going_on(self, kind: Kind) -> Iterator[None]:
        """While the block runs, move the alias on as soon as the move before is served."""
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(self._go_on, kind)
            try:
                yield
            finally:
                self._is_over.set()
            going.result()

    def _go_on(self, kind: Kind) -> None:
        number = 0
        while kind.order and not self._is_over.is_set():
            seconds = self.move(kind.order[number % len(kind.order)], is_new=kind.is_new)
            number += 1
            if not self._is_over.is_set():
                kind.took.append(seconds)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.perf_counter() + LATE_SECONDS
        while not condition() and not self._is_over.is_set():
            if time.perf_counter() > deadline:
                raise BenchError(f"not within {LATE_SECONDS:g} s: {what}")
            time.sleep(PAUSE_SECONDS)

    def _states(self) -> set[str]:
        return {version["state"] for version in self._model()["versions"].values()}

    def _model(self) -> Any:
        with urllib.request.urlopen(self._url, timeout=60) as answer:
            return json.load(answer)


@dataclass(frozen=True)
class Quiet:
    """Swaps without load. new, known: seconds of each. memory: of the server in bytes, after each swap."""

    new: list[float]
    known: list[float]
    memory: list[int]


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each round; below 5 there are fewer swaps without load."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    kinds = (
        Kind("nothing moves", ""),
        Kind("to a warm version and back", "12"),
        Kind("to a new one that must load", "312", 4, is_new=True),
    )
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder)
        classifier = minilm_classifier()
        floor = float(run_module(["bench.load_floor", "--model", str(classifier)], os.environ))
        others = [retrain(classifier, home / f"retrained-{seed}", seed) for seed in (1, 2)]
        with headwaiter(classifier, retrained=others, home=home) as (server, _):
            swapping = Swapping(server.url, home)
            quiet = _swap_quietly(swapping, server.pid, SWAPS if seconds >= 5 else QUICK_SWAPS)
            for _ in range(ROUNDS):
                for kind in kinds:
                    swapping.settle("12")
                    with swapping.going_on(kind):
                        kind.results.append(run_load(server, texts, CONNECTIONS, kind.length * seconds))
    warm = kinds[1].took
    late = f"{1000 * (max(warm) - POLL_SECONDS):+.0f} ms beyond one poll of {POLL_SECONDS:g} s" if warm else "not seen"
    return "\n".join(
        [
            "## Swaps: MiniLM sequence classification",
            "",
            f"{CONNECTIONS} keep-alive connections, one short text per request ({describe_lengths(SHORT)}), "
            f"{ROUNDS} rounds of {seconds:.1f} s by turns, {kinds[-1].length} times as long where a version loads: "
            "median of the rounds' percentiles.",
            "",
            _table(kinds),
            "",
            f"A warm version is served at the latest {late} after its alias moved (bound: +100 ms).",
            "",
            f"From the alias' move to the first answer of a version that must load; up to {POLL_SECONDS:g} s of it "
            f"pass until the registry is asked. A fork, load and trace without a server take {floor:.2f} s.",
            "",
            _loads(quiet, kinds[-1].took, floor),
            "",
            _describe_memory(quiet.memory),
        ]
    )


def _swap_quietly(swapping: Swapping, pid: int, swaps: int) -> Quiet:
    """Swaps to versions that must load, half of them new, while nobody asks."""
    quiet = Quiet([], [], [])
    swapping.settle("12")
    for number in range(swaps):
        is_new = number < swaps // 2
        time.sleep(random.uniform(0, POLL_SECONDS))  # else every move would come as long before a poll as the last one
        took = swapping.move("312"[number % 3], is_new=is_new)
        (quiet.new if is_new else quiet.known).append(took)
        swapping.settle("")
        quiet.memory.append(_memory_of(pid))
    return quiet


def _memory_of(pid: int) -> int:
    """Proportional memory (PSS) of a process and all that it started, in bytes."""
    total = 0
    for process in (server := psutil.Process(pid), *server.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_full_info().pss)
    return total


def _loads(quiet: Quiet, under_load: list[float], floor: float) -> str:
    rows = []
    for name, took in (
        ("a new version, without load", quiet.new),
        ("a version that was loaded before, without load", quiet.known),
        (f"a new version, {CONNECTIONS} connections of full load", under_load),
    ):
        value = median(took) if took else None
        cells = ["-", "-"] if value is None else [f"{value:.2f} s", f"{value / floor:.1f} ×"]
        rows.append([name, str(len(took)), *cells])
    return table(["move to", "moves", "served after", "× fork + load + trace"], rows)


def _describe_memory(memory: list[int]) -> str:
    early, late = memory[FIRST_SWAPS - 1], memory[-1]
    return (
        f"Memory of the server (PSS): {early / MIB:.0f} MiB after {FIRST_SWAPS} swaps, {late / MIB:.0f} MiB after "
        f"{len(memory)}: {late / early:.3f} × (bound: 1.05)."
    )


def _table(kinds: tuple[Kind, ...]) -> str:
    header = ["the alias", "requests/s", "p50 ms", "p99 ms", "p99 / undisturbed", "errors", "moves served", "after s"]
    quiet = kinds[0].results
    rows = []
    for kind in kinds:
        ratios = [after.p99_ms / before.p99_ms for after, before in zip(kind.results, quiet, strict=True)]
        rows.append(
            [
                kind.name,
                rate(median(each.requests_per_second for each in kind.results)),
                f"{median(each.p50_ms for each in kind.results):.1f}",
                f"{median(each.p99_ms for each in kind.results):.1f}",
                f"{median(ratios):.2f}",
                errors(kind.results),
                str(len(kind.took)),
                f"{median(kind.took):.2f}" if kind.took else "-",
            ]
        )
    return table(header, rows)
