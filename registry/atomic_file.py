"""A file that is replaced in one step: writers anywhere, and readers that see the old or the new one whole."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file in one step. Raises OSError, and then nothing is left beside it.

    Several processes may replace it at once, in containers of their own too: the last one's content stays.
    """
    descriptor, staging = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(staging, path)
    except BaseException:
        Path(staging).unlink()
        raise
