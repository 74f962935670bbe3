"""A batch through a server: order, bad rows, a full server, and a run that goes on where another one ended."""

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from registry.environment import InvalidSetting
from serving.client import batch_files
from serving.client.batch import ROWS, BatchRun
from serving.errors import RemoteError

COUNT = 5 * ROWS + 3
"""Rows: several requests, the last one not full."""


class Upper:
    """Stands for a server whose answers are the texts in capitals. refuse: raises for a request, by its inputs."""

    def __init__(self, refuse: Callable[[list[Any]], None] = lambda inputs: None) -> None:
        self._refuse = refuse
        self._lock = threading.Lock()
        self.asked: list[Any] = []

    def predict(self, name: str, body: dict[str, Any]) -> Any:
        assert name == "m"
        with self._lock:
            self._refuse(body["inputs"])
            self.asked += body["inputs"]
        return [text.upper() for text in body["inputs"]]


def texts(count: int = COUNT) -> list[str]:
    return [f"text {index}" for index in range(count)]


def write_lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_are_in_the_order_of_the_inputs_and_nothing_else_is_left(tmp_path: Path) -> None:
    batch = BatchRun(Upper(), "m", write_lines(tmp_path / "in.jsonl", texts()), tmp_path / "out.jsonl")
    told: list[int] = []
    assert batch.run(told.append) == (COUNT, 0)
    assert read_lines(tmp_path / "out.jsonl") == [text.upper() for text in texts()]
    assert told == [*range(ROWS, COUNT, ROWS), COUNT]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_bad_rows_get_null_and_a_reason_and_others_their_answers(tmp_path: Path) -> None:
    def refuse(inputs: list[Any]) -> None:
        if "text 40" in inputs:
            raise RemoteError("answered 422: no", 422)

    source = write_lines(tmp_path / "in.jsonl", texts())
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:7], "{broken", *lines[8:]]) + "\n")
    batch = BatchRun(Upper(refuse), "m", source, tmp_path / "out.jsonl")
    assert batch.run() == (COUNT, 2)
    expected = [None if index in (7, 40) else text.upper() for index, text in enumerate(texts())]
    assert read_lines(tmp_path / "out.jsonl") == expected
    found = read_lines(batch.errors)
    assert [(row["row"], row["input"]) for row in found] == [(7, "{broken"), (40, "text 40")]
    assert found[0]["reason"].startswith("no JSON")
    assert found[1]["reason"] == "answered 422: no"


def test_a_full_server_is_asked_again(tmp_path: Path) -> None:
    refused: list[int] = []

    def refuse(inputs: list[Any]) -> None:
        if len(refused) < 3:
            refused.append(len(inputs))
            raise RemoteError("full", 429)

    batch = BatchRun(Upper(refuse), "m", write_lines(tmp_path / "in.jsonl", texts()), tmp_path / "out.jsonl")
    assert batch.run() == (COUNT, 0)
    assert len(refused) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_other_row_would_change_ends_the_batch(tmp_path: Path, status: int) -> None:
    def refuse(inputs: list[Any]) -> None:
        raise RemoteError("never", status)

    batch = BatchRun(Upper(refuse), "m", write_lines(tmp_path / "in.jsonl", texts()), tmp_path / "out.jsonl")
    with pytest.raises(RemoteError, match="never"):
        batch.run()
    assert not (tmp_path / "out.jsonl").exists()


def test_a_batch_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    def break_off(inputs: list[Any]) -> None:
        if "text 100" in inputs:
            raise RemoteError("away", 503)

    values: list[Any] = texts()
    source, target = write_lines(tmp_path / "in.jsonl", values), tmp_path / "out.jsonl"
    source.write_text(source.read_text().replace('"text 5"', "{"))
    values[5] = None
    with pytest.raises(RemoteError, match="away"):
        BatchRun(Upper(break_off), "m", source, target, patience_seconds=0).run()
    part = tmp_path / "out.jsonl.part"
    done = len(read_lines(part))
    assert done == 100 // ROWS * ROWS
    with part.open("a") as file, (tmp_path / "out.jsonl.errors.jsonl").open("a") as errors:
        file.write('"half a li')  # as a kill may leave them
        errors.write(json.dumps({"row": done + 1, "reason": "of the next rows", "input": ""}) + "\n")
    server = Upper()
    assert BatchRun(server, "m", source, target).run() == (COUNT, 1)
    assert sorted(server.asked) == sorted(texts()[done:])
    assert read_lines(target) == [value and value.upper() for value in values]
    assert [row["row"] for row in read_lines(tmp_path / "out.jsonl.errors.jsonl")] == [5]


def test_tables_are_read_and_written(tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["1", "a, b"], ["2"], ["3", 'say "c"']])
    pyarrow.parquet.write_table(pyarrow.table({"only": ["a", "b"]}), tmp_path / "in.parquet")
    assert BatchRun(Upper(), "m", tmp_path / "in.csv", tmp_path / "out.parquet").run() == (3, 1)
    written = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert [json.loads(text) for text in written["output"]] == ["A, B", None, 'SAY "C"']
    assert BatchRun(Upper(), "m", tmp_path / "in.parquet", tmp_path / "out.csv").run() == (2, 0)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["output"], ['"A"'], ['"B"']]


def test_columns_without_a_text_are_the_fields_of_one_input(tmp_path: Path) -> None:
    class Answers:
        def predict(self, name: str, body: dict[str, Any]) -> Any:
            return body["inputs"]

    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"], "context": ["c"]}), tmp_path / "in.parquet")
    BatchRun(Answers(), "m", tmp_path / "in.parquet", tmp_path / "out.jsonl").run()
    assert read_lines(tmp_path / "out.jsonl") == [{"question": "q", "context": "c"}]


def test_what_answers_otherwise_than_asked_ends_the_batch(tmp_path: Path) -> None:
    class One:
        def predict(self, name: str, body: dict[str, Any]) -> Any:
            return ["one"]

    batch = BatchRun(One(), "m", write_lines(tmp_path / "in.jsonl", texts()), tmp_path / "out.jsonl")
    with pytest.raises(RemoteError, match="no list of as many answers: see that the URL"):
        batch.run()


@pytest.mark.parametrize(("source", "target"), [("in.txt", "out.jsonl"), ("in.jsonl", "out"), ("in.jsonl", "in.jsonl")])
def test_files_that_cannot_be_are_refused(tmp_path: Path, source: str, target: str) -> None:
    write_lines(tmp_path / source, ["a"])
    with pytest.raises(InvalidSetting, match="known|already"):
        BatchRun(Upper(), "m", tmp_path / source, tmp_path / target)


def test_rows_that_cannot_be_sent_or_written_are_bad_rows(tmp_path: Path) -> None:
    def refuse(inputs: list[Any]) -> None:
        if "\ud800" in inputs:
            raise RemoteError("answered 400: a lone surrogate", 400)

    source = tmp_path / "in.jsonl"
    source.write_bytes(b'"good"\n"\\ud800"\n' + b"[" * 100_000 + b'\n"\xff"\n"good"\n')
    batch = BatchRun(Upper(refuse), "m", source, tmp_path / "out.jsonl")
    assert batch.run() == (5, 3)
    assert read_lines(tmp_path / "out.jsonl") == ["GOOD", None, None, None, "GOOD"]
    found = read_lines(batch.errors)
    assert [row["row"] for row in found] == [1, 2, 3]
    assert found[0]["input"] == "\ud800"
    assert found[1]["reason"] == "no JSON: it is nested too deeply"
    assert found[2]["input"] == '"\\xff"'


def test_an_answer_that_is_no_text_of_unicode_is_written(tmp_path: Path) -> None:
    class Surrogates(Upper):
        def predict(self, name: str, body: dict[str, Any]) -> Any:
            return ["\ud800" for _ in super().predict(name, body)]

    for ending in (".jsonl", ".csv", ".parquet"):
        target = tmp_path / f"out{ending}"
        assert BatchRun(Surrogates(), "m", write_lines(tmp_path / "in.jsonl", ["a"]), target).run() == (1, 0)
    assert read_lines(tmp_path / "out.jsonl") == ["\ud800"]


def test_a_long_field_of_a_table_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"text\ngood\n{'x' * 140_000}\n")
    assert BatchRun(Upper(), "m", source, tmp_path / "out.jsonl").run() == (2, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\ngood\nr\xe9sum\xe9\n", r"in\.csv is not UTF-8 .* save it in UTF-8"),
        (b"text\ngood\n" + b"x" * 20 + b"\n", r"in\.csv, line 3, is no CSV \(field larger than.* mend it"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(batch_files, "MAX_FIELD_CHARACTERS", 10)
    limit = csv.field_size_limit()
    source = tmp_path / "in.csv"
    source.write_bytes(content)
    with pytest.raises(InvalidSetting, match=message):
        BatchRun(Upper(), "m", source, tmp_path / "out.jsonl").run()
    csv.field_size_limit(limit)
