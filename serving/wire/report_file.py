"""A record in a file that is replaced in one step."""

from pathlib import Path

import msgspec

from registry.atomic_file import replace_file


def write_report(path: Path, report: msgspec.Struct) -> None:
    """Replace the file in one step, so that a reader sees the old or the new one whole. Raises OSError."""
    replace_file(path, msgspec.json.encode(report))
