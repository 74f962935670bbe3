"""The command line of this process, as `ps` shows it."""

import ctypes
from pathlib import Path


def show_command_line(arguments: list[str], stat: Path = Path("/proc/self/stat")) -> bool:
    """Show `arguments` as this process' command line, for example after a fork. Returns whether they are shown.

    They replace the original ones in place, so they must not be longer; shorter ones are shown with empty arguments
    behind them. Only on Linux, where `proc_pid_stat(5)` tells the memory range, fields 48 and 49.
    """
    try:
        fields = stat.read_text().rpartition(") ")[2].split()  # from field 3 on
    except OSError:
        return False
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(argument.encode(errors="surrogateescape") + b"\0" for argument in arguments)
    if not 0 < len(text) <= end - start:
        return False
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    return True
