"""The command line of this process, as `ps` shows it; only on Linux, where `proc_pid_stat(5)` tells where it lies."""

import ctypes
from pathlib import Path

START_FIELD, END_FIELD = 48, 49
"""Of `/proc/self/stat`: the memory range of the command line."""


def fits_command_line(arguments: list[str]) -> bool:
    """Whether these arguments are no longer than those that this process was started with."""
    start, end = _range()
    return len(_encode(arguments)) <= end - start


def show_command_line(arguments: list[str]) -> None:
    """Show `arguments`, which must fit, as this process' command line. Shorter ones end with empty arguments."""
    start, end = _range()
    text = _encode(arguments)
    assert len(text) <= end - start
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _encode(arguments: list[str]) -> bytes:
    return b"".join(argument.encode(errors="surrogateescape") + b"\0" for argument in arguments)


def _range() -> tuple[int, int]:
    fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()  # from field 3 on
    return int(fields[START_FIELD - 3]), int(fields[END_FIELD - 3])
