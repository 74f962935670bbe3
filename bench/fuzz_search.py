"""`python -m bench.fuzz_search TARGET [options of libFuzzer]`: atheris searches for bytes that a target cannot take."""

import importlib
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris

WATCHED = ["serving", "bench.fuzz_bytes", "PIL", "uvicorn.protocols"]
"""Packages whose branches lead the search."""


def main() -> None:
    """Search from the target's seeds on."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=WATCHED):
        found = importlib.import_module("bench.fuzz_bytes")
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(found.SEEDS[name]):
            Path(folder, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, folder], partial(found.attempt, name))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
