"""`headwaiter batch` with a real encoder on a real server: all kinds of files, rows that are bad, and a kill."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from bench.models import minilm_classifier
from registry.errors import CheckpointWarning
from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.alike import assert_alike
from tests.e2e.server import Server, inherited, invoke, wait_until

pytestmark = pytest.mark.long


COUNT = 1200
"""Rows of the batch that is killed: seconds of work, and what is killed has answered the first of them only."""
BAD = {7: "{broken", 500: '""'}
"""Lines that are no input of the model: no JSON, and an empty text."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of MiniLM with a classification head."""
    home = tmp_path_factory.mktemp("h")
    settings = RegistrySettings.from_environment({"HEADWAITER_HOME": str(home)})
    with pytest.warns(CheckpointWarning, match="labels have no names"):
        log_model(minilm_classifier(), task="text-classification", name="minilm", dtype="float32", settings=settings)
    Versions(settings).promote("minilm", "1", why="start")
    with Server(home, ("minilm",)) as running:
        yield running


def texts(count: int) -> list[str]:
    """Different texts of 1 to 40 words."""
    return [f"parcel {index}" + " came late" * (index * 7 % 20) for index in range(count)]


def answers_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_batch_that_is_killed_goes_on_and_bad_rows_are_told(server: Server, tmp_path: Path) -> None:
    inputs = texts(COUNT)
    lines = [BAD.get(index, json.dumps(text)) for index, text in enumerate(inputs)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part, command = tmp_path / "out.jsonl.part", ("batch", "minilm", str(source), str(target), "--url", server.url)
    started = [sys.executable, "-m", "serving.commands.main", *command]
    with subprocess.Popen(started, env=inherited(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as killed:
        wait_until(lambda: part.exists() and part.stat().st_size, "some rows are answered")
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    kept = part.read_bytes()
    assert not target.exists()
    assert 0 < kept.count(b"\n") < COUNT

    done = invoke(server.home, *command)
    assert done.stdout == f"{COUNT} rows, 2 of them bad: {target}.errors.jsonl\n"
    assert target.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert not part.exists()
    found = answers_of(target)
    assert len(found) == COUNT
    assert [index for index, answer in enumerate(found) if answer is None] == list(BAD)
    for at in range(0, COUNT, 97):  # each with its neighbour, as the order is
        chosen = [index for index in (at, at + 1) if index < COUNT and index not in BAD]
        assert_alike([found[index] for index in chosen], server.ask("minilm", [inputs[index] for index in chosen]))
    bad = answers_of(Path(f"{target}.errors.jsonl"))
    assert [(row["row"], row["input"]) for row in bad] == [(7, "{broken"), (500, "")]
    assert "no JSON" in bad[0]["reason"]
    assert "empty text" in bad[1]["reason"]


def test_tables_give_the_same_answers_in_order(server: Server, tmp_path: Path) -> None:
    inputs = [*texts(99), 'a "quoted", one']
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([index, text] for index, text in enumerate(inputs))])
    pyarrow.parquet.write_table(pyarrow.table({"text": inputs}), tmp_path / "in.parquet")
    expected = server.ask("minilm", inputs)
    for source, target in (("in.csv", "out.parquet"), ("in.parquet", "out.csv")):
        files = (f"{tmp_path / source}", f"{tmp_path / target}")
        done = invoke(server.home, "batch", "minilm", *files, "--url", server.url)
        assert done.stdout == "100 rows, 0 of them bad\n"
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").column("output").to_pylist()
    assert_alike([json.loads(answer) for answer in found], expected)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert_alike([json.loads(row["output"]) for row in csv.DictReader(file)], expected)
