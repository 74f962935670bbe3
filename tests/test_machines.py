from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import machines


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs variations of which one passes, one fails and one cannot be; gives status and lines."""

    @contextmanager
    def place(status: int) -> Iterator[machines.Place]:
        if status < 0:
            raise machines.Missing("there is none")
        program = tmp_path / f"python{status}"
        program.write_text(f'#!/bin/sh\necho collected\necho "=== $STATE of $*, $(pwd) ==="\nexit {status}\n')
        program.chmod(0o755)
        yield machines.Place({"STATE": f"status {status}"}, str(program), tmp_path)

    made = {
        name: ("processor", lambda status=status: place(status)) for name, status in (("a", 0), ("b", 1), ("c", -1))
    }
    monkeypatch.setattr(machines, "VARIATIONS", made)
    monkeypatch.setattr(machines, "OUTPUT", tmp_path / "out")

    def run(*given: str) -> tuple[int, list[str]]:
        status = machines.main(given)
        return status, capsys.readouterr().out.splitlines()

    return run


def test_each_variation_has_its_line_and_the_whole_output_of_a_failed_one_is_shown(lines: Any, tmp_path: Any) -> None:
    last = f"of -m pytest -m processor, {tmp_path}"
    assert lines("a", "c") == (0, [f"a: status 0 {last}", "c: left out: there is none"])
    failed = ["collected", f"=== status 1 {last} ===", f"b: status 1 {last}"]
    assert lines() == (1, [f"a: status 0 {last}", *failed, "c: left out: there is none"])
    assert (tmp_path / "out" / "b.log").read_text().startswith("collected\n")


def test_what_stands_behind_two_dashes_is_pytests(lines: Any, tmp_path: Any) -> None:
    assert lines("a", "--", "-x", "tests/one.py") == (
        0,
        [f"a: status 0 of -m pytest -m processor -x tests/one.py, {tmp_path}"],
    )


def test_an_unknown_variation_is_refused_with_those_there_are(lines: Any) -> None:
    assert lines("a", "d") == (2, ["no variation d: choose among a, b, c"])
