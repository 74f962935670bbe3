"""sha256 of an artifact's files: made at logging, checked before anything is loaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from registry.errors import DigestMismatch, IncompleteArtifact


def digest_folder(root: Path, folder: str) -> dict[str, str]:
    """Path relative to `root` → sha256 in hex, for every file under `root/folder`, sorted by path."""
    paths = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): digest_file(path) for path in paths}


def digest_file(path: Path) -> str:
    """sha256 in hex of the file's bytes; reads it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_folder(root: Path, folder: str, files: Mapping[str, str]) -> None:
    """Check that `root/folder` holds exactly `files` with those digests.

    Raises IncompleteArtifact for a missing file, DigestMismatch for a changed or an extra one.
    """
    for name in files:
        if not (root / name).is_file():
            raise IncompleteArtifact(f"{name} is missing from the artifact; the contract lists it: log the model again")
    found = digest_folder(root, folder)
    for name, digest in found.items():
        expected = files.get(name)
        if expected is None:
            raise DigestMismatch(f"{name} is in the artifact but not in its contract: somebody added it after logging")
        if digest != expected:
            raise DigestMismatch(
                f"{name} has sha256 {digest[:12]}…, the contract says {expected[:12]}…: "
                "the file changed after logging; log the model again or restore the file"
            )
