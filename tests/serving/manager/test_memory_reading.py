"""What is read of a process' memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.manager import memory_reading
from serving.manager.memory_reading import Memory, MemoryReader, highest_bytes

pytestmark = pytest.mark.slow


MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "own", "at_most"),
    [
        (Memory(100, 20, 30, 250), 50, 200),
        (Memory(100, 20, 30, 90), 50, 50),
        (Memory(100, 20, 30), 50, 50),
        (Memory(10, 20, 30, 40), 0, 0),
        (Memory(), 0, 0),
    ],
)
def test_own_memory_is_what_no_file_and_no_other_process_has(memory: Memory, own: int, at_most: int) -> None:
    assert (memory.own, memory.own_at_most) == (own, at_most)


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
def test_memory_that_was_taken_for_a_moment_is_known_later() -> None:
    before = highest_bytes(Path("/proc/self/status"))
    taken = b"x" * (before + 64 * MIB)
    del taken
    memory = MemoryReader().read(os.getpid())
    assert memory.highest >= before + 64 * MIB
    assert memory.own_at_most > memory.own


def test_a_file_without_the_figure_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name: x\nVmHWM: many kB\n")
    assert highest_bytes(tmp_path / "status") == 0


def test_a_process_that_ends_while_it_is_read_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    read = memory_reading.inherited_bytes
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun

        def end_and_read(rollup: Path) -> int:
            process.kill()
            process.wait()
            return read(rollup)

        assert MemoryReader().read(process.pid).own_at_most > 0
        monkeypatch.setattr(memory_reading, "inherited_bytes", end_and_read)
        assert MemoryReader().read(process.pid) == Memory()
