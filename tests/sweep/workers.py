"""Child processes that try the cells of one family each: a crash, a leak or a loop costs a cell and not the sweep."""

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.sweep.cell import Cell

Attempt = Callable[[str, str, Path], Cell]
"""What is done with a cell: its family, its task and an empty folder."""
CELL_SECONDS = 240.0
MAX_BYTES = 3 << 30
"""Private memory of a child."""


@dataclass
class _Child:
    """A family's process. tasks: not yet answered for. root: of its files, which go when it ends."""

    process: BaseProcess
    connection: Connection
    family: str
    tasks: deque[str]
    root: Path
    began: float = field(default_factory=time.monotonic)


def run_families(families: Iterable[tuple[str, list[str]]], workers: int, attempt: Attempt) -> Iterator[Cell]:
    """The cells of each (family, tasks), as they are found."""
    waiting = deque((family, deque(tasks)) for family, tasks in families)
    children: list[_Child] = []
    while waiting or children:
        while waiting and len(children) < workers:
            children.append(_start(*waiting.popleft(), attempt))
        ready = wait([child.connection for child in children], timeout=5.0)
        for child in list(children):
            cell = _read(child, child.connection in ready)
            if cell is None:
                continue
            yield cell
            child.tasks.popleft()
            child.began = time.monotonic()
            if cell.detail.startswith("ended") or not child.tasks:
                _end(child)
                children.remove(child)
                if child.tasks:
                    waiting.appendleft((child.family, child.tasks))


def _read(child: _Child, is_ready: bool) -> Cell | None:
    """What the child has found; a fault where it has ended or is overdue."""
    task = child.tasks[0]
    if is_ready:
        try:
            found: Cell = child.connection.recv()
        except EOFError:
            child.process.join(5)
            return Cell(child.family, task, "fault", f"ended with status {child.process.exitcode}")
        return found
    if time.monotonic() - child.began > CELL_SECONDS:
        return Cell(child.family, task, "fault", f"ended after {CELL_SECONDS:.0f} s without an answer")
    return None


def _start(family: str, tasks: deque[str], attempt: Attempt) -> _Child:
    here, there = multiprocessing.Pipe()
    root = Path(tempfile.mkdtemp(prefix="headwaiter-family-"))
    arguments = (there, family, list(tasks), root, attempt)
    process = multiprocessing.get_context("fork").Process(target=_run, args=arguments, daemon=True)
    process.start()
    there.close()
    return _Child(process, here, family, tasks, root)


def _end(child: _Child) -> None:
    child.process.kill()
    child.process.join()
    child.connection.close()
    shutil.rmtree(child.root, ignore_errors=True)


def _run(connection: Connection, family: str, tasks: list[str], root: Path, attempt: Attempt) -> None:
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # transformers and torch warn of what is chosen here
    for task in tasks:
        (root / task).mkdir()
        connection.send(attempt(family, task, root / task))
    connection.close()
