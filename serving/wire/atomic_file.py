"""A file that is replaced in one step: its one writer, and readers that see the old or the new one whole."""

import os
from pathlib import Path

import msgspec


def write_report(path: Path, report: msgspec.Struct) -> None:
    """Replace the file in one step, so that a reader sees the old or the new one whole."""
    staging = path.with_suffix(f".{os.getpid()}.tmp")
    staging.write_bytes(msgspec.json.encode(report))
    os.replace(staging, path)
