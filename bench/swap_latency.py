"""Benchmark (d): what a swap costs those who are served meanwhile, and how soon a moved alias is served.

One server, loaded in rounds by turns: nothing moves; the alias goes back and forth between two versions that are
loaded; it goes on to a version that has to be loaded, again and again. What loading costs shows in the last one.
"""

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.headwaiter_server import MODEL, headwaiter
from bench.models import encoder_folder, minilm_classifier
from bench.processes import BenchError
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.texts import SHORT, describe_lengths, make_texts, read_words
from registry.settings import DEFAULT_ALIAS, RegistrySettings
from registry.tracking import connect

CONNECTIONS = 64
ROUNDS = 2
POLL_SECONDS = 2.0
"""The server's default."""
LATE_SECONDS = 180.0
"""A version that is not served after this time counts as failed."""
PAUSE_SECONDS = 0.01
"""Between two looks at which version answers."""


@dataclass
class Kind:
    """One kind of round. order: the versions that the alias goes through, again and again; none for no move.

    length: of a round, in rounds of the other kinds: under full load a version takes long to load. results: of each
    round's load. took: seconds from each alias move until its version is served.
    """

    name: str
    order: str
    length: int = 1
    results: list[LoadResult] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


class Swapping:
    """A served model whose alias is moved. Every call blocks; raises BenchError for a version that never answers."""

    def __init__(self, url: str, home: Path) -> None:
        self._url = url
        self._registry = connect(RegistrySettings(home, f"sqlite:///{home / 'mlflow.db'}"))
        self._is_over = threading.Event()

    def move(self, version: str) -> float:
        """Move the alias; seconds until what is asked from now on is answered by that version."""
        began = time.perf_counter()
        self._registry.set_registered_model_alias(MODEL, DEFAULT_ALIAS, version)
        self._wait(lambda: self._model()["live"] == version, f"version {version} is live")
        return time.perf_counter() - began

    def settle(self, order: str) -> None:
        """Serve each of these versions in turn, then wait until nothing is loaded or unloaded any more."""
        self._is_over.clear()
        for version in order:
            self.move(version)
        self._wait(lambda: self._states() == {"ready"}, "all versions are ready")

    @contextlib.contextmanager
    def going_on(self, order: str, took: list[float]) -> Iterator[None]:
        """While the block runs, move the alias on as soon as the move before is served."""
        thread = threading.Thread(target=self._go_on, args=(order, took))
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _go_on(self, order: str, took: list[float]) -> None:
        number = 0
        while order and not self._is_over.is_set():
            seconds = self.move(order[number % len(order)])
            number += 1
            if not self._is_over.is_set():
                took.append(seconds)

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


def run(seconds: float) -> str:
    """The section of the report. seconds: measured time of each round."""
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    kinds = (
        Kind("nothing moves", ""),
        Kind("to a warm version and back", "12"),
        Kind("to one that must load", "312", 4),
    )
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder)
        with headwaiter(minilm_classifier(), versions=3, home=home) as (server, _):
            swapping = Swapping(server.url, home)
            for _ in range(ROUNDS):
                for kind in kinds:
                    swapping.settle("12")
                    with swapping.going_on(kind.order, kind.took):
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
        ]
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
