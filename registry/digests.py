"""sha256 of an artifact's files: made at logging, checked on the very bytes that are loaded."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from registry.errors import DigestMismatch, IncompleteArtifact
from registry.plain_files import list_plain, open_plain


def digest_folder(root: Path, folder: str) -> dict[str, str]:
    """Path relative to `root` → sha256 in hex, for every file under `root/folder`, sorted by path.

    Raises UnsafeArtifact for a file that is not served.
    """
    return {name: digest_file(root, name) for name in list_plain(root, folder)}


def digest_file(root: Path, name: str) -> str:
    """sha256 in hex of the file's bytes; reads it in blocks. Raises as `open_plain`."""
    with open_plain(root, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_names(found: Iterable[str], files: Mapping[str, str]) -> None:
    """Check that the names are those of the contract's `files`.

    Raises IncompleteArtifact for a missing one, DigestMismatch for one that is too many.
    """
    names = set(found)
    for name in files:
        if name not in names:
            raise IncompleteArtifact(f"{name} is missing from the artifact; the contract lists it: log the model again")
    for name in sorted(names - files.keys()):
        raise DigestMismatch(
            f"{name} is in the artifact but not in its contract: somebody added it after logging; remove it, or log "
            "the model again"
        )


def check_digest(name: str, digest: str, expected: str) -> None:
    """Raise DigestMismatch where the file's sha256 is not the one that the contract records."""
    if digest != expected:
        raise DigestMismatch(
            f"{name} has sha256 {digest[:12]}…, the contract says {expected[:12]}…: "
            "the file changed after logging; log the model again or restore the file"
        )


def verify_folder(root: Path, folder: str, files: Mapping[str, str]) -> None:
    """Check that `root/folder` holds exactly `files` with those digests. Raises ArtifactError."""
    check_names(list_plain(root, folder), files)
    for name, expected in files.items():
        check_digest(name, digest_file(root, name), expected)
