"""A wall clock that can be set for the processes of a server, and for no others of the machine."""

import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

SOURCE = Path(__file__).with_suffix(".c")


class SteppedClock:
    """environment: the variables of processes that are to have this clock. It begins as the machine's."""

    def __init__(self, library: Path) -> None:
        """library: the compiled SOURCE."""
        preloaded = os.environ.get("LD_PRELOAD")
        self.environment: Mapping[str, str] = {"LD_PRELOAD": f"{library}:{preloaded}" if preloaded else str(library)}
        self._file = library.with_name(f"{library.name}.ahead")
        self._file.write_bytes(bytes(8))
        with self._file.open("r+b") as opened:
            self._ahead = mmap.mmap(opened.fileno(), 8)

    @classmethod
    def make(cls, folder: Path) -> Self | None:
        """A clock whose files are in `folder`; None where there is no C compiler, or the system is not Linux."""
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            return None
        library = folder / "clock.so"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, check=False)
        return None if done.returncode else cls(library)

    def set(self, seconds: int) -> None:
        """Let the clock be so far ahead of the machine's, or behind it."""
        self._ahead[:] = seconds.to_bytes(8, sys.byteorder, signed=True)

    def is_of(self, pid: int) -> bool:
        """Whether that process has this clock, as it has mapped its file; also true of one that has ended."""
        try:
            maps = Path(f"/proc/{pid}/maps").read_bytes()
        except OSError:
            return True
        return not maps or os.fsencode(self._file) in maps
