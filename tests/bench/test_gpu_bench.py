"""The benchmark of an engine on a GPU, with tiny models on a CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.gpu_client import Client, Feed
from serving.wire.messages import Outputs, TokenDeltas

ROOT = Path(__file__).resolve().parents[2]
MISSING = ("mlflow", "bentoml", "prometheus_client", "starlette", "opentelemetry", "uvicorn", "uvloop", "httptools")
"""What a machine that only computes may lack."""
CLIENTS, ROWS = 4, 16


pytestmark = [pytest.mark.server, pytest.mark.long]


class Replies:
    """A socket on which messages are."""

    def __init__(self, *messages: TokenDeltas | Outputs) -> None:
        self._messages = [msgspec.msgpack.encode(each) for each in messages]

    def poll(self, _: int) -> bool:
        return bool(self._messages)

    def recv(self) -> bytes:
        return self._messages.pop(0)


def test_a_client_tells_of_its_first_answer_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(Feed(address=f"ipc://{tmp_path}/nobody", lengths=[3], seed=0, under_way=ROWS))
    client._fill()
    told = []
    for message in (TokenDeltas([]), *(Outputs([number], [3], [], 0.0) for number in range(2))):
        client._take(Replies(message))
        told.append(capsys.readouterr().out)
    client._context.destroy(linger=0)
    assert told == ["", "answered\n", ""], "a message without tokens only asks whether it lives"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the benchmark prints where none of MISSING is installed, neither for it nor for its engines and clients."""
    folder = tmp_path_factory.mktemp("missing")
    (folder / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({MISSING}))")
    options = [
        "--device",
        "cpu",
        "--small",
        "--models",
        "base",
        "--mixes",
        "50,mixed",
        "--seconds",
        "1",  # in which an engine that waits for a processor answers, too
        "--rows",
        str(ROWS),
    ]
    command = [sys.executable, "-m", "bench.gpu", *options]
    environ = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_mix_is_measured_without_and_with_an_engine(report: str) -> None:
    for mix in ("50 tokens", "mixed"):
        lines = re.findall(rf"^\| {mix} +\| +(\w+) .*?\| +([\d,.]+) \| +([\d,.]+) \| +([\d.]+) \|", report, re.M)
        assert [name for name, *_ in lines] == ["bare", "plain", "engine"]
        assert all(float(value.replace(",", "")) >= 0 for _, *values in lines for value in values)
        assert lines[0][3] == "1.00"


def test_latency_is_measured_at_full_load_and_under_random_arrivals(report: str) -> None:
    for mix in ("50 tokens", "mixed"):
        for load in ("all of it", "0.77 of it at random"):
            (found,) = re.findall(rf"^\| {mix}, {load} +\| +([\d,.]+) \| +([\d.]+) \| +([\d.]+) \|$", report, re.M)
            per_second, p50, p99 = (float(value.replace(",", "")) for value in found)
            assert per_second > 0
            assert 0 < p50 <= p99


def test_the_engine_says_how_it_ran(report: str) -> None:
    assert "Execution: packed sequences, first-token pruning, TorchScript; float32; " in report


def test_no_row_is_lost_while_versions_are_swapped(report: str) -> None:
    for phase in ("one version", "the next one loads", "moved to it"):
        assert len(re.findall(rf"^\| {phase} +\| +[\d,.]+ \| +\d+ \| +\d+ \|$", report, re.M)) == 1
    (sent,) = re.findall(r"^([\d,]+) rows sent, 0 failed, 0 lost\.$", report, re.M)
    assert int(sent.replace(",", "")) >= CLIENTS * ROWS


def test_memory_comes_back(report: str) -> None:
    found = dict(re.findall(r"^\| ([a-z ]+?) +\| +([\d,]+) MiB \|$", report, re.M))
    used = {name: int(value.replace(",", "")) for name, value in found.items()}
    assert used["no engine"] == used["both unloaded"] == 0
    assert used["two engines"] > max(used["one engine"], used["the first one unloaded"])
    assert min(used["one engine"], used["the first one unloaded"]) > 0
