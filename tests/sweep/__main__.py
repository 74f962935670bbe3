"""Every architecture and head that is served: logged and answered as by transformers, or refused with a reason.

    python -m tests.sweep [--workers N] [--write] [--resume] [--adapters] [FAMILY…]

Prints a line a cell and then the table of docs/tasks.md. The status is 1 if an answer differs, logging or loading fails
without a reason, or the page has another table; `--write` rewrites that. With families named, only these are tried and
the page is left alone. With `--resume` the cells that an earlier run found are not tried again. With `--adapters` each
model gets a LoRA adapter, and the merged model is compared with PEFT's own; the page is left alone, too.
"""

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

from registry.served_classes import FactsFile, find_served
from tests.sweep.adapters import try_adapter
from tests.sweep.cell import Cell, try_cell
from tests.sweep.table import COLUMNS, find_differences, read_page, render, write_page
from tests.sweep.workers import Attempt, run_families

OUTPUT = Path(os.environ.get("SWEEP_OUTPUT") or Path(__file__).resolve().parents[2] / "build" / "families")
RESULTS: dict[Attempt, Path] = {try_cell: OUTPUT / "cells.jsonl", try_adapter: OUTPUT / "adapters.jsonl"}


def list_cells() -> tuple[dict[str, list[str]], list[Cell]]:
    """Family → tasks to try, and the cells that are refused for the class alone. Blocks: imports every class."""
    facts = FactsFile(OUTPUT)
    tasks: dict[str, list[str]] = {}
    refused = []
    for task in COLUMNS:
        served, reasons = find_served(task, facts.facts_of)
        for family in served:
            tasks.setdefault(family, []).append(task)
        refused += [Cell(family, task, "refused", f"the class {reason}") for family, reason in reasons.items()]
    facts.save()
    heads = {cell.family for cell in refused if cell.task != "feature-extraction"} | tasks.keys()
    return tasks, [cell for cell in refused if cell.family in heads]


def read_results(results: Path) -> list[Cell]:
    """What earlier runs found."""
    lines = results.read_bytes().splitlines() if results.exists() else []
    return [msgspec.json.decode(line, type=Cell) for line in lines]


def sweep(tasks: dict[str, list[str]], known: Iterable[Cell], workers: int, attempt: Attempt) -> Iterable[Cell]:
    """The cells that are not known, each printed and kept as soon as it is found."""
    done = {(cell.family, cell.task) for cell in known}
    left = {family: [task for task in names if (family, task) not in done] for family, names in tasks.items()}
    waiting = [(family, names) for family, names in sorted(left.items()) if names]
    with RESULTS[attempt].open("ab") as file:
        for cell in run_families(waiting, workers, attempt):
            print(f"{cell.family:24} {cell.task:26} {cell.found}{': ' * bool(cell.detail)}{cell.detail}", flush=True)
            file.write(msgspec.json.encode(cell) + b"\n")
            file.flush()
            yield cell


def main(given: Sequence[str]) -> int:
    """The process' exit status."""
    parser = argparse.ArgumentParser(prog="tests.sweep", description="Sweep over every family and head.")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--adapters", action="store_const", dest="attempt", const=try_adapter, default=try_cell)
    options = parser.parse_args(given)
    OUTPUT.mkdir(exist_ok=True, parents=True)
    if not options.resume:
        RESULTS[options.attempt].unlink(missing_ok=True)
    reader = multiprocessing.get_context("fork").Process(target=list_cells)  # its imports take gigabytes
    reader.start()
    reader.join()
    tasks, cells = list_cells()
    if options.families:
        tasks = {family: tasks.get(family, []) for family in options.families}
        cells = [cell for cell in cells if cell.family in tasks]
    known = [cell for cell in read_results(RESULTS[options.attempt]) if cell.task in tasks.get(cell.family, ())]
    cells += [*known, *sweep(tasks, known, options.workers, options.attempt)]
    bad = [cell for cell in cells if cell.found in ("differs", "fault")]
    if options.attempt is try_adapter:
        print(*(f"{count} cells {found}" for found, count in Counter(cell.found for cell in cells).items()), sep="\n")
        return bool(bad)
    table = render(cells)
    print(table)
    print(f"{len(cells)} cells, {len(bad)} of them wrong")
    if options.families:
        return bool(bad)
    if options.write:
        write_page(table)
    elif differences := find_differences(table, read_page()):
        print("docs/tasks.md has another table: run `make test-families ARGS=--write`", *differences, sep="\n")
        return 1
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
