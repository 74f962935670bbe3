"""Benchmark: a long run in which the alias goes on and on, and versions are loaded and unloaded: whether memory and
descriptors stay as they were, and whether the server's counters say what the clients saw.
"""

import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.headwaiter_server import headwaiter
from bench.models import encoder_folder, tiny_classifier
from bench.processes import Server, check_bounds
from bench.report import errors, rate, table
from bench.results import LoadResult, run_load
from bench.swap_latency import Kind, Swapping
from bench.texts import SHORT, make_texts, read_words

CONNECTIONS = 32
ORDER = "312" + "21" * 15
"""The alias' way: three versions that have to be loaded, while the one before the last leaves; then 30 warm moves."""
POLL_SECONDS = 0.1
"""Instead of the server's default, so that more moves fit into the run."""
SAMPLE_SECONDS = 1.0
POINTS = 20
"""Of the curve that is printed."""
MAX_GROWTH = 1.05
"""Of memory and of descriptors, from the second tenth of the run to the last."""
FULL_SECONDS = 900.0
"""A shorter run still warms up in its second tenth, so its growth says nothing."""


@dataclass
class Curve:
    """Samples of a server's processes: seconds since the start, MiB of proportional memory, open descriptors."""

    seconds: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, pid: int, seconds: float) -> None:
        """Look at the process and all that it has started, engines included."""
        memory, files = 0, 0
        with suppress(psutil.Error):
            for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                with suppress(psutil.Error):
                    size, opened = each.memory_full_info().pss, each.num_fds()
                    memory, files = memory + size, files + opened
        self.seconds.append(seconds)
        self.mebibytes.append(memory / (1 << 20))
        self.descriptors.append(files)

    def growth(self, values: list[float] | list[int]) -> float:
        """The median of the last tenth of the run over that of its second tenth."""
        tenth = max(1, len(values) // 10)
        return median(values[-tenth:]) / median(values[tenth : 2 * tenth] or values)

    def draw(self) -> str:
        """A Mermaid chart of memory over time: each point is the median of its part of the run."""
        step = max(1, len(self.seconds) // POINTS)
        starts = range(0, len(self.seconds) - step + 1, step)
        minutes = ", ".join(f"{self.seconds[start] / 60:.1f}" for start in starts)
        sizes = ", ".join(f"{median(self.mebibytes[start : start + step]):.0f}" for start in starts)
        return "\n".join(
            [
                "```mermaid",
                "xychart-beta",
                '    title "Proportional memory of all processes of the server"',
                f'    x-axis "minutes" [{minutes}]',
                f'    y-axis "MiB" 0 --> {1.2 * max(self.mebibytes, default=1):.0f}',
                f"    line [{sizes}]",
                "```",
            ]
        )


class Counts:
    """The answers with status 200 that a server has counted. The series of a version end when it is unloaded, some time
    after its last answer; what was read last is added up.
    """

    def __init__(self, server: Server) -> None:
        self._url = f"{server.url.partition('/models/')[0]}/metrics"
        self._last: dict[str, int] = {}
        self._ended = 0
        self.look()

    @property
    def total(self) -> int:
        """Of all versions that were ever seen."""
        return self._ended + sum(self._last.values())

    def look(self) -> None:
        """Read the counters; raises OSError where the server does not answer."""
        with urllib.request.urlopen(self._url, timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found: dict[str, int] = {}
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == "headwaiter_request_duration_seconds_count" and sample.labels["status"] == "200":
                version = sample.labels["version"]
                found[version] = found.get(version, 0) + round(sample.value)
        self._ended += sum(last for version, last in self._last.items() if found.get(version, 0) < last)
        self._last = found


def run(seconds: float) -> str:
    """The section of the report. seconds: of the run; 900 come to a million requests and a thousand moves.

    Raises BeyondBounds where a run of at least that long is beyond its bounds.
    """
    texts = make_texts(SHORT, read_words(encoder_folder() / "vocab.txt"))
    curve, took = Curve(), list[float]()
    with TemporaryDirectory(prefix="hw-") as folder:  # sockets need a short path
        home = Path(folder)
        settings = {"HEADWAITER_POLL_SECONDS": str(POLL_SECONDS)}
        with headwaiter(tiny_classifier(), versions=3, home=home, settings=settings) as (server, _):
            swapping = Swapping(server.url, home)
            swapping.settle("12")
            counts = Counts(server)
            before = counts.total
            with _sampled(curve, counts, server.pid), swapping.going_on(Kind("soak", ORDER, took=took)):
                result = run_load(server, texts, CONNECTIONS, seconds)
            counts.look()
    counted, answered = counts.total - before, result.ever.get("200", 0)
    bounds = {
        "memory has grown": curve.growth(curve.mebibytes) <= MAX_GROWTH,
        "descriptors have grown": curve.growth(curve.descriptors) <= MAX_GROWTH,
        f"the server counted {counted:,} answers and the clients {answered:,}": counted == answered,
    }
    section = _describe(curve, took, result, counted, is_within=all(bounds.values()))
    return check_bounds(section, bounds, is_full=seconds >= FULL_SECONDS)


def _describe(curve: Curve, took: list[float], result: LoadResult, counted: int, *, is_within: bool) -> str:
    answered, rounds = result.ever.get("200", 0), len(took) // len(ORDER)
    memory, files = curve.growth(curve.mebibytes), curve.growth(curve.descriptors)
    header = ["requests", "requests/s", "p50 ms", "p99 ms", "errors", "alias moves", "loads", "memory", "descriptors"]
    loads = 3 * rounds + min(3, len(took) % len(ORDER))
    row = [
        f"{answered:,}",
        rate(result.requests_per_second),
        f"{result.p50_ms:.1f}",
        f"{result.p99_ms:.1f}",
        errors([result]),
        str(len(took)),
        str(loads),
        f"{memory:.3f}",
        f"{files:.3f}",
    ]
    return "\n".join(
        [
            f"## A long run: {curve.seconds[-1] / 60:.0f} minutes, a text classifier of negligible cost, "
            f"{CONNECTIONS} connections",
            "",
            "Memory and descriptors of all processes: the last tenth of the run over its second (bound: "
            f"{MAX_GROWTH:g}).",
            "",
            table(header, [row]),
            "",
            f"The server counted {counted:,} answers with status 200, {counted - answered:+,} to the clients' count "
            f"(bound: 0). The run is {'within' if is_within else 'beyond'} its bounds.",
            "",
            curve.draw(),
        ]
    )


@contextmanager
def _sampled(curve: Curve, counts: Counts, pid: int) -> Iterator[None]:
    """While the block runs a thread samples the server's processes and counters."""
    over, began = threading.Event(), time.monotonic()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            curve.sample(pid, time.monotonic() - began)
            with suppress(OSError):  # a busy machine; the next look adds up what this one missed
                counts.look()
        curve.sample(pid, time.monotonic() - began)

    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(sample)
        try:
            yield
        finally:
            over.set()
        sampling.result()
