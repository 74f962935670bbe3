import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.headwaiter_server import Engine
from bench.peer_comparison import (
    Measured,
    Skipped,
    highest_score,
    measure_peer,
    memory_bytes,
    reason,
    render,
)
from bench.peers.catalog import PEERS, Peer
from bench.peers.environments import MARK, install
from bench.processes import BenchError, serving
from bench.results import LoadResult
from tests.e2e.server import free_port


def served(name: str, short: float, mixed: float, *, batches: bool = False) -> Measured:
    rates = {"short": short, "mixed": mixed}
    best = {mix: LoadResult(32, 1.0, int(rate), rate, 1.0, 2.0, 3.0, {}, 0.1) for mix, rate in rates.items()}
    return Measured(name, batches, best, dict.fromkeys(rates, "0"), 1_500_000_000, 2.5)


def cells(report: str, first: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] == first]


OURS = [served("Headwaiter", 900.0, 300.0, batches=True), served("Headwaiter", 1100.0, 500.0, batches=True)]
BATCHING = served("Batching", 200.0, 100.0, batches=True)
SINGLE = served("Single", 500.0, 320.0)


def test_peers_are_ranked_and_held_against_the_mean_of_both_runs_of_headwaiter() -> None:
    report = render(OURS, [BATCHING, SINGLE], "float32")
    assert [cells(report, f"short, {name}")[0][1:3] for name in ("Single", "Batching")] == [
        ["500", "2.0 ×"],
        ["200", "5.0 ×"],
    ]
    assert [row[1] for row in cells(report, "mixed, Headwaiter")] == ["300", "500"]
    assert cells(report, "mixed, Batching")[0] == [
        "mixed, Batching", "100", "4.0 ×", "1", "3", "32", "0", "1,500", "2.5"
    ]  # fmt: skip
    assert report.index("short, Single") < report.index("short, Batching")


def test_the_goals_count_only_servers_that_batch_where_they_say_so() -> None:
    report = render(OURS, [BATCHING, SINGLE], "float32")
    assert "mixed texts: 4.0 times the best batching server, Batching; the goal of 4.0 times is reached" in report
    assert "mixed texts: 1.2 times the best of all, Single; the goal of 1.3 times is not reached" in report
    assert "short texts: 2.0 times the best of all, Single; the goal of 2.5 times is not reached" in report


def test_a_skipped_peer_is_a_row_with_its_reason_and_no_rival() -> None:
    report = render(OURS, [Skipped("Absent", "no wheel")], "float32")
    assert cells(report, "Absent: skipped: no wheel")
    assert report.count("no server to compare with was measured") == 3


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "it does not install:\nERROR: No matching distribution\n[notice] a new pip\n",
            "ERROR: No matching distribution",
        ),
        ("[…] ended:\nTraceback:\n  File x\nImportError: cannot import y\n  ~~~^^\n", "ImportError: cannot import y"),
        ("was not ready after 180 s:\n", "was not ready after 180 s:"),
        ("", "unknown"),
        ("Error: " + "x" * 500, "Error: " + "x" * 153),
    ],
)
def test_the_reason_is_the_line_that_says_what_is_wrong(message: str, expected: str) -> None:
    assert reason(BenchError(message)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([{"label": "a", "score": 0.25}, {"label": "b", "score": 0.5}], 0.5),
        ([{"a": 0.25, "b": 0.75}], 0.75),
        ({"data": [[{"label": "a", "score": 0.5}]], "created": 1764000000.5, "usage": {"total_tokens": 12}}, 0.5),
        ({"predictions": []}, 0.0),
    ],
)
def test_the_highest_score_is_found_whatever_the_shape_of_the_answer(answer: Any, expected: float) -> None:
    assert highest_score(answer) == expected


def test_a_peer_that_ends_while_it_starts_is_skipped() -> None:
    found = measure_peer(Peer("Broken", ("no_such_module",)), Path(), Engine("float32", "cpu"), 0.5, {}, 0.1)
    assert isinstance(found, Skipped)
    assert "no_such_module" in found.reason


def test_a_peer_that_does_not_install_is_skipped_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "ERROR: no")
    )
    peer = Peer("Not there", ("pip",), requirements=("not-there==1",))
    found = measure_peer(peer, Path(), Engine("float32", "cpu"), 0.5, {}, 0.1)
    assert found == Skipped("Not there", "ERROR: no")
    assert not (tmp_path / "headwaiter-bench" / "peers" / "not-there").exists()


def test_an_environment_is_made_again_only_where_its_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = []

    def run(command: Sequence[str], **_: object) -> "subprocess.CompletedProcess[str]":
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir(parents=True)
        else:
            installed.append(command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    for requirement in ("a==1", "a==1", "a==2"):
        python = install("peer", [requirement], folder=tmp_path)
    assert installed == ["a==1", "a==2"]
    assert Path(python).parents[1] == tmp_path / "peer"
    assert (tmp_path / "peer" / MARK).is_file()


def test_every_peer_has_an_environment_of_its_own_or_the_projects() -> None:
    folders = [peer.folder for peer in PEERS if peer.requirements]
    assert len(set(folders)) == len(folders)
    assert all(folder.replace("-", "").isalnum() for folder in folders)


def test_a_server_is_ready_once_it_answers_a_posted_body_and_its_memory_is_counted(tmp_path: Path) -> None:
    port = free_port()
    command = ["uvicorn", "bench.peers.echo:app", "--port", str(port), "--log-level", "warning"]
    with serving(command, os.environ, f"http://127.0.0.1:{port}/", tmp_path / "log", ready_body=b"{}") as pid:
        assert memory_bytes(pid) > 1e6
    with (
        pytest.raises(BenchError, match="ended"),
        serving(["no_such_module"], os.environ, "http://127.0.0.1:9/", tmp_path / "log", python=sys.executable),
    ):
        pass
