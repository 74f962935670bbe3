"""A file that is replaced in one step: writers anywhere, and readers that see the old or the new one whole."""

import os
import tempfile
import time
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file in one step. Raises OSError, and then nothing is left beside it.

    Several processes may replace it at once, in containers of their own too: the last one's content stays. Inode and
    time tell whether the file was replaced. The kernel's own time advances in steps of milliseconds, and a new file may
    get the inode of the one before it, so each gets the exact time.
    """
    descriptor, staging = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            now = time.time_ns()
            os.utime(descriptor, ns=(now, now))
        os.replace(staging, path)
    except BaseException:
        Path(staging).unlink()
        raise
