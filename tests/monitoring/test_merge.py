"""What several processes count is one sum, whatever ends, is killed or is unloaded in between."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.instruments import Instruments
from monitoring.merge import Merge
from monitoring.metrics import METRICS
from monitoring.store import SEGMENT_SLOTS, TEMPORARY, Store

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
LABELS = ("m", "1", "t")
SERVED = ({"m"}, {("m", "1"), ("m", "2")})
TOKENS = ("tokens_total", (*LABELS, "real"))
QUEUE = ("queue_tokens", LABELS)
ROWS = ("batch_rows", LABELS)

COUNT = """
import sys
from pathlib import Path
from monitoring.instruments import Instruments
instruments = Instruments(Path(sys.argv[1]))
instruments.tokens_total.labels("m", "1", "t", "real").inc(5)
instruments.batch_rows.labels("m", "1", "t").observe(3)
instruments.queue_tokens.labels("m", "1", "t").set(7)
print("counted", flush=True)
sys.stdin.read()
"""


class Process:
    """Another process that has counted 5 tokens, a batch of 3 rows and a queue of 7."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COUNT, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "counted\n"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".index", ".values", ".new"))


def test_processes_count_together_and_a_killed_one_leaves_its_counts_but_not_its_gauges(tmp_path: Path) -> None:
    first, second = Process(tmp_path), Process(tmp_path)
    merge = Merge(tmp_path)
    found = merge.read()
    assert (found[TOKENS], found[QUEUE]) == ([10.0], [14.0])
    assert found[ROWS][0] == 6.0
    assert sum(found[ROWS][1:]) == 2.0
    first.kill()
    found = merge.read()
    assert (found[TOKENS], found[QUEUE]) == ([10.0], [7.0])
    second.kill()
    found = merge.read()
    assert found[TOKENS] == [10.0]
    assert QUEUE not in found


def test_restarts_leave_one_archive_and_never_turn_a_counter_back(tmp_path: Path) -> None:
    merge, seen = Merge(tmp_path), []
    for _ in range(5):
        process = Process(tmp_path)
        seen.append(merge.read()[TOKENS][0])
        process.kill()
        merge.fold(*SERVED)
        seen.append(merge.read()[TOKENS][0])
        assert len(names(tmp_path)) == 2, "an archive's index and its values"
    assert seen == [5, 5, 10, 10, 15, 15, 20, 20, 25, 25]
    assert Merge(tmp_path).read() == merge.read()


def test_folding_leaves_living_processes_alone(tmp_path: Path) -> None:
    living, ended = Process(tmp_path), Process(tmp_path)
    merge = Merge(tmp_path)
    ended.kill()
    merge.fold(*SERVED)
    assert (merge.read()[TOKENS], merge.read()[QUEUE]) == ([10.0], [7.0])
    living.kill()
    merge.fold(*SERVED)
    assert merge.read()[TOKENS] == [10.0]


@pytest.mark.parametrize("left", ["everything", "values only"])
def test_a_fold_that_is_cut_short_neither_loses_nor_doubles(tmp_path: Path, left: str) -> None:
    Process(tmp_path).kill()
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".index", ".values")}
    Merge(tmp_path).fold(*SERVED)
    for name, content in old.items():  # as if the removal after the archive had not happened, or half
        if left == "everything" or name.endswith(".values"):
            (tmp_path / name).write_bytes(content)
    merge = Merge(tmp_path)
    assert merge.read()[TOKENS] == [5.0]
    Process(tmp_path).kill()
    merge.fold(*SERVED)
    assert merge.read()[TOKENS] == [10.0]
    if left == "everything":
        assert len(names(tmp_path)) == 2


def test_a_line_that_is_not_whole_yet_is_left_for_the_next_scrape(tmp_path: Path) -> None:
    instruments = Instruments(tmp_path)
    instruments.tokens_total.labels(*LABELS, "real").inc(5)
    merge = Merge(tmp_path)
    (index,) = tmp_path.glob("*.index")
    line = json.dumps({"name": "queue_tokens", "labels": LABELS, "at": [0, 0, 1]}) + "\n"
    with index.open("a") as file:
        file.write(line[:20])
        file.flush()
        assert set(merge.read()) == {TOKENS}
        file.write(line[20:])
    assert set(merge.read()) == {TOKENS, QUEUE}
    instruments.store.close()


def test_an_unloaded_version_leaves_and_begins_anew(tmp_path: Path) -> None:
    instruments, merge = Instruments(tmp_path), Merge(tmp_path)
    for version in "12":
        instruments.tokens_total.labels("m", version, "t", "real").inc(5)
    instruments.forget("m", "1")
    assert set(merge.read()) == {("tokens_total", ("m", "2", "t", "real"))}
    instruments.tokens_total.labels(*LABELS, "real").inc(2)
    assert merge.read()[TOKENS] == [2.0]
    instruments.store.close()


def test_the_archive_forgets_what_is_not_served(tmp_path: Path) -> None:
    Process(tmp_path).kill()
    merge = Merge(tmp_path)
    merge.fold({"m"}, {("m", "2")})
    assert merge.read() == {}


def test_more_series_than_a_segment_takes(tmp_path: Path) -> None:
    instruments, merge = Instruments(tmp_path), Merge(tmp_path)
    slots = len(METRICS["request_duration_seconds"].buckets) + 2
    count = SEGMENT_SLOTS // slots + 2
    for number in range(count):
        instruments.request_duration_seconds.labels(*LABELS, "p", str(number)).observe(0.01)
    found = merge.read()
    assert len(found) == count
    assert all(sum(values[1:]) == 1 for values in found.values())
    assert len(list(tmp_path.glob("*.values"))) == 2
    instruments.store.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 600, allow_nan=False), max_size=20), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_a_histogram_of_many_processes_is_that_of_all_their_values(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[float]], ends: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    merge, everyone = Merge(folder), []
    for part, is_ended in zip(values, ends, strict=False):
        instruments = Instruments(folder)
        child = instruments.swap_duration_seconds.labels("m", "warm")
        for value in part:
            child.observe(value)
        if is_ended:
            instruments.store.close()
            merge.fold(*SERVED)
        else:
            everyone.append(instruments)
    flat, bounds = [value for part in values for value in part], METRICS["swap_duration_seconds"].buckets
    total, *counts = merge.read()["swap_duration_seconds", ("m", "warm")]
    assert total == pytest.approx(sum(flat))
    for upto, bound in enumerate((*bounds, float("inf")), 1):
        assert sum(counts[:upto]) == sum(value <= bound for value in flat)
    for instruments in everyone:
        instruments.store.close()


def test_without_a_folder_a_process_counts_for_itself() -> None:
    instruments = Instruments()
    instruments.tokens_total.labels(*LABELS, "real").inc(5)
    assert Merge(instruments.store.folder).read()[TOKENS] == [5.0]
    folder = instruments.store.folder
    instruments.store.close()
    assert not folder.exists()


def test_temporary_folders_of_killed_processes_are_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = "import os; from monitoring.store import Store; store = Store(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / f"{TEMPORARY}new").mkdir()
    first, second = Store(), Store()
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {f"{TEMPORARY}new", first.folder.name, second.folder.name}
    first.close()
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{TEMPORARY}new"]
