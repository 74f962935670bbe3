"""The files of a batch: inputs from JSON lines, CSV or Parquet, and answers to them. Next: batch."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.environment import InvalidSetting
from registry.layout import TEXT_COLUMNS

PARQUET_ROWS = 10_000
"""Rows of a part of a file that is read or written at once."""


MAX_FIELD_CHARACTERS = 1 << 26
"""Of a field of a CSV file, for which Python's own limit is 131,072. Servers take no request of this size."""


@dataclass(frozen=True)
class InputRow:
    """A row of the input. number: from 0. problem: why it is no input; empty for one that can be asked."""

    number: int
    input: Any
    problem: str = ""


def kind_of(path: Path) -> str:
    """The file's kind by its ending. Raises InvalidSetting."""
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise InvalidSetting(f"{path} is of no kind that is known: choose .jsonl, .csv or .parquet")
    return path.suffix


def read_rows(path: Path) -> Iterator[InputRow]:
    """The rows in order. An empty line of a .jsonl file is no row. Raises OSError, InvalidSetting."""
    readers: dict[str, Callable[[Path], Iterator[InputRow]]] = {
        ".jsonl": _read_lines,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    return readers[kind_of(path)](path)


def write_answers(part: Path, path: Path) -> None:
    """Make `path` of the JSON lines in `part`, which goes. In a table they are the column `output`, as JSON."""
    kind = kind_of(path)
    if kind == ".jsonl":
        part.replace(path)
        return
    staging = path.with_name(f"{path.name}.new")
    with part.open(encoding="utf-8") as file:
        lines = (line.rstrip("\n") for line in file)
        _write_csv(staging, lines) if kind == ".csv" else _write_parquet(staging, lines)
    staging.replace(path)
    part.unlink()


def _read_lines(path: Path) -> Iterator[InputRow]:
    with path.open("rb") as file:
        for number, line in enumerate(line for line in file if line.strip()):
            try:
                found = json.loads(line)
                json.dumps([[[[found]]]])  # as deep as in a request, or in the file of bad rows
            except (ValueError, RecursionError) as error:
                reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
                yield InputRow(number, line.decode(errors="backslashreplace").rstrip("\n"), f"no JSON: {reason}")
            else:
                yield InputRow(number, found)


def _read_csv(path: Path) -> Iterator[InputRow]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(_records(csv.DictReader(file), path)):
            if None in row or None in row.values():
                yield InputRow(
                    number, {str(name): value for name, value in row.items()}, "not as many fields as the header"
                )
            else:
                yield InputRow(number, _input_of(row))


def _records(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, Any]]:
    """The reader's rows. Raises InvalidSetting where the file is no CSV, or not in UTF-8."""
    try:
        yield from reader
    except UnicodeDecodeError as error:
        raise InvalidSetting(
            f"{path} is not UTF-8 somewhere after line {reader.line_num} ({error.reason}): save it in UTF-8, then "
            "start the batch again"
        ) from error
    except csv.Error as error:
        raise InvalidSetting(
            f"{path}, line {reader.line_num + 1}, is no CSV ({error}): mend it (a quote that is never closed makes one "
            "field of all that follows), then start the batch again"
        ) from error


def _read_parquet(path: Path) -> Iterator[InputRow]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(PARQUET_ROWS) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            found = _input_of(row)
            try:
                json.dumps(found, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                yield InputRow(number, repr(found), f"no JSON: {error}")
            else:
                yield InputRow(number, found)


def _input_of(row: Mapping[str, object]) -> object:
    """The text column, or the only one; else all of them by name, as the fields of one input."""
    names = [name for name in TEXT_COLUMNS if name in row] or (list(row) if len(row) == 1 else [])
    return row[names[0]] if names else dict(row)


def _write_csv(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["output"])
        writer.writerows([line] for line in lines)


def _write_parquet(path: Path, lines: Iterator[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("output", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while rows := [line for line, _ in zip(lines, range(PARQUET_ROWS), strict=False)]:
            writer.write_table(pyarrow.table({"output": rows}, schema=schema))
